"""Train without Ray: with one worker in this process, or with those that torchrun has started."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, nullcontext, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist

from scaler.errors import ScalerError, TrainingError
from scaler.job import Job, parse_job
from scaler.metrics.events import Resumed
from scaler.plan import Plan
from scaler.runs import RunFolder, RunState
from scaler.runs.control import StopRequest
from scaler.runs.processes import stop_signals, torchrun_rank
from scaler.training.activity import Activity
from scaler.training.checkpoints.files import find_checkpoint, passed_over_events
from scaler.training.data.batches import is_lost_data_process
from scaler.training.device import cpu, gpu, gpus_here, prepare_device, use_threads
from scaler.training.own_loop.group import LoopGroup, group_of_processes
from scaler.training.process_context import InProcess, OnHandOver
from scaler.training.process_group import is_lost_peer, leave_group, process_of_its_own
from scaler.training.randomness import seed_everything
from scaler.training.recipe.failures import recipe_failure
from scaler.training.work import Work
from scaler.training.worker_context import AttemptEnd


class Task(NamedTuple):
    """What rank 0 sends to the other workers."""

    job: Mapping[str, Any]  # ``Job.model_dump()``
    plan: Mapping[str, Any]  # ``Plan.to_dict()``
    folder: RunFolder
    recipe_folder: str


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
    """Train a plan in this process, from the newest checkpoint if there is one; with torchrun, as rank 0 of several.

    The first Ctrl-C (or SIGTERM, or SIGHUP) asks the training to save and stop; a second one interrupts it at once.

    Args:
        job: the job of the run.
        plan: its plan, for the processes that there are.
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
    with _processes() as group, redirect_stdout(sys.stderr):  # stdout is for the result; the recipe prints to stderr
        group.from_rank_0(Task(job.model_dump(), plan.to_dict(), folder, str(recipe_folder)))
        context = InProcess(
            folder,
            group=group,
            device=_device(job),
            tracking=job.tracking.seen_from(Path.cwd()),
            on_hand_over=on_hand_over,
            stop_requested=stop_requested,
        )
        with closing(context), ExitStack() as asked:
            if resumed is not None:
                context.note(resumed)
            try:
                end = _train(job, plan, context, asked, recipe_folder=recipe_folder)
            except Exception as error:
                if _lost_a_peer(error):
                    raise _lost(context.others_end(is_one_lost=True)) from error
                raise
            if (failure := context.others_end()) is not None:
                raise _lost(failure)
            context.ended = RunState.SUCCEEDED if end is AttemptEnd.FINISHED else RunState.STOPPED
            if end is AttemptEnd.STOPPED:
                context.note(context.leave_event())
            return end is AttemptEnd.FINISHED


def send_no_task() -> None:
    """Let the other processes of torchrun end, at rank 0."""
    with _processes() as group:
        group.from_rank_0(None)


def work_for_rank_0() -> tuple[RunFolder, bool]:
    """Do a worker's part of the run that rank 0 runs: what a process of torchrun with another rank does.

    Returns:
        The run's folder, and whether the training is finished; False: it was stopped.

    Raises:
        ScalerError: as ``train_in_process``; rank 0 has it too.
        SystemExit: rank 0 has nothing to run.
    """
    with _processes() as group, redirect_stdout(sys.stderr):
        task: Task | None = group.from_rank_0(None)
        if task is None:
            raise SystemExit(0)
        job = parse_job(task.job, source="the job")
        context = InProcess(task.folder, group=group, device=_device(job))
        failure: str | None = "it was interrupted"
        try:
            with ExitStack() as asked:
                end = _train(job, Plan.from_dict(task.plan), context, asked, recipe_folder=Path(task.recipe_folder))
            failure = None
        except ScalerError as error:
            failure = str(error)
            if _lost_a_peer(error):
                raise _lost(None) from error
            raise
        finally:
            context.end(failure)
        return task.folder, end is AttemptEnd.FINISHED


def _train(job: Job, plan: Plan, context: InProcess, asked: ExitStack, *, recipe_folder: Path) -> AttemptEnd:
    """Train a worker's part; an exception of the recipe becomes a ``RecipeError``.

    From the first step on, until ``asked`` is closed, Ctrl-C asks the training to stop; before, it ends it at once.
    """
    use_threads(job.resources.cpus_per_worker)
    try:
        prepare_device(context.device, job.train)
        seed_everything(job.train.seed)
        start, passed_over = find_checkpoint(context.folder)
        with process_of_its_own() if context.world_size == 1 else nullcontext():

            def begun(_: Activity) -> None:
                asked.enter_context(_interrupts_ask(context))
                context.started(start or 0)
                for event in passed_over_events(passed_over, attempt=context.attempt):
                    context.note(event)

            return Work(job, plan, context, recipe_folder=recipe_folder, on_start=begun).run(start)
    except ScalerError:
        raise
    except (Exception, SystemExit) as error:  # sys.exit() in a recipe is a failure too
        if is_lost_data_process(error):
            raise TrainingError(
                f"a data-loading process is gone: {str(error).strip().rstrip('.')}.",
                "If memory was short, use fewer train.data_workers. "
                f"Continue from the newest checkpoint: scaler resume {context.folder.run_id}.",
            ) from error
        raise recipe_failure(error, f"rank {context.rank}", folder=recipe_folder) from error


@contextmanager
def _processes() -> Iterator[LoopGroup]:
    """Yield the group of the processes that torchrun has started, or of this process alone."""
    if torchrun_rank() is None:
        yield LoopGroup(rank=0, world_size=1, gloo=None, meeting_host="127.0.0.1")
        return
    dist.init_process_group()
    try:
        yield group_of_processes()
    finally:
        leave_group()


def _device(job: Job) -> torch.device:
    gpus = job.resources.gpus_per_worker
    if gpus == "auto":
        gpus = gpus_here()
    return gpu(int(os.environ.get("LOCAL_RANK", 0)) if torchrun_rank() is not None else 0) if gpus else cpu()


def _lost_a_peer(error: BaseException) -> bool:
    return isinstance(error.__cause__, Exception) and is_lost_peer(error.__cause__)


def _lost(failure: str | None) -> TrainingError:
    """Return the error of a run whose other workers have failed."""
    if failure is None:
        return TrainingError("another process of torchrun is gone.", "Its error is above, or in torchrun's --log-dir.")
    return TrainingError(failure)


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
