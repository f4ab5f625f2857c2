"""The recipe: the model, data and loss that a user writes in plain torch."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.utils.data import Dataset

    from scaler.training.gradients.step_context import StepContext
    from scaler.training.recipe.eval import Eval


Loss = Callable[["nn.Module", Any], "Tensor | tuple[Tensor, Tensor | float] | Mapping[str, Any]"]
Evaluate = Callable[["nn.Module", Any], Mapping[str, Any]]
LOSS_OVER = ("samples", "global_batch", "micro_batch")
EVALUATE_OVER = ("samples", "batch")


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """The model, data and loss of a job.

    Args:
        model: on the CPU, or on torch's meta device; scaler moves it to the worker's device.
        train_data: a map-style dataset. A ``TensorDataset`` is indexed once for a whole batch. A dataset with
            ``__getitems__`` is asked for a whole batch. Any other dataset is asked for one sample after the other.
            Or data in an order of their own: an object with ``read_range(start, stop)``, or an iterable of the samples
            of an epoch, which every worker reads in full. See docs/data-sources.md.
        loss: ``loss(model, batch)``: the mean over the batch's samples, or ``(sum, weight)`` for losses that give
            samples different weights (tokens, for example). A step then divides the sum by the weight of the global
            batch. Or a dict of these: with ``loss``, that is the loss, and the other values are recorded; without it,
            all entries are terms, and the loss is their sum. None: the recipe has ``step``.
        optimizers: for several optimizers: name -> what it trains: a module of ``model``, or parameters. Each
            parameter that requires a gradient belongs to one of them. Needs ``step``.
        step: instead of ``loss``: ``step(context, batch)`` takes the steps of the optimizers, on each worker for its
            share of the batch, with ``context.backward(loss, "d")`` and ``context.step("d")``
            (``scaler.StepContext``). It returns a dict of values to record, means over the batch's samples or
            ``(sum, weight)``; ``loss`` among them is the loss of the records.
        after_step: ``after_step(model)`` is called after each step, without gradients, to clamp weights for example.
            It must do the same on every worker.
        loss_over: ``samples``: the loss has one of these two forms. scaler measures this before the first step.
            ``global_batch``: the loss compares the samples of a step, and gathers them with ``scaler.all_gather``. A
            step is then one forward/backward on each worker, never several micro-batches. ``micro_batch``: the loss
            depends on the samples of one forward/backward. scaler measures nothing, and the objective changes with the
            number of workers or micro-batches.
        eval_data: as ``train_data``, with ``len()``; None: no evaluation.
        evaluate: ``evaluate(model, batch)``: the values of one forward pass, by name. A number is a mean over the
            batch's samples. ``(sum, weight)`` is added up and divided over all the data. A metric object with
            torchmetrics' ``update``, ``compute`` and ``reset``, created once and updated here, is computed over all the
            data. None: the loss is evaluated.
        metrics: a function of the outputs for all the data, such as ``metrics(predictions, targets)``. It returns more
            values by name. Each parameter gets what ``evaluate`` returned under the parameter's name. A tensor or list
            with one row a sample becomes the rows of all workers, in the order of the data, on the CPU. Any other
            value becomes its value over all the data.
        evaluate_over: ``samples``: no value depends on how the data is cut into batches. scaler measures this before
            the first step. ``batch``: values may depend on it. scaler measures nothing, and reports means over batches.
        evals: more evaluation sets by name: datasets, or ``scaler.Eval`` objects. The values of the set ``hard`` are
            called ``hard_loss``, ``hard_accuracy`` and so on.
        collate: makes a batch from a list of samples; None: torch's ``default_collate``.
        sampler: the order of a map-style ``train_data``: each ``iter(sampler)`` yields the indices of one epoch. None:
            a new random order in each epoch. The random numbers that it draws start from the job's seed and the epoch.
        sharded: False: every worker reads all of an iterable ``train_data`` and uses its share. True: every worker
            reads a part of its own (docs/data-sources.md says what is then not kept).
        keep_modes: whether the training keeps the mode (``train()`` or ``eval()``) that ``build`` gave each module.
            None: yes, unless every module is in evaluation mode. True: also then. False: every module is put into
            training mode.
        groups: parameter groups as the job file writes them (``{"match": "backbone.*", "lr_ratio": 0.1}``), for a job
            with ``groups: recipe``.
        initialize: for a model on the meta device: ``initialize(module)`` sets the weights and buffers that a module
            has itself, not those of its parts. It is called without gradients, for each such module. None: the
            module's ``reset_parameters()`` is called.
        flops_per_sample: floating-point operations of the forward and backward pass of one sample; for a transformer
            about 6 x parameters x tokens. The report computes the achieved FLOPs and the MFU from this number.
        num_samples: samples in an epoch of ``train_data`` or ``sampler``, if it has no ``len()``.
        tokens_per_sample: tokens of one sample at the start of training, for a job with ``train.unit: tokens`` that
            does not give them.
        sequence_length: ``sequence_length(batch, tokens_per_sample)`` returns a training batch whose samples have so
            many tokens, in a job with ``train.unit: tokens``. It is called for each batch of the training, before the
            batch is copied to the device, and decides which tokens of a longer sample are kept. Evaluation sets are
            used as they are, at every point of the training.
    """

    model: "nn.Module"
    train_data: "Dataset[Any] | Iterable[Any]"
    loss: Loss | None = None
    optimizers: "Mapping[str, nn.Module | Iterable[nn.Parameter]] | None" = None
    step: "Callable[[StepContext, Any], Mapping[str, Any] | None] | None" = None
    after_step: "Callable[[nn.Module], object] | None" = None
    loss_over: Literal["samples", "global_batch", "micro_batch"] = "samples"
    eval_data: "Dataset[Any] | Iterable[Any] | None" = None
    evaluate: Evaluate | None = None
    metrics: Callable[..., Mapping[str, Any]] | None = None
    evaluate_over: Literal["samples", "batch"] = "samples"
    evals: "Mapping[str, Eval | Dataset[Any] | Iterable[Any]]" = field(default_factory=dict)
    collate: Callable[[list[Any]], Any] | None = None
    sampler: Iterable[int] | None = None
    sharded: bool = False
    keep_modes: bool | None = None
    groups: Sequence[Mapping[str, Any]] = ()
    initialize: "Callable[[nn.Module], object] | None" = None
    flops_per_sample: float | None = None
    num_samples: int | None = None
    tokens_per_sample: int | None = None
    sequence_length: Callable[[Any, int], Any] | None = None
