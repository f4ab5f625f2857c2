"""``scaler.status``, ``scaler.stop`` and ``scaler.wait``: follow and stop a run through its folder."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any

from scaler.cluster.progress import Progress
from scaler.cluster.progress_file import read_progress
from scaler.errors import RunError
from scaler.runs import RunFolder, RunState, find_run
from scaler.runs.control import StopRequest, read_stop, request_stop
from scaler.runs.lease import FILE as LEASE
from scaler.runs.lease import Driver, present_state

if TYPE_CHECKING:
    from scaler.cluster.ray_jobs import RemoteRun

POLL_S = 0.5
REPORT_S = 30.0  # a driver may take this long for the report, after it has written the state
SILENT_S = 10.0  # storage that cannot be read for this long is reported


@dataclass(frozen=True, kw_only=True, slots=True)
class RunStatus:
    """The status of a run, as ``scaler status --json`` prints it."""

    schema_version: int = 1  # version of these fields: 1
    run_id: str  # name of the run's folder
    state: str  # pending, starting, running, succeeded, failed, stopped or lost
    uri: str  # path or URI of the run's folder
    started_at: float | None  # moment of the submission
    ended_at: float | None  # moment of the end; None: the run has not ended
    exit_code: int | None  # exit code of the command that ran the run; None: the run has not ended
    failure: str | None  # the error that ended the run; None: no error did
    driver: Driver | None  # of a lost run: the process that ran it last, if that is known
    stop: StopRequest | None  # the request to stop the run; None: nobody asked for it
    waiting_for: str | None  # what the run waits for before it can train; None: it does not wait
    total_samples: float | None  # length of the run, in samples of the reference's training; None: not known yet
    tokens_per_sample: int | None = None  # of a job that counts tokens, now; None: it counts samples
    left_s: float | None  # estimated seconds until the end, from the present throughput; None: not known
    progress: Progress | None  # what the workers have done; None: no worker has started yet

    def to_dict(self) -> dict[str, Any]:
        """Return the status for JSON."""
        return asdict(self)


def status(run: str | os.PathLike[str], *, storage: str | os.PathLike[str] = "runs") -> RunStatus:
    """Return the status of a run. Its folder is all that is read, so the run may be on any machine.

    Args:
        run: its id below ``storage``, its folder or URI, or ``last``.
        storage: the folder or URI that holds runs.

    Raises:
        RunError: there is no such run, or it cannot be read.
    """
    return read_status(find_run(os.fspath(run), storage=os.fspath(storage)))


def read_status(folder: RunFolder) -> RunStatus:
    """Return the status of the run in a folder.

    Raises:
        RunError: it cannot be read.
    """
    with ThreadPoolExecutor(2) as pool:  # in remote storage, each file takes some requests
        stop_read, progress_read = pool.submit(read_stop, folder), pool.submit(read_progress, folder)
        state, driver = present_state(folder)
        values = folder.read_json("status.json")  # after the state: the end of a run is written with its exit code
        done = progress_read.result()
        return RunStatus(
            run_id=folder.run_id,
            state=state.value,
            uri=folder.place,
            started_at=values.get("started_at"),
            ended_at=values.get("ended_at") if state.is_end else None,
            exit_code=values.get("exit_code") if state.is_end else None,
            failure=values.get("failure") if state.is_end else None,
            driver=driver,
            stop=stop_read.result(),
            waiting_for=done.waiting_for if done is not None and not state.is_end else None,
            total_samples=done.total_samples if done is not None else None,
            tokens_per_sample=done.tokens_per_sample if done is not None else None,
            left_s=done.left_s if done is not None and state is RunState.RUNNING else None,
            progress=done.progress if done is not None else None,
        )


def remote_status(remote: "RemoteRun") -> RunStatus:
    """Return the status of a run as far as its cluster knows it, for a run whose folder cannot be read here.

    Raises:
        RunError: the cluster does not know the run.
        ClusterError: the cluster cannot be reached, or refuses this process.
    """
    newest = remote.submission()
    return RunStatus(
        run_id=remote.run_id,
        state=newest.state.value,
        uri=newest.folder_uri,
        started_at=newest.started / 1000 if newest.started else None,
        ended_at=newest.ended / 1000 if newest.ended else None,
        exit_code=newest.exit_code if newest.is_over else None,
        failure=None,
        driver=None,
        stop=None,
        waiting_for=None,
        total_samples=None,
        left_s=None,
        progress=None,
    )


def stop(run: str | os.PathLike[str], *, now: bool = False, storage: str | os.PathLike[str] = "runs") -> RunStatus:
    """Ask a run to stop, and return its status at that moment. ``wait`` waits for the end.

    The run saves a checkpoint first. ``scaler.resume`` continues it. A run that has ended is left as it is.

    Args:
        run: its id below ``storage``, its folder or URI, or ``last``.
        now: end the run at once, without a checkpoint.
        storage: the folder or URI that holds runs.

    Raises:
        RunError: there is no such run, no process runs it, or its folder cannot be written.
    """
    folder = find_run(os.fspath(run), storage=os.fspath(storage))
    found = read_status(folder)
    state = RunState(found.state)
    if state is RunState.LOST:
        seen = f" ({found.driver})" if found.driver is not None else ""
        raise RunError(
            f"run {folder.run_id} is lost: no process runs it{seen}.",
            "There is nothing to stop. scaler resume continues the run.",
        )
    if not state.is_end:
        request_stop(folder, now=now)
    return found


def wait(
    run: str | os.PathLike[str],
    *,
    storage: str | os.PathLike[str] = "runs",
    timeout_s: float | None = None,
    on_status: Callable[[RunStatus], None] = lambda status: None,
    on_notice: Callable[[str], None] = lambda notice: None,
) -> RunStatus:
    """Wait until a run has ended, or is lost, and return its status.

    While the storage cannot be read, this keeps on trying.

    Args:
        run: its id below ``storage``, its folder or URI, or ``last``.
        storage: the folder or URI that holds runs.
        timeout_s: return the status after this many seconds, also if the run has not ended; None: wait for the end.
        on_status: called with the status a few times a second.
        on_notice: called with a sentence when the storage cannot be read, and when it can be read again.

    Raises:
        RunError: there is no such run.
    """
    folder = find_run(os.fspath(run), storage=os.fspath(storage))
    found = read_status(folder)
    began = read_at = monotonic()
    is_silent = False
    while True:
        on_status(found)
        state = RunState(found.state)
        if state is RunState.LOST or (timeout_s is not None and monotonic() - began > timeout_s):
            return found
        if state.is_end:
            _wait_for_report(folder)
            return found
        sleep(POLL_S)
        try:
            found = read_status(folder)
        except RunError as error:
            if monotonic() - read_at > SILENT_S and not is_silent:
                is_silent = True
                on_notice(f"Cannot read the run: {error.problem} Trying again; the run itself continues.")
            continue
        if is_silent:
            is_silent = False
            on_notice("The run can be read again.")
        read_at = monotonic()


def _wait_for_report(folder: RunFolder) -> None:
    """Wait until the driver of a run that has ended has written the report: after that it gives up its lease."""
    began = monotonic()
    with suppress(RunError):  # the state is known; the report is a courtesy
        while monotonic() - began < REPORT_S and folder.exists(LEASE):
            sleep(POLL_S)
