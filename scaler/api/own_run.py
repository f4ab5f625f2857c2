"""The run of one's own training loop: its folder, its records, and its end."""

import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from time import time
from typing import TYPE_CHECKING, Any

from scaler.cluster.progress import ProgressTracker
from scaler.cluster.progress_file import progress_dict
from scaler.errors import RunError, ScalerError
from scaler.job import Job, dump_job
from scaler.masking import mask_text
from scaler.metrics.background import BackgroundWriter
from scaler.metrics.events import Event, Resumed
from scaler.metrics.next_attempt import next_attempt
from scaler.metrics.record import Record
from scaler.plan import Plan
from scaler.report.run.model import Report
from scaler.report.run.write import write_report
from scaler.runs import RunFolder, RunState
from scaler.runs.control import RunControl, clear_stop
from scaler.runs.lease import Lease

if TYPE_CHECKING:
    from scaler.training.own_loop.group import LoopGroup
    from scaler.training.own_loop.mailbox import Mailbox
    from scaler.training.worker_context import Leave


class OwnRun:
    """Where the records and events of one process of a loop go. Only rank 0 writes the run's folder.

    Args:
        job: of the run.
        plan: its plan.
        group: this process's place.

    Attributes:
        attempt: the number of this attempt in the run; known after ``begin``.
        run_uri: the folder of the run; None before ``begin``.
    """

    def __init__(self, job: Job, plan: Plan, group: "LoopGroup") -> None:
        self._job, self._plan, self._group = job, plan, group
        self.rank, self.world_size = group.rank, group.world_size
        self.attempt = 0
        self.run_uri: str | None = None
        self._at_end: Callable[[], None] = lambda: None
        self._mailbox: Mailbox | None = None
        self._files: _Files | None = None  # of rank 0

    def begin(self, *, device: Any, from_samples: int | None, run: str | None) -> None:
        """Make the run's folder, or continue that of ``run``; every process calls this before its first batch.

        Args:
            device: a ``torch.device``: of this process's model.
            from_samples: samples in the weights that the script has loaded; None: it starts at 0.
            run: the folder of the run that they are from.

        Raises:
            RunError: the storage cannot be written.
        """
        from scaler.training.own_loop.mailbox import Mailbox
        from scaler.training.process_context import worker_started

        found: tuple[str, int] | ScalerError | None = None
        if self.rank == 0:
            try:
                self._files = _Files(self._job, self._plan, from_samples=from_samples, run=run)
                found = (self._files.folder.uri, self._files.attempt)
            except ScalerError as error:
                found = error
        made: tuple[str, int] | ScalerError | None = self._group.from_rank_0(found)
        assert made is not None
        if isinstance(made, ScalerError):
            raise made
        self.run_uri, self.attempt = made
        if self.world_size > 1:
            self._mailbox = Mailbox(self._group)
        mine = worker_started(self._group, attempt=self.attempt, start_samples=from_samples or 0, device=device)
        workers = self._group.gathered(mine)
        if self._files is not None:
            self._files.put([], workers)
            print(f"Run {self._files.folder.run_id}: in {_processes(self.world_size)}", file=sys.stderr)

    def hand_over(self, records: Sequence[Record], events: Sequence[Event], *, samples_seen: int) -> None:
        """Take records and events of this process."""
        if self._files is None:
            assert self._mailbox is not None
            self._mailbox.send(records, events)
            return
        self._files.put(records, events)
        self._take_others()

    def leave_requested(self) -> "Leave":
        """Return whether ``scaler stop`` was called for the run; known at rank 0."""
        from scaler.training.worker_context import Leave

        is_asked = self._files is not None and self._files.control.stop is not None
        return Leave.STOP if is_asked else Leave.NOT

    def at_end(self, call: Callable[[], None]) -> None:
        """Call a function when the run ends."""
        self._at_end = call

    def end(self, error: BaseException | None, *, left: "Leave") -> Report | None:
        """Write the end of the run and its report; returns the report at rank 0.

        Args:
            error: what ended the script; None: it came to its end.
            left: what all processes were asked to do, if they were.
        """
        self._at_end()
        failure = None if error is None else _text(error)
        if self._files is None:
            if self._mailbox is not None:
                with suppress(Exception):  # rank 0 may be gone
                    self._mailbox.end(failure)
            return None
        missing: Sequence[int] = ()
        if self._mailbox is not None:
            failures: dict[int, str] = {}
            if error is None:
                failures, missing = self._mailbox.wait_for_ends()
            self._take_others()
            for rank, text in sorted(failures.items()):
                failure = f"rank {rank}: {text}"
        if failure is None and missing:
            failure = f"ranks {', '.join(map(str, missing))} have sent no end."
        is_stopped = isinstance(error, KeyboardInterrupt | SystemExit) or (error is None and left > 0)
        state = RunState.STOPPED if is_stopped else RunState.SUCCEEDED if failure is None else RunState.FAILED
        return self._files.end(state, failure=None if is_stopped else failure)

    def _take_others(self) -> None:
        assert self._files is not None
        if self._mailbox is not None:
            for records, events in self._mailbox.take():
                self._files.put(records, events)


