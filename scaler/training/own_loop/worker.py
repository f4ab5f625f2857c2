"""A loop of one's own in a worker of a run: the run, its plan and its processes are there already."""

from collections.abc import Callable, Sequence

import torch

from scaler.errors import JobFileError, RecipeError
from scaler.job import Job
from scaler.job.own_loop import require_own_loop_keys
from scaler.metrics.events import Event
from scaler.metrics.record import Record
from scaler.plan import Plan
from scaler.training.activity import Activity
from scaler.training.own_loop.around import Started
from scaler.training.own_loop.group import group_of_processes
from scaler.training.own_loop.loop import OwnLoop
from scaler.training.own_loop.mesh import read_mesh
from scaler.training.own_loop.planned_mesh import require_planned_mesh
from scaler.training.worker_context import AttemptEnd, Leave, WorkerContext


class InWorker:
    """Answers ``scaler.start`` in a worker.

    Args:
        job: of the run, with every override in it; the script's own path of a job file is not read.
        plan: of this attempt.
        context: of this worker.
        on_start: called with the loop's activity, for the watchdog.

    Attributes:
        loop: what ``scaler.start`` has returned; None: it was not called.
    """

    def __init__(
        self, job: Job, plan: Plan, context: WorkerContext, *, on_start: Callable[[Activity], None] = lambda _: None
    ) -> None:
        self._job, self._plan, self._context, self._on_start = job, plan, context, on_start
        self.loop: OwnLoop | None = None

    def start(self, given: Started) -> OwnLoop:
        """Return the loop of this worker.

        Raises:
            RecipeError: the script has another number of samples than the plan, or has begun a loop before.
            JobFileError: the job has a key that such a loop does not follow, or another mesh than the script, or the
                run is a range test.
        """
        num_samples = given.num_samples
        if self._plan.purpose != "train":
            raise JobFileError(
                f"{self._job.recipe} calls scaler.start: it has a loop of its own, and a range test needs a recipe.",
                "Return a scaler.Recipe, or find the learning rate with an experiment: --lr 0.01,0.03,0.1.",
            )
        if self.loop is not None:
            raise RecipeError("scaler.start was called twice in one run.", "Call it once.")
        require_own_loop_keys(self._job, source=self._job.name)
        if num_samples is not None and num_samples != self._plan.num_samples:
            raise RecipeError(
                f"train.num_samples = {self._plan.num_samples}, but scaler.start was called with num_samples = "
                f"{num_samples}.",
                f"Set train.num_samples to {num_samples}, or leave it out.",
            )
        activity = Activity()
        self._on_start(activity)
        group = group_of_processes()
        mesh = read_mesh(given.mesh, rank=group.rank, world_size=group.world_size, data_dims=given.data_dims)
        require_planned_mesh(mesh, self._plan)
        self.loop = OwnLoop(self._job, self._plan, _LoopInWorker(self._context), group, mesh, activity)
        return self.loop

    def end(self, returned: object, *, path: str) -> AttemptEnd:
        """End the loop after the script's function has returned; return how it ended.

        Args:
            returned: by the function.
            path: of the function, for messages.

        Raises:
            RecipeError: the function has returned something.
        """
        assert self.loop is not None
        if returned is not None:
            raise RecipeError(
                f"{path} has called scaler.start and returned {type(returned).__name__}.",
                "A function with a loop of its own returns nothing; a function that returns a recipe calls no "
                "scaler.start.",
            )
        self.loop.finish()
        return self.loop.ended_by


class _LoopInWorker:
    """The context of a loop in a worker: the worker's own, which begins and ends the run itself.

    Args:
        context: of the worker.
    """

    def __init__(self, context: WorkerContext) -> None:
        self._context = context
        self.rank, self.world_size = context.rank, context.world_size
        self.attempt = context.attempt
        self.run_uri: str | None = context.folder.uri

    def begin(self, *, device: torch.device, from_samples: int | None, run: str | None) -> None:
        """Do nothing: the run has begun."""

    def hand_over(self, records: Sequence[Record], events: Sequence[Event], *, samples_seen: int) -> None:
        """Pass records and events to the worker's context."""
        self._context.hand_over(records, events, samples_seen=samples_seen)

    def leave_requested(self) -> Leave:
        """Return what this worker was asked to do."""
        return self._context.leave_requested()

    def end(self, error: BaseException | None, *, left: Leave) -> None:
        """Do nothing: the worker ends the run."""
