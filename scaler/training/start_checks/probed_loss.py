"""The recipe's loss on a few samples, with fixed random numbers: what ``loss_probe`` measures."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.utils.data import Dataset, TensorDataset

from scaler.core.seeds import stream_seed
from scaler.job import Job
from scaler.plan import Plan
from scaler.training.data.batches import batches, to_device
from scaler.training.data.order import EpochOrder, OwnOrder
from scaler.training.data.sources import load_samples
from scaler.training.data.stream import own_order
from scaler.training.device import is_out_of_memory
from scaler.training.gradients.gather import gathering
from scaler.training.gradients.losses import read_loss
from scaler.training.model.sharding import computing_dtypes
from scaler.training.process_group import object_from_rank_0
from scaler.training.randomness import seed_everything
from scaler.training.recipe import Recipe
from scaler.training.start_checks.loss_values import LossValue
from scaler.training.start_checks.shared_failure import failing_together
from scaler.training.worker_context import WorkerContext

SAMPLES, PART = 8, 2
TOLERANCE = 0.002  # for a deterministic loss; or 8 times the eps of the coarsest dtype, if that is more


class ProbedLoss:
    """The recipe's loss on a few samples of the training set.

    Args:
        recipe: its loss, ``loss_over``, training set and ``collate``.
        model: not wrapped, on the worker's device.
        job: seed and precision.
        plan: of this attempt.
        context: this worker's device and world size.
        is_sharded: whether the model is sharded. Then every worker must run the same forward passes: rank 0's losses
            decide on all of them.

    Attributes:
        gathers: whether the loss is over the global batch, as far as known.
        tolerance: the relative difference that counts as equal.
        whole: the indices of all samples, after ``load``.
        parts: the same indices in parts.
    """

    def __init__(
        self, recipe: Recipe, model: nn.Module, job: Job, plan: Plan, context: WorkerContext, *, is_sharded: bool
    ) -> None:
        self._recipe, self._model, self._plan, self._seed = recipe, model, plan, job.train.seed
        self._is_sharded, self._dtypes = is_sharded, computing_dtypes(model, job)
        self._device, self._world_size = context.device, context.world_size
        self.gathers = recipe.loss_over == "global_batch"
        precision = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[job.train.precision]
        self._precision: torch.dtype | None = precision
        self._autocast: torch.dtype | None = None  # fp32 first: it has the smallest rounding errors
        self.tolerance = TOLERANCE
        self.whole = torch.empty(0, dtype=torch.int64)
        self.parts: Sequence[Tensor] = ()

    def load(self) -> None:
        """Load the samples: the first in the training's order; at least 2, and at most half a micro-batch.

        They are also given twice, as one batch.
        """
        most = max(2, min(SAMPLES, self._plan.per_worker_batch_size // 2))
        if self.gathers:
            most = max(most, min(SAMPLES, 2 * self._world_size))
        size = min(most, self._plan.num_samples)
        is_own = own_order(self._recipe.train_data) is not None
        order = OwnOrder() if is_own else EpochOrder(self._plan.num_samples, seed=self._seed)
        with self._failing_together():
            self._data = self._samples(order.slice(0, size))
        self.whole = torch.arange(size)
        self.parts = torch.split(self.whole, PART if size >= 2 * PART else 1)

    def _samples(self, indices: Tensor) -> Dataset[Any]:
        data: Any = self._recipe.train_data
        if type(data) is TensorDataset and self._recipe.collate is None:
            return TensorDataset(*(tensor[indices] for tensor in data.tensors))
        return load_samples(data, indices.tolist(), seed=self._seed)

    def first_value(self) -> LossValue:
        """Return the loss in fp32, or in the job's precision if the model accepts no other."""
        try:
            return self.value(self.whole)
        except RuntimeError as error:
            if self._precision is None or is_out_of_memory(error):
                raise
            self._autocast = self._precision
            return self.value(self.whole)

    def value(self, indices: Tensor, *, seed: int = 0, is_alone: bool = True) -> LossValue:
        """Return the loss of some of the samples, with random numbers of a seed.

        Raises:
            RecipeError: the recipe does not return a loss, or uses a sharded model's weights outside ``forward``.
        """
        with self._failing_together():
            found = self._computed(indices, seed=seed, is_alone=is_alone)
        if self._is_sharded and is_alone:
            found, self.gathers, self.tolerance = object_from_rank_0(
                (found, self.gathers, self.tolerance), world_size=self._world_size
            )
        return found

    def _failing_together(self) -> AbstractContextManager[None]:
        return failing_together(self._model, is_sharded=self._is_sharded, world_size=self._world_size)

    def _computed(self, indices: Tensor, *, seed: int, is_alone: bool) -> LossValue:
        seed_everything(stream_seed(self._seed, "loss probe", seed))
        batch = next(batches(self._recipe, self._data, [indices], data_workers=0, pin=False))
        half = self._autocast
        with (
            gathering(is_alone=is_alone) as calls,
            nullcontext() if half is None else torch.autocast(self._device.type, dtype=half),
        ):
            assert self._recipe.loss is not None
            found = read_loss(self._recipe.loss(self._model, to_device(batch, self._device)))
        self.gathers |= calls.was_called
        self._allow_rounding([term.value for term in found.terms])
        first, *others = [
            LossValue(float(value.detach()), None if weight is None else float(weight)) for value, weight in found.terms
        ]
        return first._replace(others=tuple(others))

    def _allow_rounding(self, values: Sequence[Tensor]) -> None:
        """Raise the tolerance to the rounding of the coarsest dtype that the loss uses."""
        dtypes = self._dtypes | {value.dtype for value in values}
        dtypes |= {self._autocast} if self._autocast is not None else set()
        self.tolerance = max([TOLERANCE, *(8 * torch.finfo(dtype).eps for dtype in dtypes)])

    @contextmanager
    def without_randomness(self) -> Iterator[None]:
        """Switch off dropout and use BatchNorm's running statistics inside a ``with`` block."""
        quiet = [
            module
            for module in self._model.modules()
            if isinstance(module, _DropoutNd) or (isinstance(module, _BatchNorm) and module.running_mean is not None)
        ]

        def change() -> None:
            for module in quiet:
                module.training = False

        with _modes(self._model, change):
            yield

    @contextmanager
    def in_evaluation_mode(self) -> Iterator[None]:
        """Put the model into evaluation mode inside a ``with`` block."""
        with _modes(self._model, self._model.eval):
            yield


@contextmanager
def _modes(model: nn.Module, change: Callable[[], object]) -> Iterator[None]:
    """Change the modes of modules inside a ``with`` block."""
    before = [(module, module.training) for module in model.modules()]
    change()
    try:
        yield
    finally:
        for module, training in before:
            module.training = training
