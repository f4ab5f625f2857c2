"""Evaluations during a run."""

from torch import nn

from scaler.errors import RecipeError
from scaler.job import Job
from scaler.plan import Plan
from scaler.training.activity import Activity
from scaler.training.evaluation.cut_check import cut_error
from scaler.training.evaluation.loop import evaluate
from scaler.training.evaluation.sets import EvalSet, eval_sets
from scaler.training.model.average import WeightAverage
from scaler.training.model.untouched import untouched
from scaler.training.process_group import agree
from scaler.training.recipe import Recipe
from scaler.training.worker_context import WorkerContext


class Evaluator:
    """Evaluates a model, and the average of its weights if there is one.

    Args:
        recipe: without ``eval_data`` and ``evals`` there is nothing to evaluate.
        context: this worker's rank and device.
        module: the model, not wrapped.
        average: the average of its weights; None: there is none.
        activity: updated for each batch.
        is_sharded: whether the model is sharded, so that every worker evaluates equally many batches.
    """

    def __init__(
        self,
        recipe: Recipe,
        context: WorkerContext,
        module: nn.Module,
        average: WeightAverage | None,
        activity: Activity,
        *,
        is_sharded: bool = False,
    ) -> None:
        self._sets, self._context, self._module, self._average = eval_sets(recipe), context, module, average
        self._activity, self._is_sharded = activity, is_sharded

    @property
    def is_there(self) -> bool:
        """Whether the recipe has data to evaluate on."""
        return bool(self._sets)

    def values(self, plan: Plan, *, one_batch: bool = False) -> dict[str, float]:
        """Return the values of the weights on all evaluation sets, and those of their average as ``ema_...``.

        The random numbers of this process are not changed. Those that an evaluation draws are the same each time.

        Args:
            plan: gives the samples of a forward pass.
            one_batch: evaluate only one batch per worker, from the start of the data.

        Raises:
            RecipeError: two values have one name, or the recipe's values cannot be used.
        """
        values: dict[str, float] = {}
        models = {"": self._module} | ({"ema_": self._average.model} if self._average is not None else {})
        for prefix, model in models.items():
            for one in self._sets:
                with one.named_errors():
                    found = one.named(self._values_of(one, model, plan, one_batch=one_batch))
                found = {f"{prefix}{name}": value for name, value in found.items()}
                if twice := sorted(found.keys() & values.keys()):
                    raise RecipeError(
                        f"two values of the evaluation are called {twice[0]}.", "Give one of the sets another name."
                    )
                values |= found
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
        if not self._sets:
            for key in wanted:
                key = key.removesuffix(".metric")
                raise RecipeError(
                    f"{key} reacts to evaluations, but the recipe has no eval_data.", "Add eval_data to it."
                )
            return
        context, error = self._context, None
        with untouched(self._module, context.device):
            names = list(self.values(plan, one_batch=True))
            if not set(wanted.values()) <= set(names):  # some batches may lack it
                names = list(self.values(plan))
            if is_start:
                error = self._cut_error(job, plan)
        agree(error, world_size=context.world_size)
        for key, metric in wanted.items():
            if metric not in names:
                raise RecipeError(
                    f"{key} = {metric} is not among the evaluation's values.", f"They are {', '.join(names)}."
                )

    def _cut_error(self, job: Job, plan: Plan) -> RecipeError | None:
        for one in self._sets:
            size, device = one.samples_of_a_batch(plan), self._context.device
            error = cut_error(
                one.recipe,
                self._module,
                job,
                batch_size=size,
                device=device,
                activity=self._activity,
                shared_by=self._context.world_size if self._is_sharded else 1,
            )
            if error is not None:
                return one.named_error(error)
        return None

    def _values_of(self, one: EvalSet, model: nn.Module, plan: Plan, *, one_batch: bool) -> dict[str, float]:
        context, size = self._context, one.samples_of_a_batch(plan)
        return evaluate(
            one.recipe,
            model,
            rank=context.rank,
            world_size=context.world_size,
            batch_size=size,
            device=context.device,
            activity=self._activity,
            most_samples=size * context.world_size if one_batch else None,
            whole_batches=one.batch_size is not None,
            data_workers=one.data_workers,
            is_sharded=self._is_sharded,
        )