class _Files:
    """The run's folder, at rank 0: claimed, written and followed."""

    def __init__(self, job: Job, plan: Plan, *, from_samples: int | None, run: str | None) -> None:
        self._plan = plan
        self._open = ExitStack()
        self._tracker = ProgressTracker()
        now = time()
        before = _continued(run)
        if before is not None:
            self.folder, lease = before
            self._open.enter_context(lease)
            self.attempt = next_attempt(self.folder)
            clear_stop(self.folder)
            status = self.folder.read_json("status.json")
            self.folder.write(f"job-{self.attempt}.yaml", dump_job(job))
            idle_s = max(0.0, now - float(status.get("ended_at") or now))
            changed: dict[str, Any] = {
                "idle_s": status.get("idle_s", 0.0) + idle_s,
                "ended_at": None,
                "failure": None,
                "exit_code": None,
            }
        else:
            self.folder = RunFolder.create(job.storage, name=job.name, now=datetime.now(UTC))
            lease = self._open.enter_context(Lease.claim(self.folder))
            self.attempt, idle_s = 0, 0.0
            self.folder.write("job.yaml", dump_job(job))
            changed = {"started_at": now}
        self.folder.write_json("plan.json", plan.to_dict())
        self.folder.set_state(RunState.RUNNING, place=self.folder.place, recipe_folder=str(Path.cwd()), **changed)
        held = lease.held_folder()
        self.control = self._open.enter_context(RunControl(held))
        self._writer = BackgroundWriter(held, job.tracking.seen_from(Path.cwd()), always_in_thread=True)
        if before is not None:
            resumed = Resumed(time=now, from_samples=from_samples, workers=plan.world_size, changes=[], idle_s=idle_s)
            self._writer.put([], [resumed])

    def put(self, records: Sequence[Record], events: Sequence[Event]) -> None:
        self._writer.put(records, events)
        self._tracker.add(records, events)
        done, plan = self._tracker.progress(), self._plan
        tokens = plan.tokens_per_sample
        self.control.show(partial(progress_dict, done, total_samples=plan.end_progress, tokens_per_sample=tokens))

    def end(self, state: RunState, *, failure: str | None) -> Report:
        with self._open:
            self._writer.close(state)
            code = {RunState.SUCCEEDED: 0, RunState.STOPPED: 130}.get(state, 4)
            self.folder.set_state(
                state, ended_at=time(), failure=None if failure is None else mask_text(failure), exit_code=code
            )
            report = write_report(self.folder)
        print(f"Run {self.folder.run_id}: {state}. Report: {self.folder.path('report.html')}", file=sys.stderr)
        return report


def _continued(run: str | None) -> tuple[RunFolder, Lease] | None:
    """Return the folder of a run that continues, claimed; None: it is not there, or another process runs it."""
    if run is None:
        return None
    with suppress(RunError):
        folder = RunFolder(run)
        if folder.is_run():
            return folder, Lease.claim(folder)
    return None


def _text(error: BaseException) -> str:
    return str(error) if isinstance(error, ScalerError) else f"{type(error).__name__}: {error}"


def _processes(number: int) -> str:
    return "this process" if number == 1 else f"{number} processes"
