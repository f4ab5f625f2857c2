"""Train with one worker in this process, without Ray: for debuggers and the smallest jobs."""

import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, redirect_stdout
from pathlib import Path
from time import time

import torch

from scaler.errors import ScalerError, TrainingError
from scaler.job import Job
from scaler.job.tracking import Tracking
from scaler.metrics.background import BackgroundWriter
from scaler.metrics.events import Event, LeaveRequested, Resumed, WorkerStarted
from scaler.metrics.next_attempt import next_attempt
from scaler.metrics.record import Record
from scaler.plan import Plan
from scaler.runs import RunFolder, RunState
from scaler.runs.control import StopRequest
from scaler.runs.processes import stop_signals
from scaler.training.checkpoints.files import find_checkpoint, passed_over_events
from scaler.training.data.batches import is_lost_data_process
from scaler.training.device import cpu, describe_device, gpu, gpus_here, prepare_device, use_threads
from scaler.training.process_group import process_of_its_own
from scaler.training.randomness import seed_everything
from scaler.training.recipe.failures import recipe_failure
from scaler.training.work import Work
from scaler.training.worker_context import AttemptEnd, Leave

OnHandOver = Callable[[Sequence[Record], Sequence[Event]], None]


class InProcess:
    """The context of a single worker, which writes its records directly to the run's folder.

    Args:
        folder: the run's folder; no other process writes its records and events.
        device: of the model.
        tracking: the job's trackers.
        on_hand_over: called with the records and events of each hand-over.
        stop_requested: returns the request to stop the run, if there is one.

    Attributes:
        ended: how the training ended, for the trackers; set before ``close``.
    """

    rank = 0
    world_size = 1

    def __init__(
        self,
        folder: RunFolder,
        *,
        device: torch.device,
        tracking: Tracking | None = None,
        on_hand_over: OnHandOver = lambda records, events: None,
        stop_requested: Callable[[], StopRequest | None] = lambda: None,
    ) -> None:
        self.folder = folder
        self.attempt = next_attempt(folder)
        self.device = device
        self._writer = BackgroundWriter(folder, tracking)
        self.ended = RunState.FAILED
        self._on_hand_over = on_hand_over
        self._stop_requested = stop_requested
        self._leave = Leave.NOT
        self._stopped_by = ""

    def started(self, start_samples: int) -> None:
        """Report that the worker starts at ``start_samples``: those of its checkpoint, or 0."""
        self.note(
            WorkerStarted(
                time=time(),
                attempt=self.attempt,
                rank=0,
                node=socket.gethostname(),
                pid=os.getpid(),
                world_size=1,
                start_samples=start_samples,
                **describe_device(self.device),
            )
        )

    def note(self, event: Event) -> None:
        """Write an event that does not come from the training."""
        self._writer.put([], [event])

    def next_attempt(self) -> int:
        """Return the number of the next attempt."""
        return self.attempt + 1

    def hand_over(self, records: Sequence[Record], events: Sequence[Event], *, samples_seen: int) -> None:
        """Write records and events: at once into a local folder, in a thread into remote storage."""
        self._writer.put(records, events)
        self._on_hand_over(records, events)

    def wanted_steps(self, steps: int) -> int:
        """Return ``steps``: records are not thinned."""
        return steps

    def secure(self, samples_seen: int, *, give_up: Callable[[], bool]) -> None:
        """Wait until everything that was handed over is written."""
        self._writer.wait_written(give_up=give_up)

    def ask_to_stop(self) -> bool:
        """Ask the training to save and stop; return whether this is the first time."""
        is_first, self._leave = self._leave is not Leave.STOP, Leave.STOP
        return is_first

    def leave_requested(self) -> Leave:
        """Return ``Leave.STOP`` after ``ask_to_stop``, or if the run is to be stopped.

        Raises:
            KeyboardInterrupt: the run is to be stopped at once.
        """
        request = self._stop_requested()
        if request is not None:
            if request.now:
                raise KeyboardInterrupt
            self._stopped_by = f"scaler stop of {request.by}"
            self._leave = Leave.STOP
        return self._leave

    def leave_event(self) -> LeaveRequested:
        """Return the event of a training that was asked to stop."""
        return LeaveRequested(time=time(), attempt=self.attempt, why="stop", detail=self._stopped_by)

    def close(self) -> None:
        """Flush and close the files."""
        self._writer.close(self.ended)


def train_in_process(
    job: Job,
    plan: Plan,
    folder: RunFolder,
    *,
    recipe_folder: Path,
    on_hand_over: OnHandOver,
    resumed: Resumed | None = None,
    stop_requested: Callable[[], StopRequest | None] = lambda: None,
) -> bool:
    """Train a plan for one worker in this process, from the newest checkpoint if there is one.

    The first Ctrl-C (or SIGTERM, or SIGHUP) asks the training to save and stop; a second one interrupts it at once.

    Args:
        job: the job of the run.
        plan: its plan, for one worker.
        folder: the run's.
        recipe_folder: the job file's folder.
        on_hand_over: called with the records and events of each hand-over.
        resumed: the event of a resumed run.
        stop_requested: returns the request to stop the run, if there is one.

    Returns:
        True if the training is finished, False if it was stopped.

    Raises:
        ScalerError: any failure; an exception of the recipe becomes a ``RecipeError`` with its traceback.
    """
    use_threads(job.resources.cpus_per_worker)
    gpus = job.resources.gpus_per_worker
    device = gpu() if (gpus_here() if gpus == "auto" else gpus) else cpu()
    prepare_device(device, job.train)
    try:
        with redirect_stdout(sys.stderr):  # stdout is for the result; the recipe prints to stderr
            seed_everything(job.train.seed)
            tracking = job.tracking.seen_from(Path.cwd())
            with closing(
                InProcess(
                    folder,
                    device=device,
                    tracking=tracking,
                    on_hand_over=on_hand_over,
                    stop_requested=stop_requested,
                )
            ) as context:
                if resumed is not None:
                    context.note(resumed)
                start, passed_over = find_checkpoint(folder)
                context.started(start or 0)
                for event in passed_over_events(passed_over, attempt=context.attempt):
                    context.note(event)
                with ExitStack() as asked, process_of_its_own():  # while the recipe is built, Ctrl-C ends it at once
                    work = Work(
                        job,
                        plan,
                        context,
                        recipe_folder=recipe_folder,
                        on_start=lambda _: asked.enter_context(_interrupts_ask(context)),
                    )
                    end = work.run(start)
                context.ended = RunState.SUCCEEDED if end is AttemptEnd.FINISHED else RunState.STOPPED
                if end is AttemptEnd.STOPPED:
                    context.note(context.leave_event())
                return end is AttemptEnd.FINISHED
    except ScalerError:
        raise
    except (Exception, SystemExit) as error:  # sys.exit() in a recipe is a failure too
        if is_lost_data_process(error):
            raise TrainingError(
                f"a data-loading process is gone: {str(error).strip().rstrip('.')}.",
                "If memory was short, use fewer train.data_workers. "
                f"Continue from the newest checkpoint: scaler resume {folder.run_id}.",
            ) from error
        raise recipe_failure(error, "rank 0", folder=recipe_folder) from error


@contextmanager
def _interrupts_ask(context: InProcess) -> Iterator[None]:
    """Let the first Ctrl-C, SIGTERM or SIGHUP ask the training to stop, inside a ``with`` block."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ask(number: int, frame: object) -> None:
        if not context.ask_to_stop():
            raise KeyboardInterrupt

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, *stop_signals())}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
