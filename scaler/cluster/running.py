"""Connect to a running Ray cluster."""

import logging
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from scaler.cluster.auth_token import require_accepted, token_environment
from scaler.cluster.ray_hooks import require_hooks
from scaler.cluster.ray_session import common_environment, ray_session
from scaler.errors import ClusterError

CONNECT_S = 10.0


@contextmanager
def running_cluster(address: str, *, verbose: bool, runtime_env: Mapping[str, Any]) -> Iterator[None]:
    """Connect to a running cluster for the length of a ``with`` block.

    Args:
        address: of the cluster: ``auto`` or ``host:port``.
        verbose: show Ray's log, on stderr.
        runtime_env: what the nodes must have, from ``merged_runtime_env``.

    Raises:
        ClusterError: there is no cluster at the address, it refuses this process, or the installed Ray does not work
            with scaler.
    """

    head = resolve_address(address)

    def connect() -> None:
        import ray

        require_hooks()
        ray.init(
            address=head,
            log_to_driver=verbose,
            logging_level=logging.INFO if verbose else logging.ERROR,
            runtime_env=dict(runtime_env),
        )

    with ray_session(connect, address=address, environment=token_environment(head), verbose=verbose):
        yield


def environment_for(address: str) -> Mapping[str, str]:
    """Return the variables to set before Ray is imported, for a running cluster."""
    return {**common_environment(), **token_environment(resolve_address(address))}


def resolve_address(address: str) -> str:
    """Return the ``host:port`` that ``auto`` stands for, if Ray has noted one; any other address unchanged.

    Ray notes the address in RAY_ADDRESS, or in the file of the cluster that ``ray start`` started last on this machine.
    Given ``auto``, Ray from 2.59 sends a token that it finds to every cluster, also to one that asks for none.
    """
    if address != "auto":
        return address
    noted = os.environ.get("RAY_ADDRESS", "")
    if not noted:
        with suppress(OSError):
            noted = Path(os.environ.get("RAY_TMPDIR", "/tmp"), "ray", "ray_current_cluster").read_text().strip()
    return noted if noted.rpartition(":")[2].isdigit() and "://" not in noted else address


def require_reachable(address: str) -> None:
    """Refuse a ``host:port`` where no cluster listens or that refuses this process; Ray itself would try for minutes.

    Raises:
        ClusterError: nothing answers there, or the token is missing or wrong.
    """
    address = resolve_address(address)
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        return  # a name that Ray resolves
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_S).close()
    except OSError as error:
        raise ClusterError(
            f"no Ray cluster at {address}: {error.strerror or error}.",
            "ray start --head prints the address of a cluster; --address auto finds one on this machine.",
        ) from error
    require_accepted(address)
