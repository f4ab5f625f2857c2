"""What a worker does with a job: it trains the recipe, or calls the script that has a loop of its own."""

from collections.abc import Callable
from pathlib import Path

from scaler.job import Job
from scaler.plan import Plan
from scaler.training.activity import Activity
from scaler.training.loop import Training
from scaler.training.own_loop.worker import InWorker
from scaler.training.recipe.check import checked_recipe
from scaler.training.recipe.load import call_recipe
from scaler.training.worker_context import AttemptEnd, WorkerContext


class Work:
    """One worker's work in one attempt.

    Args:
        job: of the run.
        plan: of this attempt.
        context: of this worker.
        recipe_folder: where the recipe is looked for.
        on_start: called with the training's activity, for a watchdog, when the recipe is built.
    """

    def __init__(
        self,
        job: Job,
        plan: Plan,
        context: WorkerContext,
        *,
        recipe_folder: Path,
        on_start: Callable[[Activity], None] = lambda _: None,
    ) -> None:
        self._job, self._plan, self._context = job, plan, context
        self._recipe_folder, self._on_start = recipe_folder, on_start
        self._own = InWorker(job, plan, context, on_start=on_start)
        self._training: Training | None = None

    @property
    def samples_seen(self) -> int | None:
        """Samples in the weights, over all workers; None: the training has not begun."""
        found = self._training or self._own.loop
        return found.samples_seen if found is not None else None

    def run(self, start: int | None) -> AttemptEnd:
        """Build the recipe and train it; where its function calls ``scaler.start``, the function trains.

        Args:
            start: samples seen of the checkpoint to continue from; None: there is none. A script loads its own.

        Raises:
            ScalerError: as ``Training.run``, or the function's result cannot be used.
            Exception: any exception of the recipe's own code, unchanged.
        """
        job, path = self._job, self._job.recipe_function
        try:
            built = call_recipe(path, folder=self._recipe_folder, arguments=job.recipe_args, around=self._own)
        except BaseException as error:
            if self._own.loop is not None:
                self._own.loop.finish(error)
            raise
        if self._own.loop is not None:
            return self._own.end(built, path=path)
        recipe, activity = checked_recipe(built, path), Activity()
        self._on_start(activity)
        self._training = Training(recipe, job, self._plan, self._context, activity)
        if start is not None:
            self._training.restore(start)
        return self._training.run()
