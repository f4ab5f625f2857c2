"""Find the run that a person names: its folder, or where that cannot be read here, the cluster that runs it."""

from shlex import quote
from typing import TYPE_CHECKING

from scaler.cluster.address import choose_address
from scaler.errors import RunError
from scaler.runs import RunFolder, find_run

if TYPE_CHECKING:
    from scaler.cluster.ray_jobs import RemoteRun


def locate_run(run: str, *, storage: str, address: str | None) -> "RunFolder | RemoteRun":
    """Return the folder of a run, or the run on its cluster if this machine cannot read the folder.

    Args:
        run: its id, ``last``, or its folder or URI.
        storage: the folder or URI that holds runs.
        address: ``http(s)://host:port`` of the cluster; None: what RAY_API_SERVER_ADDRESS or RAY_ADDRESS names. Other
            addresses reach no run, and only the storage is searched.

    Raises:
        RunError: there is no such run, neither in the storage nor on the cluster.
        ClusterError: the cluster cannot be reached, or refuses this process.
    """
    chosen = choose_address(address)
    if chosen.value is None or not chosen.is_http:
        return find_run(run, storage=storage)
    if address is None or run != "last":
        try:
            return find_run(run, storage=storage)
        except RunError:
            pass  # the cluster may know it
    from scaler.cluster.ray_jobs import RemoteRun

    remote = RemoteRun(chosen.value, _newest(chosen.value) if run == "last" else run)
    folder_uri = remote.folder_uri  # raises for a run that the cluster does not know
    try:
        folder = RunFolder(folder_uri)
        return folder if folder.is_run() else remote
    except RunError:
        return remote


def readable_run(run: str, *, storage: str, address: str | None) -> RunFolder:
    """Return the folder of a run, as ``locate_run`` finds it.

    Raises:
        RunError: there is no such run, or its folder cannot be read on this machine.
        ClusterError: the cluster cannot be reached, or refuses this process.
    """
    found = locate_run(run, storage=storage, address=address)
    if isinstance(found, RunFolder):
        return found
    raise RunError(
        f"run {found.run_id}: its folder {found.folder_uri} {why_unread(found.folder_uri)}.",
        f"What the driver prints comes over HTTP, with the report at its end: scaler logs {found.run_id} "
        f"--address {quote(found.shown)}",
    )


def why_unread(folder_uri: str) -> str:
    """Return why the folder of a run on a cluster is not read here: it cannot be, or there is none."""
    try:
        RunFolder(folder_uri).is_run()
    except RunError:
        return "cannot be read on this machine"
    return "does not exist" if "://" in folder_uri else "does not exist on this machine"


def _newest(address: str) -> str:
    """Return the id of the run that was submitted to a cluster last."""
    from scaler.cluster.ray_jobs import remote_runs

    runs = remote_runs(address)
    if not runs:
        raise RunError(
            f"the Ray cluster at {address} has no runs.", f"scaler submit JOB --address {address} makes one."
        )
    return runs[-1].run_id
