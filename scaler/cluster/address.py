"""Choose where a run runs: the address that the user gave, or the one that Ray's environment variables name.

Ray is not imported here.
"""

import os
from dataclasses import dataclass

from scaler.errors import JobFileError
from scaler.masking import mask_text
from scaler.runs.processes import torchrun_rank

EMBEDDED = "local"
TORCHRUN = "torchrun"  # the processes that torchrun has started, without Ray
VARIABLES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")  # in the order of Ray's own command line
_HTTP = ("http://", "https://")


@dataclass(frozen=True, kw_only=True, slots=True)
class Address:
    """Where a run runs.

    Args:
        value: ``http(s)://host:port``: Ray Jobs; ``auto`` or ``host:port``: a driver on a node of a running cluster;
            ``none``: one worker in this process; ``torchrun``: the processes that torchrun has started; None: an
            embedded cluster.
        variable: the environment variable that gave the value; None: the user did, or nobody.
    """

    value: str | None
    variable: str | None = None

    @property
    def is_http(self) -> bool:
        """Whether the run is submitted through Ray Jobs."""
        return is_http(self.value)

    @property
    def typed(self) -> str:
        """The address without its password, as an option of a command."""
        return mask_text(self.value or EMBEDDED)

    @property
    def shown(self) -> str:
        """The address without its password, with the variable that gave it, for a sentence."""
        return f"{self.typed} ({self.variable})" if self.variable else self.typed


def choose_address(given: str | None) -> Address:
    """Return where a run runs.

    Args:
        given: the user's address. ``local``: an embedded cluster, whatever the environment says; None: the processes of
            torchrun, if it has started this one; else what RAY_API_SERVER_ADDRESS names, else what RAY_ADDRESS names,
            else an embedded cluster.

    Raises:
        JobFileError: the address is of Ray Client (``ray://``), or of a kind that scaler does not know.

    Example:
        >>> choose_address("local"), choose_address("http://head:8265/").value
        (Address(value=None, variable=None), 'http://head:8265')
    """
    variable = None
    if given is None and torchrun_rank() is not None:
        return Address(value=TORCHRUN)
    if given is None:
        variable = next((name for name in VARIABLES if os.environ.get(name)), None)
        given = EMBEDDED if variable is None else os.environ[variable]
        if variable == "RAY_API_SERVER_ADDRESS" and "://" not in given:
            given = f"http://{given}"  # as Ray reads it
    if given == EMBEDDED:
        return Address(value=None, variable=variable)
    if "://" in given and not given.startswith(_HTTP):
        name = f"{variable} =" if variable else "--address"
        host = given.partition("://")[2].partition(":")[0] or "HOST"
        what = "Ray Client, which scaler does not use" if given.startswith("ray://") else "not an address of Ray"
        raise JobFileError(
            f"{name} {mask_text(given)} is {what}.",
            f"From outside the cluster, through Ray Jobs: --address http://{mask_text(host)}:8265\n"
            "On a node of the cluster: --address auto",
        )
    return Address(value=given.rstrip("/"), variable=variable)


def is_http(address: str | None) -> bool:
    """Return whether an address is that of Ray Jobs."""
    return address is not None and address.startswith(_HTTP)


def driver_address(given: str | None, *, instead: str) -> str | None:
    """Return the address for a command that runs its driver in this process.

    Args:
        given: the user's address, as in ``choose_address``.
        instead: what to type for a cluster that is reached over HTTP.

    Raises:
        JobFileError: the address is that of Ray Jobs.
    """
    chosen = choose_address(given)
    if chosen.value == TORCHRUN:
        raise JobFileError("this command runs in one process, and torchrun has started several.", "Leave torchrun out.")
    if chosen.is_http:
        raise JobFileError(
            f"the address is {chosen.shown}, and this command does not send its run to a cluster.", instead
        )
    return chosen.value
