"""One evaluation set of a recipe that has several."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from torch.utils.data import Dataset

    from scaler.training.recipe.recipe import Evaluate


@dataclass(frozen=True, kw_only=True, slots=True)
class Eval:
    """One evaluation set in ``Recipe.evals``. What is not given is the recipe's.

    Args:
        data: as ``Recipe.eval_data``.
        evaluate: as ``Recipe.evaluate``. With its own ``evaluate``, a set does not use the recipe's ``metrics``.
        metrics: as ``Recipe.metrics``.
        evaluate_over: as ``Recipe.evaluate_over``.
        collate: as ``Recipe.collate``.
        batch_size: samples in a forward pass; None: those of the training on one worker, or fewer. With a number, the
            data are cut into batches of this size, and every worker gets whole batches. Then the batches, and the
            random numbers of each, are the same on any number of workers.
        data_workers: processes on each worker that load batches ahead of time; 0: none.
    """

    data: "Dataset[Any] | Iterable[Any]"
    evaluate: "Evaluate | None" = None
    metrics: Callable[..., Mapping[str, Any]] | None = None
    evaluate_over: Literal["samples", "batch"] | None = None
    collate: Callable[[list[Any]], Any] | None = None
    batch_size: int | None = None
    data_workers: int = 0
