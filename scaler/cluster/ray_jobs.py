"""A run that a Ray cluster runs, reached over HTTP through Ray Jobs: its state, its driver's log, and stopping it.

The run's folder is the one truth about a run. This module is for what the folder cannot do: to start a driver on the
cluster, and to follow it where the folder cannot be read.

A run's submissions to Ray Jobs are called ``<run id>``, then ``<run id>.2`` and so on: Ray uses an id once.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from queue import Empty, Queue
from shlex import quote
from threading import Thread
from time import sleep
from typing import Any

from scaler.cluster.jobs_client import ConnectionLostError, JobsClient
from scaler.errors import ClusterError, JobFileError, RunError, ScalerError, TrainingError
from scaler.masking import mask_text
from scaler.runs import RunState

STOP_WAIT_S = 90  # Ray kills a driver this long after it asked it to stop; saving and the report take less
CHECK_S = 5.0  # without a new line, the connection is checked this often
LONGEST_RETRY_S = 15.0
INTERRUPTED = 130  # exit code of a run that was stopped

_STATES = {"PENDING": RunState.PENDING, "RUNNING": RunState.RUNNING, "SUCCEEDED": RunState.SUCCEEDED}
_BY_CODE = {error.exit_code: error for error in (JobFileError, ClusterError, TrainingError, RunError)}
_NO_MODULE = re.compile(r"ModuleNotFoundError: No module named '([^']+)'")
ERROR = "Error: "  # the last message of a driver that failed begins with it


@dataclass(frozen=True, kw_only=True, slots=True)
class Submission:
    """One submission of a run to Ray Jobs."""

    run_id: str
    submission_id: str
    status: str  # as Ray names it: PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED
    driver_exit_code: int | None  # None: the driver runs, or Ray does not know
    message: str  # of Ray
    folder_uri: str  # of the run's folder, without its password
    started: int  # milliseconds since the epoch; 0: not known
    ended: int  # milliseconds since the epoch; 0: it has not ended

    @property
    def state(self) -> RunState:
        """The state of the run as far as Ray knows it; ``LOST``: the driver was killed, or never started."""
        if self.status in _STATES:
            return _STATES[self.status]
        if self.status == "STOPPED" or self.driver_exit_code == INTERRUPTED:
            return RunState.STOPPED
        return RunState.LOST if self.driver_exit_code is None or self.driver_exit_code < 0 else RunState.FAILED

    @property
    def storage(self) -> str:
        """The folder or URI that holds the run's folder, without its password."""
        return self.folder_uri.removesuffix(self.run_id).rstrip("/")

    @property
    def is_over(self) -> bool:
        """Whether the driver has ended."""
        return self.state not in (RunState.PENDING, RunState.RUNNING)

    @property
    def exit_code(self) -> int:
        """The exit code of the run's driver, once it has ended: 0, 4 for a failed job, and so on.

        130: it was stopped; 3, that of ``ClusterError``: it was killed.
        """
        if self.state is RunState.STOPPED:
            return INTERRUPTED
        return ClusterError.exit_code if self.state is RunState.LOST else self.driver_exit_code or 0


