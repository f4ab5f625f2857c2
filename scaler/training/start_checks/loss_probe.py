"""Find out, before the first step, whether a loss is a mean over samples.

A step's samples are shared among workers and micro-batches, and the parts' losses are put together as a mean over
samples. That is the loss of the whole batch only if

    loss(batch given twice) = loss(batch)              a sum doubles; a loss that compares samples changes
    mean of loss(parts)     = loss(batch)              a mean with weights, a root or a ratio changes

with ``(sum, weight)`` as its quotient, and parts added up before it is taken. Both are measured on samples of the
training set. Thresholds, and the losses that they were measured on: docs/decisions/0032-a-loss-is-probed.md.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from dataclasses import dataclass
from math import isfinite, sqrt
from statistics import fmean, variance
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.utils.data import Dataset, TensorDataset

from scaler.core.batch import share_bounds
from scaler.core.seeds import stream_seed
from scaler.errors import RecipeError
from scaler.job import Job
from scaler.job.scale import GrowWithNoise
from scaler.plan import Plan
from scaler.training.data.batches import batches, to_device
from scaler.training.data.order import EpochOrder
from scaler.training.device import is_out_of_memory
from scaler.training.gradients.gather import gathering, several_micro_batches
from scaler.training.gradients.step import GradientStep
from scaler.training.model.untouched import untouched
from scaler.training.process_group import agree
from scaler.training.randomness import seed_everything
from scaler.training.recipe import Recipe
from scaler.training.recipe.failures import error_text
from scaler.training.start_checks.loss_values import LossComparison, Value, measured, refusal
from scaler.training.worker_context import WorkerContext

SAMPLES, PART = 8, 2
TOLERANCE = 0.002  # of a deterministic loss; 8 roundings of the coarsest dtype, where that is more
RANDOM_TOLERANCE = 0.1  # of a random one, and then only beyond RANDOM_ERRORS standard errors
RANDOM_ERRORS = 6.0
REPEATS, MOST_REPEATS = 16, 64  # as many as a difference takes to be certain, or too uncertain
UNCERTAIN_ERRORS = 2.0
ORDER_NOISE = 10.0  # a difference is rounding when another order of the samples makes a tenth of it


@dataclass(frozen=True, kw_only=True, slots=True)
class LossProbe:
    """What the probe found of a loss that is accepted.

    Args:
        gathers: whether the loss is over the global batch: it says so, or calls ``scaler.all_gather``.
        measured: None: nothing was measured.
        why_not: why nothing can be said of the loss; None: it was checked, or needed no check.
    """

    gathers: bool = False
    measured: LossComparison | None = None
    why_not: str | None = None


def probe_loss(
    recipe: Recipe, model: nn.Module, job: Job, plan: Plan, context: WorkerContext, *, is_start: bool
) -> LossProbe:
    """Measure whether the recipe's loss is a mean over samples; called by all workers, before the first step.

    Model, gradients and random numbers are left as they were.

    Args:
        recipe: its loss, ``loss_over``, training set and ``collate``.
        model: not wrapped, on the worker's device, in the mode that it is trained in.
        job: seed and precision.
        plan: of this attempt.
        context: where this worker is.
        is_start: False: only find out whether the loss gathers; trained weights say less than those at the start.

    Raises:
        RecipeError: it is none, and the recipe does not say so; or it is over the global batch, and the plan divides
            that into micro-batches, or measures its gradient's noise; or it is no scalar tensor with a gradient.
    """
    if recipe.loss_over == "micro_batch":
        return LossProbe()
    found: LossProbe | RecipeError
    with untouched(model, context.device):
        try:
            found = _Probe(recipe, model, job, plan, context).look(is_start=is_start)
            _require_one_micro_batch(found, job, plan)
        except RecipeError as error:
            found = error
    return agree(found, world_size=context.world_size)


def _require_one_micro_batch(found: LossProbe, job: Job, plan: Plan) -> None:
    """A loss over the global batch cannot be put together from micro-batches; nor can its noise be measured."""
    if not found.gathers:
        return
    most = max(phase.grad_accum_steps for phase in plan.phases)
    if most > 1:
        raise several_micro_batches(most)
    if plan.is_measured or isinstance(job.scale.batch_schedule, GrowWithNoise):
        raise RecipeError(
            "the loss is over the global batch: the workers' gradients are no samples of it, and their noise says "
            "nothing.",
            "Use a rule other than adascale, and a batch_schedule that does not follow the noise.",
        )


class _Held(Dataset[Any]):
    """Samples that were loaded once, so that augmentation does not make two of one."""

    def __init__(self, samples: Sequence[Any]) -> None:
        self._samples = samples

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> Any:
        return deepcopy(self._samples[index])  # some collate functions take their samples apart


class _Probe:
    """The probe of a loss on one worker; every worker has the same samples and random numbers."""

    def __init__(self, recipe: Recipe, model: nn.Module, job: Job, plan: Plan, context: WorkerContext) -> None:
        self._recipe, self._model, self._plan, self._seed = recipe, model, plan, job.train.seed
        self._device, self._rank, self._world_size = context.device, context.rank, context.world_size
        self._gathers = recipe.loss_over == "global_batch"
        precision = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[job.train.precision]
        self._precision: torch.dtype | None = precision
        self._autocast: torch.dtype | None = None  # fp32 first: its differences are the smallest
        self._tolerance = TOLERANCE

    def look(self, *, is_start: bool) -> LossProbe:
        """Return what was found.

        Raises:
            RecipeError: the loss is not a mean over samples.
        """
        try:
            found = self._look(is_start=is_start)
        except RecipeError:
            raise
        except Exception as error:  # if it is the loss's own, the first step shows it
            if is_out_of_memory(error) and self._device.type == "cuda":
                torch.cuda.empty_cache()
            found = LossProbe(gathers=self._gathers, why_not=error_text(error))
        if isinstance(found, LossComparison):
            raise refusal(found)
        return found

    def _look(self, *, is_start: bool) -> LossProbe | LossComparison:
        self._data = self._load()
        size = len(self._data)  # type: ignore[arg-type]
        self._whole = torch.arange(size)
        self._parts = torch.split(self._whole, PART if size >= 2 * PART else 1)
        with self._quiet():
            whole = self._first_value()
            if not is_start:
                return LossProbe(gathers=self._gathers)
            if self._gathers:
                return self._compare_with_workers(whole)
            if size < 2:
                return LossProbe(why_not="the training set has one sample")
            found = self._check(whole)
        if found is None:
            found = self._check_evaluating()
        if found is not None:
            return found
        has_norm = any(isinstance(module, _BatchNorm) for module in self._model.modules())
        return self._check_random(also_parts=not has_norm)

    def _load(self) -> Dataset[Any]:
        """The first samples of the training's order: at most half a micro-batch, as it is given twice; at least 2."""
        data, plan = self._recipe.train_data, self._plan
        most = max(2, min(SAMPLES, plan.per_worker_batch_size // 2))
        if self._gathers:
            most = max(most, min(SAMPLES, 2 * self._world_size))
        indices = EpochOrder(plan.num_samples, seed=self._seed).slice(0, min(most, plan.num_samples))
        if type(data) is TensorDataset and self._recipe.collate is None:
            return TensorDataset(*(tensor[indices] for tensor in data.tensors))
        get_all = getattr(data, "__getitems__", None)
        wanted = indices.tolist()
        return _Held(get_all(wanted) if callable(get_all) else [data[index] for index in wanted])

    def _first_value(self) -> Value:
        """The loss in fp32; in the job's precision where the model takes no other."""
        try:
            return self._value(self._whole)
        except RuntimeError as error:
            if self._precision is None or is_out_of_memory(error):
                raise
            self._autocast = self._precision
            return self._value(self._whole)

    def _check(self, whole: Value) -> LossProbe | LossComparison | None:
        """What is known of the loss in the model's present mode; a refusal as what was measured; None: it is random."""
        found = self._measure(whole)
        if whole.weight == 0.0:
            return LossProbe(why_not=f"{len(self._whole)} samples have the weight 0")
        if not isfinite(whole.mean):
            return None
        if found.is_mean:
            return LossProbe(measured=found, why_not=None if found.largest else "the loss is 0")
        others = [self._value(self._whole, seed=seed).mean for seed in (1, 2, 3)]
        if max(abs(other - whole.mean) for other in others) > max(
            min(found.difference, found.largest) / 100, 1e-6 * found.largest
        ):
            return None
        orders = [self._whole.flip(0), *(self._whole.roll(shift) for shift in range(1, len(self._whole)))]
        if any(abs(self._value(order).mean - whole.mean) > found.difference / ORDER_NOISE for order in orders):
            return LossProbe(why_not="the order of the samples changes the loss")
        if not found.twice_differs and self._is_of_the_layers():
            return LossProbe(measured=found)
        return found

    def _measure(self, whole: Value, *, seed: int = 0) -> LossComparison:
        twice = self._value(torch.cat([self._whole, self._whole]), seed=seed)
        parts = [(self._value(part, seed=seed + index), len(part)) for index, part in enumerate(self._parts)]
        return measured(whole, twice, parts, tolerance=self._tolerance)

    def _is_of_the_layers(self) -> bool:
        """Whether the loss is a mean where the model's layers do not see the batch, as BatchNorm does in training."""
        if any(isinstance(module, _BatchNorm) and module.running_mean is None for module in self._model.modules()):
            return True
        with _modes(self._model, self._model.eval):
            try:
                return self._measure(self._value(self._whole)).is_mean
            except Exception:  # a model that has no loss in this mode
                return False

    def _check_evaluating(self) -> LossProbe | LossComparison | None:
        """The check in evaluation mode, without any dropout; None: it is random still."""
        with _modes(self._model, self._model.eval):
            try:
                return self._check(self._value(self._whole))
            except Exception:  # a model that has no loss in this mode
                return None

    def _check_random(self, *, also_parts: bool) -> LossProbe | LossComparison:
        """The check of a random loss: means over random numbers are compared."""
        runs: list[LossComparison] = []
        while True:
            for seed in range(100 + 8 * len(runs), 100 + 8 * (len(runs) + REPEATS), 8):
                runs.append(self._measure(self._value(self._whole, seed=seed), seed=seed + 1))
            if not all(isfinite(run.whole + run.twice + run.parts) for run in runs):
                return LossProbe(why_not="the loss is not finite")
            means = _mean_of(runs, tolerance=max(RANDOM_TOLERANCE, self._tolerance))
            errors = [_errors(runs, "twice")] if means.twice_differs else []
            errors += [_errors(runs, "parts")] if means.parts_differ and also_parts else []
            most = max(errors, default=0.0)
            if most > RANDOM_ERRORS:
                return means
            if most < UNCERTAIN_ERRORS or len(runs) >= MOST_REPEATS:
                return LossProbe(measured=means)

    def _compare_with_workers(self, whole: Value) -> LossProbe:
        """A loss over the global batch must be the same over the workers' shares as on one worker.

        Raises:
            RecipeError: it is not.
        """
        size = len(self._whole)
        if self._world_size == 1 or size < self._world_size:
            return LossProbe(gathers=True)
        start, stop = share_bounds(size, parts=self._world_size, index=self._rank)
        mine = self._value(self._whole[start:stop], is_alone=False)
        is_weighted = mine.weight is not None
        parts = [mine.value, mine.weight] if is_weighted else [mine.value * (stop - start), stop - start]
        total = torch.tensor(parts, dtype=torch.float64).to(self._device)
        dist.all_reduce(total)
        shared = (total[0] / total[1]).item()
        is_random = abs(self._value(self._whole, seed=1).mean - whole.mean) > 1e-6 * abs(whole.mean)
        if is_random or not isfinite(shared) or not isfinite(whole.mean):
            return LossProbe(gathers=True)
        if abs(shared - whole.mean) > self._tolerance * max(abs(shared), abs(whole.mean)):
            raise RecipeError(
                f"the loss is over the global batch, and {size} samples give {whole.mean:.4g} on one worker and "
                f"{shared:.4g} on {self._world_size}.",
                "Gather everything that is compared with scaler.all_gather, and compute the loss from the gathered "
                "rows alone: then every worker has the loss of all samples.",
            )
        return LossProbe(gathers=True)

    def _value(self, indices: Tensor, *, seed: int = 0, is_alone: bool = True) -> Value:
        """The loss of some of the samples, with random numbers of a seed."""
        seed_everything(stream_seed(self._seed, "loss probe", seed))
        batch = next(batches(self._recipe, self._data, [indices], data_workers=0, pin=False))
        half = self._autocast
        with (
            gathering(is_alone=is_alone) as calls,
            nullcontext() if half is None else torch.autocast(self._device.type, dtype=half),
        ):
            found = self._recipe.loss(self._model, to_device(batch, self._device))
        self._gathers |= calls.was_called
        value, weight = GradientStep.checked(found)
        self._allow_rounding(value)
        return Value(float(value.detach()), None if weight is None else float(weight))

    def _allow_rounding(self, value: Tensor) -> None:
        """Let the tolerance be no finer than the coarsest dtype that the loss is made with."""
        made_with = [*self._model.parameters(), value]
        dtypes = {tensor.dtype for tensor in made_with if tensor.is_floating_point()}
        dtypes |= {self._autocast} if self._autocast is not None else set()
        self._tolerance = max([TOLERANCE, *(8 * torch.finfo(dtype).eps for dtype in dtypes)])

    @contextmanager
    def _quiet(self) -> Iterator[None]:
        """Train without dropout, and with BatchNorm's running statistics: what is left is the loss's own doing."""
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


def _mean_of(runs: Sequence[LossComparison], *, tolerance: float) -> LossComparison:
    return LossComparison(
        samples=runs[0].samples,
        whole=fmean(run.whole for run in runs),
        twice=fmean(run.twice for run in runs),
        parts=fmean(run.parts for run in runs),
        part_size=runs[0].part_size,
        is_weighted=runs[0].is_weighted,
        tolerance=tolerance,
    )


def _errors(runs: Sequence[LossComparison], which: str) -> float:
    """By how many standard errors the mean of one value is off the mean of the whole."""
    wholes, others = [run.whole for run in runs], [getattr(run, which) for run in runs]
    error = sqrt((variance(wholes) + variance(others)) / len(runs))
    return abs(fmean(others) - fmean(wholes)) / error if error else 0.0


@contextmanager
def _modes(model: nn.Module, change: Callable[[], object]) -> Iterator[None]:
    """Change the modes of modules for the length of a ``with`` block."""
    before = [(module, module.training) for module in model.modules()]
    change()
    try:
        yield
    finally:
        for module, training in before:
            module.training = training
