"""Evaluations during a run."""

from torch import nn

from scaler.errors import RecipeError
from scaler.job import Job
from scaler.plan import Plan
from scaler.training.activity import Activity
from scaler.training.evaluation.cut_check import cut_error
from scaler.training.evaluation.loop import evaluate
from scaler.training.model.average import WeightAverage
from scaler.training.model.untouched import untouched
from scaler.training.process_group import agree
from scaler.training.recipe import Recipe
from scaler.training.worker_context import WorkerContext


class Evaluator:
    """Evaluates a model, and the average of its weights if there is one.

    Args:
        recipe: without ``eval_data`` there is nothing to evaluate.
        context: this worker's rank and device.
        module: the model, not wrapped.
        average: the average of its weights; None: there is none.
        activity: updated for each batch.
    """

    def __init__(
        self,
        recipe: Recipe,
        context: WorkerContext,
        module: nn.Module,
        average: WeightAverage | None,
        activity: Activity,
    ) -> None:
        self._recipe, self._context, self._module, self._average = recipe, context, module, average
        self._activity = activity

    @property
    def is_there(self) -> bool:
        """Whether the recipe has data to evaluate on."""
        return self._recipe.eval_data is not None

    def values(self, plan: Plan, *, most_samples: int | None = None) -> dict[str, float]:
        """Return the values of the weights, and those of their average as ``ema_...``.

        Args:
            plan: gives the samples of a forward pass.
            most_samples: evaluate only this many samples from the start of the data; None: all.
        """
        values = self._values_of(self._module, plan, most_samples)
        if self._average is not None:
            averaged = self._values_of(self._average.model, plan, most_samples)
            values |= {f"ema_{name}": value for name, value in averaged.items()}
        return values

    def check(self, job: Job, plan: Plan, *, is_start: bool) -> None:
        """Evaluate one batch per worker before the first step, so that errors of the evaluation show early.

        Models and random numbers are restored afterwards.

        Args:
            job: names the values that it reacts to.
            plan: gives the samples of a forward pass.
            is_start: whether to search for values that depend on how the data is cut into batches.

        Raises:
            RecipeError: a value that the job reacts to does not exist, or a value depends on the cut.
        """
        plateau, best = job.schedule.plateau, job.checkpoint.best
        wanted = {} if plateau is None else {"schedule.plateau.metric": plateau.metric}
        wanted |= {} if best is None else {"checkpoint.best.metric": best.metric}
        if self._recipe.eval_data is None:
            for key in wanted:
                key = key.removesuffix(".metric")
                raise RecipeError(
                    f"{key} reacts to evaluations, but the recipe has no eval_data.", "Add eval_data to it."
                )
            return
        context, error = self._context, None
        with untouched(self._module, context.device):
            values = self.values(plan, most_samples=plan.per_worker_batch_size * context.world_size)
            names = list(values)
            if not set(wanted.values()) <= set(names):  # some batches may lack it
                names = list(self.values(plan))
            if is_start:
                error = cut_error(self._recipe, self._module, job, plan, device=context.device, activity=self._activity)
        agree(error, world_size=context.world_size)
        for key, metric in wanted.items():
            if metric not in names:
                raise RecipeError(
                    f"{key} = {metric} is not among the evaluation's values.", f"They are {', '.join(names)}."
                )

    def _values_of(self, model: nn.Module, plan: Plan, most_samples: int | None) -> dict[str, float]:
        context = self._context
        return evaluate(
            self._recipe,
            model,
            rank=context.rank,
            world_size=context.world_size,
            batch_size=plan.per_worker_batch_size,
            device=context.device,
            activity=self._activity,
            most_samples=most_samples,
        )
