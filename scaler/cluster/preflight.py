"""Check on the node of a worker, while the worker starts, that it can take part in the run."""

import socket
from concurrent.futures import Future, ThreadPoolExecutor

from scaler.errors import ClusterError, RecipeError, RunError
from scaler.runs import RunFolder

SHARED = "Set storage to a folder that every node shares, or to a URI such as s3://bucket/prefix."


def require_shared(folder: RunFolder) -> None:
    """Refuse a run folder that this node does not see.

    Raises:
        ClusterError: names the node.
    """
    node = socket.gethostname()
    try:
        exists = folder.exists("status.json")
    except RunError as error:
        raise _not_usable(folder, error, node=node) from error
    if not exists:
        raise ClusterError(f"the run's folder {folder.path('')} does not exist on the node {node}.", SHARED)


def begin_storage_check(folder: RunFolder, *, rank: int) -> "Future[None]":
    """Write, read and remove a small file in the run's folder, in another thread.

    Args:
        folder: the run's folder; ``require_shared`` has found it.
        rank: of the worker; it is a part of the file's name.

    Returns:
        Its ``result()`` raises a ``ClusterError`` that names the node, if this node cannot use the storage.
    """
    pool = ThreadPoolExecutor(1, thread_name_prefix="scaler-storage")
    check = pool.submit(_try_storage, folder, f".storage-check-{rank}", rank)
    pool.shutdown(wait=False)
    return check


def _try_storage(folder: RunFolder, name: str, rank: int) -> None:
    written, node = f"rank {rank}".encode(), socket.gethostname()
    try:
        folder.write(name, written)
        found = folder.read(name)
        folder.remove(name)
    except RunError as error:
        raise _not_usable(folder, error, node=node) from error
    if found != written:
        raise ClusterError(
            f"on the node {node}, a file in the run's folder {folder.path('')} has other content than what was just "
            "written there.",
            SHARED,
        )


def _not_usable(folder: RunFolder, error: RunError, *, node: str) -> ClusterError:
    remedy = (
        SHARED if folder.local_path is not None else f"{error.remedy}\nruntime_env.env_vars sets them on the nodes."
    )
    return ClusterError(f"the storage cannot be used on the node {node}: {error.problem}", remedy)


def missing_module(error: ModuleNotFoundError, recipe: str) -> RecipeError:
    """Return the error of a recipe that cannot be imported on this node of a running cluster.

    Args:
        error: names the module.
        recipe: of the job.
    """
    from scaler.training.recipe.failures import DISTRIBUTIONS, recipe_traceback

    package = (error.name or "").partition(".")[0]
    name = DISTRIBUTIONS.get(package, package)
    return RecipeError(
        f"{recipe} cannot be imported on the node {socket.gethostname()}: there is no module {error.name}.",
        f"Have Ray install its package there: --set 'runtime_env.pip=[{name}]', or send your own: "
        f"--set 'runtime_env.py_modules=[PATH]'.\n{recipe_traceback(error)}",
    )
