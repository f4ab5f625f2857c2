"""The recipe: what a user writes, in plain torch."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.utils.data import Dataset


Loss = Callable[["nn.Module", Any], "Tensor | tuple[Tensor, Tensor | float]"]
Evaluate = Callable[["nn.Module", Any], Mapping[str, Any]]
LOSS_OVER = ("samples", "global_batch", "micro_batch")
EVALUATE_OVER = ("samples", "batch")


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """Model, data and loss of a job.

    Args:
        model: on the CPU; scaler moves it to the worker's device.
        train_data: a map-style dataset. A ``TensorDataset`` is indexed a batch at a time; a dataset with
            ``__getitems__`` is asked for a batch at a time; any other, sample by sample.
        loss: ``loss(model, batch)``: the mean over the batch's samples, or ``(sum, weight)`` for losses that weigh
            samples differently (by token, say): the step then divides by the weight of the whole global batch.
        loss_over: ``samples``: the loss is one of the two above, which is measured before the first step.
            ``global_batch``: it compares the samples of a step, and gathers them with ``scaler.all_gather``; a step is
            then one forward/backward on each worker, never several micro-batches. ``micro_batch``: it depends on the
            samples of one forward/backward; nothing is measured, and another number of workers or micro-batches
            trains on another objective.
        eval_data: a map-style dataset; None: no evaluation.
        evaluate: ``evaluate(model, batch)``: what one forward pass says, by name. A number is a mean over the batch's
            samples. ``(sum, weight)`` is divided over all the data. An object with torchmetrics' ``update``,
            ``compute`` and ``reset``, made once and updated here, is computed over all the data. None: the loss.
        metrics: a function of all the data's outputs, such as ``metrics(predictions, targets)``: returns further
            values by name. Each parameter gets what ``evaluate`` returned under its name: of a tensor or list with one
            row a sample the rows of all workers, in the data's order, on the CPU; of anything else its value.
        evaluate_over: ``samples``: no value depends on how the data is cut into batches, which is measured before the
            first step. ``batch``: they may; nothing is measured, and values are means over batches.
        collate: makes a batch of a list of samples; None: torch's ``default_collate``.
        groups: parameter groups as the job file writes them (``{"match": "backbone.*", "lr_ratio": 0.1}``), for a job
            with ``groups: recipe``.
        flops_per_sample: floating-point operations of one sample's forward and backward pass; for a transformer about
            6 x parameters x tokens. The report makes the achieved FLOPs of it, and MFU.
    """

    model: "nn.Module"
    train_data: "Dataset[Any]"
    loss: Loss
    loss_over: Literal["samples", "global_batch", "micro_batch"] = "samples"
    eval_data: "Dataset[Any] | None" = None
    evaluate: Evaluate | None = None
    metrics: Callable[..., Mapping[str, Any]] | None = None
    evaluate_over: Literal["samples", "batch"] = "samples"
    collate: Callable[[list[Any]], Any] | None = None
    groups: Sequence[Mapping[str, Any]] = ()
    flops_per_sample: float | None = None
