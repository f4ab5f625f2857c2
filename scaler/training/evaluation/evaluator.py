"""What a run's evaluations say, on every worker the same."""

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
    """Evaluates a model, and the average of its weights where there is one.

    Args:
        recipe: has ``eval_data``, or there is nothing to evaluate.
        context: where this worker is.
        module: not wrapped.
        average: of its weights; None: there is none.
        activity: told of each batch.
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
        """Whether the recipe has anything to evaluate on."""
        return self._recipe.eval_data is not None

    def values(self, plan: Plan, *, most_samples: int | None = None) -> dict[str, float]:
        """Return what the data says of the weights, and of their average as ``ema_...``.

        Args:
            plan: gives the samples of a forward pass.
            most_samples: of the data, from its start; None: all of it.
        """
        values = self._values_of(self._module, plan, most_samples)
        if self._average is not None:
            averaged = self._values_of(self._average.model, plan, most_samples)
            values |= {f"ema_{name}": value for name, value in averaged.items()}
        return values

    def check(self, job: Job, plan: Plan, *, is_start: bool) -> None:
        """Evaluate a batch a worker before the first step: what is wrong with the evaluation shows now.

        The models and random numbers are left as they were.

        Args:
            job: names the values that it reacts to.
            plan: gives the samples of a forward pass.
            is_start: whether values that depend on how the data is cut are looked for.

        Raises:
            RecipeError: a value that the job reacts to is not there; or one depends on how the data is cut.
        """
        plateau, best = job.schedule.plateau, job.checkpoint.best
        wanted = {} if plateau is None else {"schedule.plateau.metric": plateau.metric}
        wanted |= {} if best is None else {"checkpoint.best.metric": best.metric}
        if self._recipe.eval_data is None:
            for key in wanted:
                key = key.removesuffix(".metric")
                raise RecipeError(f"{key} reacts to evaluations, and the recipe has no eval_data.", "Give it one.")
            return
        context, error = self._context, None
        with untouched(self._module, context.device):
            values = self.values(plan, most_samples=plan.per_worker_batch_size * context.world_size)
            names = list(values)
            if not set(wanted.values()) <= set(names):  # it may be there for some batches only
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
