"""Send a run to a cluster over HTTP and follow it: the driver's lines on stderr, the report on stdout."""

import sys
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from shlex import quote

import click

from scaler.api.submit_remote import KEPT_LINES, readable_folder, start_remote
from scaler.cli import INTERRUPTED
from scaler.cli.follow import print_report
from scaler.cli.terminal import err
from scaler.cluster.ray_jobs import ERROR, DriverLog, RemoteRun, end_error
from scaler.job import Job
from scaler.masking import mask_text
from scaler.report.text.format import printable
from scaler.runs import RunState

_FIRST_LINE = "Running entrypoint for job "  # Ray writes it before the driver's own lines
_REPORT_PAGE = "Report: "  # the driver prints this line after the report


def submit_over_http(
    job_path: Path,
    *,
    address: str,
    run_id: str | None,
    workers: int | None,
    overrides: Sequence[str],
    detach: bool,
    on_interrupt: str | None,
    as_json: bool,
    quiet: bool,
    verbose: bool,
) -> int:
    """Start or resume a run on a cluster, follow it to its end unless ``detach``, and return the exit code.

    Args:
        job_path: the job file.
        address: of the cluster.
        run_id: of the run; None: a new one.
        workers: number of workers, instead of the job's.
        overrides: of ``--set``.
        detach: return when the run was submitted.
        on_interrupt: what Ctrl-C does: ``detach`` or ``stop``; None: it asks in a terminal, and detaches elsewhere.
        as_json: print the report as JSON.
        quiet: print no plan and no progress.
        verbose: show Ray's log.
    """

    def notice(text: str) -> None:
        if not quiet:
            err().print(printable(text), soft_wrap=True)

    flags = {"--json": as_json, "--quiet": quiet, "--verbose": verbose}
    remote, job = start_remote(
        job_path,
        address=address,
        run_id=run_id,
        workers=workers,
        overrides=overrides,
        options=[name for name, is_set in flags.items() if is_set],
        on_notice=notice,
    )
    notice(f"Run {remote.run_id}: sent to the Ray at {remote.shown}")
    if detach:
        click.echo(remote.run_id)
        err().print(_commands(remote, job), soft_wrap=True)
        return 0
    log = DriverLog(remote, notice)
    shown = _Shown(remote.run_id, as_json=as_json)
    is_stopping = False
    while True:
        try:
            for line in log:
                shown.add(line)
            break
        except KeyboardInterrupt:
            if is_stopping or _choice(on_interrupt) == "detach":
                state = "is saving a checkpoint and stops" if is_stopping else "continues on the cluster"
                err().print(f"\nRun {remote.run_id} {state}.\n{_commands(remote, job)}", soft_wrap=True)
                return INTERRUPTED
            is_stopping = True
            notice(f"Stopping run {remote.run_id}: it saves a checkpoint first.")
            remote.stop()
    return _end(remote, job, shown, as_json=as_json)


class _Shown:
    """Shows a driver's lines: on stderr what the driver prints there; the lines of the report are kept.

    The driver's log has stdout and stderr in one. The report begins with the run's id and state, or with the brace of
    its JSON, and ends before the line that names its page.
    """

    def __init__(self, run_id: str, *, as_json: bool) -> None:
        self._begins = "{" if as_json else f"{run_id}  "
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
        else:
            err().print(printable(line), soft_wrap=True)


def _end(remote: RemoteRun, job: Job, shown: _Shown, *, as_json: bool) -> int:
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


def _commands(remote: RemoteRun, job: Job) -> str:
    """Return the commands that follow, to be pasted."""
    where = f"--storage {quote(mask_text(job.storage))} --address {quote(remote.shown)}"
    commands = ("status {}", "logs {} -f", "wait {}", "stop {}")
    lines = [f"  scaler {command.format(remote.run_id)} {where}" for command in commands]
    return "\n".join([*lines, f"  scaler report {remote.run_id} --storage {quote(mask_text(job.storage))}"])