class RemoteRun:
    """A run that was submitted to a cluster through Ray Jobs.

    Args:
        address: of the cluster, ``http(s)://host:port``.
        run_id: of the run.
        client: of the cluster, if there is one already.

    Attributes:
        run_id: the same.
        shown: the address without its password.
    """

    def __init__(self, address: str, run_id: str, *, client: JobsClient | None = None) -> None:
        self._client = JobsClient(address) if client is None else client
        self.run_id, self.shown = run_id, self._client.shown

    def submission(self) -> Submission:
        """Return the run's newest submission.

        Raises:
            RunError: the cluster does not know the run.
            ClusterError: the cluster cannot be reached (``ConnectionLostError``), or refuses this process.
        """
        found = self.submissions()
        if not found:
            raise RunError(
                f"the Ray cluster at {self.shown} does not know run {self.run_id}.",
                "It knows the runs that were submitted since it started. scaler list --storage S lists all runs there.",
            )
        return found[-1]

    def submissions(self) -> list[Submission]:
        """Return the run's submissions, the newest last."""
        jobs = self._client.call("list_jobs")
        found = [_submission(job) for job in jobs if (job.metadata or {}).get("run") == self.run_id]
        return sorted(found, key=lambda submission: submission.started)

    def state(self) -> RunState:
        """Return the state of the run as far as Ray knows it.

        Raises:
            RunError: the cluster does not know the run.
            ClusterError: the cluster cannot be reached, or refuses this process.
        """
        return self.submission().state

    @property
    def folder_uri(self) -> str:
        """The run's folder as the cluster sees it, without a password in it."""
        return self.submission().folder_uri

    def driver_log(self, *, follow: bool = False) -> Iterator[str]:
        """Yield the lines that the run's driver has printed; with ``follow``, also those to come, until it ends.

        Raises:
            RunError: the cluster does not know the run.
            ClusterError: the cluster cannot be reached, or refuses this process.
        """
        if follow:
            yield from DriverLog(self)
        else:
            yield from self._client.call("get_job_logs", self.submission().submission_id).splitlines()

    def stop(self, *, now: bool = False) -> bool:
        """Ask the run to save a checkpoint and to stop; return whether its driver was running.

        Ray kills the driver after ``STOP_WAIT_S``.

        Raises:
            RunError: the cluster does not know the run.
            ClusterError: ``now``, which Ray Jobs cannot do; or the cluster cannot be reached.
        """
        submission = self.submission()
        if now:
            raise ClusterError(
                f"run {self.run_id}: Ray Jobs cannot end a run at once.",
                f"Without --now, the run saves a checkpoint and stops, within {STOP_WAIT_S} s. --now works where the "
                f"run's folder can be written: {submission.folder_uri}",
            )
        return bool(self._client.call("stop_job", submission.submission_id))

    def tail(self, submission_id: str) -> "Queue[str | BaseException | None]":
        """Return a queue that gets the texts of a driver's log from its start; at its end None, or an error."""
        texts: Queue[str | BaseException | None] = Queue()

        async def follow() -> None:
            async for text in self._client.tail(submission_id):
                texts.put(text)

        def run() -> None:
            import asyncio

            import aiohttp

            try:
                asyncio.run(follow())
                texts.put(None)
            except (OSError, RuntimeError, aiohttp.ClientError) as error:  # Ray raises RuntimeError for a lost one
                texts.put(ConnectionLostError(f"the connection to {self.shown} was lost: {error}."))
            except BaseException as error:
                texts.put(error)

        Thread(target=run, name="scaler-driver-log", daemon=True).start()
        return texts


def remote_runs(address: str) -> list[Submission]:
    """Return the newest submission of each run that a cluster knows; the oldest run first.

    Raises:
        ClusterError: the cluster cannot be reached, or refuses this process.
    """
    jobs = JobsClient(address).call("list_jobs")
    found = sorted((_submission(job) for job in jobs if "run" in (job.metadata or {})), key=lambda each: each.started)
    return list({submission.run_id: submission for submission in found}.values())


