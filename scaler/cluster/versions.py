"""Compare the versions of Python, Ray, torch and scaler on the driver and on the nodes of its workers.

The versions are read from the metadata of the installed packages, so neither torch nor Ray is imported for them.
"""

import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata

import scaler
from scaler.errors import ClusterError


@dataclass(frozen=True, kw_only=True, slots=True)
class Versions:
    """The versions of one process; None: not installed."""

    python: str
    ray: str | None
    torch: str | None
    scaler: str | None

    def to_dict(self) -> dict[str, str]:
        """Return the versions by name, without those of packages that are not installed."""
        return {name: version for name, version in asdict(self).items() if version is not None}


def installed_versions() -> Versions:
    """Return the versions of this process; takes a few milliseconds."""
    return Versions(
        python=platform.python_version(), ray=_version("ray"), torch=_version("torch"), scaler=scaler.__version__
    )


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def require_same_as_driver(here: Versions, driver: Versions, *, node: str) -> None:
    """Refuse a node without torch, or whose Python, Ray or scaler cannot work with those of the driver.

    Args:
        here: of a worker.
        driver: of the process that runs the run.
        node: host name of the worker's node.

    Raises:
        ClusterError: names each difference and its consequence.
    """
    problems = []
    if minor(here.python) != minor(driver.python):
        problems.append(
            f"Python {here.python}, and the run driver has {driver.python}: what one pickles, the other may not read"
        )
    if here.ray != driver.ray:
        problems.append(f"Ray {here.ray}, and the run driver has {driver.ray}: their messages differ")
    if here.scaler != driver.scaler:
        problems.append(f"scaler {here.scaler}, and the run driver has {driver.scaler}: their messages differ")
    if here.torch is None:
        problems.append("no torch, which trains the model")
    if problems:
        wanted = f"Python {minor(driver.python)}, ray=={driver.ray}, scaler=={driver.scaler} and torch"
        raise ClusterError(f"the node {node} has {'; '.join(problems)}.", f"Install on every node: {wanted}.")


def require_one_torch(here: Versions, first: Versions, *, node: str, first_node: str) -> None:
    """Refuse a worker with another release of torch than rank 0: the release is major.minor, such as 2.13.

    Another patch or build is allowed, and ``differences`` names it.

    Args:
        here: of a worker.
        first: of rank 0.
        node: host name of the worker's node.
        first_node: host name of rank 0's node.

    Raises:
        ClusterError: names both versions and the consequence.
    """
    if minor(here.torch or "") != minor(first.torch or ""):
        raise ClusterError(
            f"the node {node} has torch {here.torch}, and the node {first_node} of rank 0 has {first.torch}: workers "
            "of two releases of torch compute different gradients, and may not understand each other.",
            f"Install one torch on every node: --set 'runtime_env.pip=[torch=={_public(first.torch or '')}]'.",
        )


def differences(here: Versions, first: Versions, driver: Versions, *, node: str, first_node: str) -> Sequence[str]:
    """Return a sentence for each difference of torch that training survives, with its consequence.

    Args:
        here: of a worker.
        first: of rank 0.
        driver: of the process that runs the run; it does not train.
        node: host name of the worker's node.
        first_node: host name of rank 0's node.
    """
    found = []
    if here.torch != first.torch:
        found.append(
            f"The node {node} has torch {here.torch}, and the node {first_node} of rank 0 has {first.torch}: another "
            "number of nodes, or another order of ranks, may change the results slightly."
        )
    if _public(here.torch or "") != _public(driver.torch or ""):
        found.append(
            f"The workers have torch {here.torch}, and this process has {driver.torch or 'none'}: the model is trained "
            "with the workers' torch, and may give other values here."
        )
    return found


def mismatch_at_connect(text: str) -> Mapping[str, str] | None:
    """Return the versions in Ray's message of a refused connection; None: it is another message.

    Example:
        >>> rays = "Version mismatch: The cluster was started with:\\n    Ray: 2.58.0\\n    Python: 3.12.1\\nThis "
        >>> rays += "process on 10.0.0.1 was started with:\\n    Ray: 2.58.0\\n    Python: 3.11.9\\n"
        >>> mismatch_at_connect(rays)
        {'cluster_ray': '2.58.0', 'cluster_python': '3.12.1', 'ray': '2.58.0', 'python': '3.11.9'}
    """
    if "Version mismatch" not in text:
        return None
    lines = [line.strip().partition(": ") for line in text.splitlines()]
    found = [version for name, _, version in lines if name in ("Ray", "Python")]
    names = ("cluster_ray", "cluster_python", "ray", "python")
    return dict(zip(names, found, strict=True)) if len(found) == len(names) else None


def minor(version: str) -> str:
    """Return the first two numbers of a version.

    Example:
        >>> [minor(version) for version in ("3.11.9", "2.13.0+cu128", "")]
        ['3.11', '2.13', '']
    """
    return ".".join(_public(version).split(".")[:2])


def _public(version: str) -> str:
    """Return a version without its build: ``2.13.0`` of ``2.13.0+cu128``."""
    return version.partition("+")[0]
