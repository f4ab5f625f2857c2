"""Wait for a run that was sent to a cluster over HTTP."""

from collections import deque

from scaler.api.callbacks import OnNotice, OnReport
from scaler.api.find import why_unread
from scaler.api.submit_remote import KEPT_LINES, readable_folder
from scaler.cluster.ray_jobs import DriverLog, RemoteRun, end_error
from scaler.errors import RunError
from scaler.job import Job
from scaler.notebook import Run
from scaler.runs import RunState


def wait_for(remote: RemoteRun, job: Job, *, on_report: OnReport, on_notice: OnNotice) -> Run:
    """Wait until a run on a cluster ends, and return it with its report.

    Raises:
        RunError: it succeeded, but its folder cannot be read on this machine.
        ScalerError: the run failed, or its driver was killed.
        KeyboardInterrupt: the run was stopped.
    """
    lines = deque(DriverLog(remote, on_notice), maxlen=KEPT_LINES)
    end = remote.submission()
    folder = readable_folder(remote, job)
    run = None if folder is None else Run(folder)
    if run is not None:
        on_report(run.report)
    if end.state is RunState.STOPPED:
        raise KeyboardInterrupt
    if end.state is not RunState.SUCCEEDED:
        raise end_error(remote, end, lines)
    if run is None:
        raise RunError(
            f"run {remote.run_id} succeeded, and its folder {end.folder_uri} {why_unread(end.folder_uri)}.",
            f"Its report is in the driver's log: scaler logs {remote.run_id} --address {remote.shown}",
        )
    return run