class DriverLog:
    """The lines of a run's driver, as they come. Iterating again continues where the last iteration ended.

    A lost connection is tried again until it is back. Lines that were given already are not given twice.

    Args:
        remote: the run.
        on_notice: called with a sentence when the connection is lost, and when it is back.
    """

    def __init__(self, remote: RemoteRun, on_notice: Any = lambda notice: None) -> None:
        self._remote, self._on_notice = remote, on_notice
        self._submission_id: str | None = None
        self._seen = 0  # characters of the log
        self._rest = ""  # of a line that is not complete
        self._is_lost = False

    def __iter__(self) -> Iterator[str]:
        """Yield lines until the driver ends.

        Raises:
            RunError: the cluster does not know the run any more.
            ClusterError: the cluster refuses this process.
        """
        wait_s = 1.0
        while True:
            try:
                submission = self._found()
                for text in self._texts(submission.submission_id):
                    wait_s = 1.0
                    yield from self._lines(text)
                if self._found().is_over:
                    break
            except ConnectionLostError as error:
                if not self._is_lost:
                    self._on_notice(f"{error.problem} The run continues on the cluster; trying again.")
                self._is_lost = True
            sleep(wait_s)
            wait_s = min(2 * wait_s, LONGEST_RETRY_S)
        if self._rest:
            yield self._rest

    def _found(self) -> Submission:
        """Return the submission whose log this is."""
        submission = self._remote.submission()
        if self._is_lost:
            self._on_notice("The connection is back.")
            self._is_lost = False
        return submission

    def _texts(self, submission_id: str) -> Iterator[str]:
        """Yield the texts of the log that were not given yet.

        Raises:
            ConnectionLostError: the connection broke, or the cluster does not answer.
        """
        texts, skip = self._remote.tail(submission_id), self._seen
        while True:
            try:
                text = texts.get(timeout=CHECK_S)
            except Empty:
                self._remote.submission()  # a broken connection may be silent
                continue
            if text is None:
                return
            if isinstance(text, BaseException):
                raise text
            new, skip = text[skip:], max(0, skip - len(text))
            self._seen += len(new)
            if new:
                yield new

    def _lines(self, text: str) -> Iterator[str]:
        *lines, self._rest = (self._rest + text).split("\n")
        yield from lines


def printed_error(lines: Iterable[str]) -> list[str]:
    """Return the lines of the last error that scaler has printed among others: its problem, then what to do.

    Example:
        >>> printed_error(["50%", "Error: no disk is free.", "  Free space.", "", "bye"])
        ['no disk is free.', 'Free space.']
    """
    error: list[str] = []
    for line in lines:
        if line.startswith(ERROR):
            error = [line.removeprefix(ERROR)]
        elif error and line.startswith("  "):
            error.append(line[2:])
    return error


def end_error(remote: RemoteRun, end: Submission, lines: Iterable[str]) -> ScalerError:
    """Return the error of a run that has failed on a cluster.

    Args:
        remote: the run.
        end: its submission, which is over.
        lines: the last lines of the driver's log. They end with the driver's error, if it could print one.
    """
    lines = list(lines)
    if match := next(filter(None, map(_NO_MODULE.match, lines)), None):
        return ClusterError(
            f"run {remote.run_id}: the Python of the cluster at {remote.shown} has no package {match[1]}.",
            "Install it there, start the cluster from an image that has it, or list it in runtime_env of the job.",
        )
    if error := printed_error(lines):
        return _BY_CODE.get(end.exit_code, ClusterError)(error[0], "\n".join(error[1:]))
    reason = next((line for line in reversed(end.message.splitlines()) if line.strip()), "Ray gives no reason")
    return ClusterError(
        f"run {remote.run_id}: its driver on the cluster at {remote.shown} ended without a result: "
        f"{mask_text(reason.strip()).rstrip('.')}.",
        f"Continue from the newest checkpoint: {continue_command(end, address=remote.shown)}",
    )


def continue_command(run: Submission, *, address: str, job: str = "JOB") -> str:
    """Return the command that sends a run to its cluster again, where it continues from its newest checkpoint.

    Args:
        run: its newest submission.
        address: of the cluster, without a password.
        job: path of the job file, which the cluster does not know.
    """
    storage = f" --set {quote(f'storage={run.storage}')}" if run.storage else ""
    return f"scaler submit {quote(job)} --run-id {run.run_id} --address {quote(address)}{storage}"


def _submission(job: Any) -> Submission:
    return Submission(
        run_id=job.metadata["run"],
        submission_id=job.submission_id,
        status=str(getattr(job.status, "value", job.status)),
        driver_exit_code=job.driver_exit_code,
        message=job.message or "",
        folder_uri=job.metadata.get("folder", ""),
        started=job.start_time or 0,
        ended=job.end_time or 0,
    )
