"""Follow a run on a cluster that is reached over HTTP: the driver's lines on stderr, the report on stdout."""

import re
import sys
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from shlex import quote
from threading import Event, Thread
from typing import Self

import click

from scaler.api.submit_remote import KEPT_LINES, readable_folder
from scaler.cli import INTERRUPTED
from scaler.cli.follow import print_report
from scaler.cli.live import FolderLive
from scaler.cli.terminal import err
from scaler.cluster.progress_file import read_progress
from scaler.cluster.ray_jobs import ERROR, DriverLog, RemoteRun, continue_command, end_error
from scaler.errors import ScalerError
from scaler.job import Job
from scaler.masking import mask_text
from scaler.runs import RunState

_FIRST_LINE = "Running entrypoint for job "  # Ray writes it before the driver's own lines
_REPORT_PAGE = "Report: "  # the driver prints this line after the report
_RESUME = "Continue with: "  # and this one after a stop; the command that it names is for the driver's machine

COMMANDS = ("status {}", "logs {} -f", "wait {}", "stop {}", "report {}")
AT_START = COMMANDS[:3]  # the others are printed when they are needed

_PROGRESS = re.compile(r" *\d+%  ")
LOOK_S = 1.0  # from one look at the run's folder to the next


def follow(remote: RemoteRun, job: Job, job_path: Path, *, on_interrupt: str | None, as_json: bool, quiet: bool) -> int:
    """Follow a run on a cluster to its end, show its report, and return its exit code.

    Args:
        remote: the run.
        job: its job.
        job_path: the job file, for the command that resumes the run.
        on_interrupt: what Ctrl-C does: ``detach`` or ``stop``; None: it asks in a terminal, and detaches elsewhere.
        as_json: print the report as JSON.
        quiet: print no progress.
    """
    panel = _Panel(remote, job, quiet=quiet)
    log = DriverLog(remote, panel.say)
    shown = _Shown(remote.run_id, shown_address=remote.shown, as_json=as_json, panel=panel)
    is_stopping = False
    while True:
        try:
            with panel:
                for line in log:
                    shown.add(line)
            break
        except KeyboardInterrupt:
            if is_stopping or _choice(on_interrupt) == "detach":
                state = "is saving a checkpoint and stops" if is_stopping else "continues on the cluster"
                err().print(f"\nRun {remote.run_id} {state}.\n{commands(remote, job)}", soft_wrap=True)
                return INTERRUPTED
            is_stopping = True
            panel.say(f"Stopping run {remote.run_id}: it saves a checkpoint first.")
            remote.stop()
    return _end(remote, job, job_path, shown, as_json=as_json)


class _Panel:
    """In a terminal, shows the progress of a run from its folder, if this machine can read it; a context manager."""

    def __init__(self, remote: RemoteRun, job: Job, *, quiet: bool) -> None:
        self._remote, self._job = remote, job
        self._over = Event()
        self._has_panel = err().is_terminal and not quiet
        self._live = FolderLive(console=err(), quiet=quiet)

    def __enter__(self) -> Self:
        self._over.clear()
        if self._has_panel:
            self._thread = Thread(target=self._keep, name="scaler-panel", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self._has_panel:
            self._thread.join()

    @property
    def is_shown(self) -> bool:
        """Whether the panel shows the progress, so that the driver's lines of progress are not needed."""
        return self._live.is_shown

    def say(self, line: str) -> None:
        """Print a line above the panel."""
        self._live.say(line)

    def _keep(self) -> None:
        with self._live:
            while not self._over.wait(LOOK_S):
                with suppress(ScalerError):
                    folder = readable_folder(self._remote, self._job)
                    found = None if folder is None else read_progress(folder)
                    if folder is not None and found is not None:
                        self._live.show(folder, found.progress)


class _Shown:
    """Shows a driver's lines: on stderr what the driver prints there; the lines of the report are kept.

    The driver's log has stdout and stderr in one. The report begins with the run's id and state, or with the brace of
    its JSON, and ends before the line that names its page.
    """

    def __init__(self, run_id: str, *, shown_address: str, as_json: bool, panel: _Panel) -> None:
        self._panel = panel
        self._begins = "{" if as_json else f"{run_id}  "
        self._on_node = f"Run {run_id}: on the Ray at auto"  # what the driver was given; the user gave another address
        self._started = f"Run {run_id}: started on the Ray at {shown_address}"
        self._has_begun = self._is_report = False
        self.report: list[str] = []
        self.last: deque[str] = deque(maxlen=KEPT_LINES)

    def add(self, line: str) -> None:
        self.last.append(line)
        if not self._has_begun:  # Ray's own lines on preparing the driver
            self._has_begun = line.startswith(_FIRST_LINE)
        elif not self.report and line.startswith(self._begins):
            self._is_report = True
            self.report.append(line)
        elif self._is_report and line.startswith(_REPORT_PAGE):
            self._is_report = False
        elif self._is_report:
            self.report.append(line)
        elif not line.startswith(_RESUME) and not (self._panel.is_shown and _PROGRESS.match(line)):
            self._panel.say(self._started if line == self._on_node else line)


def _end(remote: RemoteRun, job: Job, job_path: Path, shown: _Shown, *, as_json: bool) -> int:
    """Print the report, from the run's folder if it can be read here, and return the run's exit code.

    Raises:
        ClusterError: the driver ended without an error of its own.
    """
    end = remote.submission()
    folder = readable_folder(remote, job)
    if folder is not None and shown.report:
        from scaler.report.run.read import read_report

        print_report(read_report(folder), folder, as_json=as_json)
    elif shown.report:
        click.echo("\n".join(shown.report))
        err().print(f"Report: {end.folder_uri}/report.html", soft_wrap=True)
    if end.state is RunState.STOPPED:
        command = continue_command(end, address=remote.shown, job=str(job_path))
        err().print(f"{_RESUME}{command}", soft_wrap=True)
    if end.state in (RunState.FAILED, RunState.LOST) and not any(line.startswith(ERROR) for line in shown.last):
        raise end_error(remote, end, shown.last)
    return end.exit_code


def _choice(on_interrupt: str | None) -> str:
    """Return what to do after Ctrl-C; a second Ctrl-C stops."""
    if on_interrupt is not None:
        return on_interrupt
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return "detach"
    while True:
        err().print("\nDetach (the run continues) or stop the run? [detach/stop] ", end="")
        try:
            answer = sys.stdin.readline().strip().lower()
        except KeyboardInterrupt:
            err().print()
            return "stop"
        if answer in ("d", "detach", "s", "stop"):
            return "stop" if answer.startswith("s") else "detach"


def commands(remote: RemoteRun, job: Job, which: Sequence[str] = COMMANDS) -> str:
    """Return the commands that follow, to be pasted; ``which`` has the run's id as ``{}``."""
    where = f"--storage {quote(mask_text(job.storage))} --address {quote(remote.shown)}"
    return "\n".join(f"  scaler {command.format(remote.run_id)} {where}" for command in which)
