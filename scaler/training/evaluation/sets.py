"""The evaluation sets of a recipe: ``eval_data``, and those in ``evals``."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

from scaler.errors import RecipeError
from scaler.plan import Plan
from scaler.training.recipe import Eval, Recipe


@dataclass(frozen=True, kw_only=True, slots=True)
class EvalSet:
    """One evaluation set.

    Attributes:
        name: in ``Recipe.evals``; empty for ``eval_data``.
        recipe: the recipe with this set as its ``eval_data``, and with the set's own ``evaluate``, ``metrics`` and
            ``collate``.
        batch_size: samples in a forward pass, the same on any number of workers; None: the plan's.
        data_workers: processes that load batches.
    """

    name: str
    recipe: Recipe
    batch_size: int | None = None
    data_workers: int = 0

    def samples_of_a_batch(self, plan: Plan) -> int:
        """Return the samples in a forward pass."""
        if plan.is_constant_length:
            return self.batch_size or plan.per_worker_batch_size
        return self.batch_size or min(phase.per_worker_batch_size for phase in plan.phases)  # samples are whole here

    def named(self, values: Mapping[str, float]) -> dict[str, float]:
        """Return values under their names in reports: ``hard_loss`` for the loss of the set ``hard``."""
        return {f"{self.name}_{name}": value for name, value in values.items()} if self.name else dict(values)

    @contextmanager
    def named_errors(self) -> Iterator[None]:
        """Let errors of the recipe inside a ``with`` block say which set they are about."""
        try:
            yield
        except RecipeError as error:
            raise self.named_error(error) from error

    def named_error(self, error: RecipeError) -> RecipeError:
        """Return an error that says which set it is about."""
        return RecipeError(f"evals[{self.name}]: {error.problem}", error.remedy) if self.name else error


def eval_sets(recipe: Recipe) -> list[EvalSet]:
    """Return the evaluation sets of a recipe, ``eval_data`` first."""
    sets = [] if recipe.eval_data is None else [EvalSet(name="", recipe=recipe)]
    return sets + [_set(recipe, name, one) for name, one in recipe.evals.items() if isinstance(one, Eval)]


def _set(recipe: Recipe, name: str, one: Eval) -> EvalSet:
    own = replace(
        recipe,
        eval_data=one.data,
        evaluate=one.evaluate or recipe.evaluate,
        metrics=one.metrics if one.metrics or one.evaluate else recipe.metrics,
        evaluate_over=one.evaluate_over or recipe.evaluate_over,
        collate=one.collate or recipe.collate,
    )
    return EvalSet(name=name, recipe=own, batch_size=one.batch_size, data_workers=one.data_workers)
