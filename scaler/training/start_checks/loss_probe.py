"""Check before the first step whether a loss is a mean over samples.

Workers and micro-batches share a step's samples, and the losses of these parts are combined as a mean over samples.
This is the loss of the whole batch only if

    loss(batch given twice) = loss(batch)              a sum doubles; a loss that compares samples changes
    mean of loss(parts)     = loss(batch)              a weighted mean, a root or a ratio changes

``(sum, weight)`` counts as its quotient, and parts are added up before the division. Both lines are measured on samples
of the training set. Thresholds, and the losses that they were measured on: docs/decisions/0032-a-loss-is-probed.md.
"""

from dataclasses import dataclass
from math import isfinite

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from scaler.core.batch import share_bounds
from scaler.errors import RecipeError
from scaler.job import Job
from scaler.metrics.mean import Mean
from scaler.plan import Plan
from scaler.training.device import is_out_of_memory
from scaler.training.gradients.gather import several_micro_batches
from scaler.training.model.untouched import untouched
from scaler.training.process_group import agree, sum_over_workers
from scaler.training.recipe import Recipe
from scaler.training.recipe.failures import error_text
from scaler.training.start_checks.loss_values import (
    LossComparison,
    LossValue,
    compare_losses,
    mean_comparison,
    mean_of,
    not_a_mean_error,
    standard_errors,
    sum_of_means,
)
from scaler.training.start_checks.probed_loss import ProbedLoss
from scaler.training.start_checks.shared_failure import lone_failures_raised
from scaler.training.worker_context import WorkerContext

RANDOM_TOLERANCE = 0.1  # for a random loss, if the difference also exceeds RANDOM_ERRORS standard errors
RANDOM_ERRORS = 6.0
REPEATS, MOST_REPEATS = 16, 64  # a random loss is repeated until a difference is certain, or clearly not
UNCERTAIN_ERRORS = 2.0
ORDER_NOISE = 10.0  # a difference is rounding if another order of the samples causes a tenth of it


@dataclass(frozen=True, kw_only=True, slots=True)
class LossProbe:
    """What the probe found, for a loss that is accepted.

    Args:
        gathers: whether the loss is over the global batch: the recipe says so, or the loss calls ``scaler.all_gather``.
        comparison: of its losses; None: nothing was measured.
        why_not: why the loss could not be checked; None: it was checked, or needed no check.
    """

    gathers: bool = False
    comparison: LossComparison | None = None
    why_not: str | None = None


@lone_failures_raised()
def probe_loss(
    recipe: Recipe,
    model: nn.Module,
    job: Job,
    plan: Plan,
    context: WorkerContext,
    *,
    is_start: bool,
    is_sharded: bool = False,
) -> LossProbe:
    """Measure whether the recipe's loss is a mean over samples; called by all workers, before the first step.

    Model, gradients and random numbers are restored afterwards.

    Args:
        recipe: its loss, ``loss_over``, training set and ``collate``.
        model: not wrapped, on the worker's device, in the mode that it is trained in.
        job: seed and precision.
        plan: of this attempt.
        context: this worker's rank and device.
        is_start: False: only find out whether the loss gathers, because trained weights show less than those at the
            start.
        is_sharded: whether the model is sharded, so that every worker runs the same forward passes.

    Raises:
        RecipeError: the loss is not a mean over samples, and the recipe does not say so; it is not a scalar tensor with
            a gradient; or it is over the global batch, and the plan has several micro-batches or measures the
            gradient's noise.
    """
    if recipe.loss is None or recipe.loss_over == "micro_batch":
        return LossProbe()
    found: LossProbe | RecipeError
    with untouched(model, context.device):
        try:
            found = _Probe(recipe, model, job, plan, context, is_sharded=is_sharded).look(is_start=is_start)
            _require_one_micro_batch(found, job, plan)
        except RecipeError as error:
            found = error
    return agree(found, world_size=context.world_size)


def _require_one_micro_batch(found: LossProbe, job: Job, plan: Plan) -> None:
    """Raise an error for a loss over the global batch if the plan has several micro-batches or measures noise."""
    if not found.gathers:
        return
    most = max(phase.grad_accum_steps for phase in plan.phases)
    if most > 1:
        raise several_micro_batches(most)
    if plan.is_measured or job.scale.batch_follows_noise:
        raise RecipeError(
            "the loss is over the global batch: the workers' gradients are not independent samples of it, so their "
            "noise cannot be measured.",
            "Use a rule other than adascale, and a batch_schedule that does not follow the noise.",
        )


class _Probe:
    """The probe of a loss on one worker; every worker has the same samples and random numbers."""

    def __init__(
        self, recipe: Recipe, model: nn.Module, job: Job, plan: Plan, context: WorkerContext, *, is_sharded: bool
    ) -> None:
        self._model, self._loss = model, ProbedLoss(recipe, model, job, plan, context, is_sharded=is_sharded)
        self._device, self._rank, self._world_size = context.device, context.rank, context.world_size

    def look(self, *, is_start: bool) -> LossProbe:
        """Return the result of the probe.

        Raises:
            RecipeError: the loss is not a mean over samples.
        """
        try:
            found = self._look(is_start=is_start)
        except RecipeError:
            raise
        except Exception as error:  # if the loss raised it, the first step shows it
            if is_out_of_memory(error) and self._device.type == "cuda":
                torch.cuda.empty_cache()
            found = LossProbe(gathers=self._loss.gathers, why_not=error_text(error))
        if isinstance(found, LossComparison):
            raise not_a_mean_error(found)
        return found

    def _look(self, *, is_start: bool) -> LossProbe | LossComparison:
        self._loss.load()
        self._whole, size = self._loss.whole, len(self._loss.whole)
        with self._loss.without_randomness():
            whole = self._loss.first_value()
            if not is_start:
                return LossProbe(gathers=self._loss.gathers)
            if self._loss.gathers:
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

    def _check(self, whole: LossValue) -> LossProbe | LossComparison | None:
        """Check the loss in the model's present mode; a comparison means refusal, and None a random loss."""
        found = self._measure(whole)
        if any(term.weight == 0.0 for term in whole.terms):
            return LossProbe(why_not=f"{len(self._whole)} samples have the weight 0")
        if not isfinite(whole.mean):
            return None
        if found.is_mean:
            return LossProbe(comparison=found, why_not=None if found.largest else "the loss is 0")
        others = [self._loss.value(self._whole, seed=seed).mean for seed in (1, 2, 3)]
        if max(abs(other - whole.mean) for other in others) > max(
            min(found.difference, found.largest) / 100, 1e-6 * found.largest
        ):
            return None
        orders = [self._whole.flip(0), *(self._whole.roll(shift) for shift in range(1, len(self._whole)))]
        if any(abs(self._loss.value(order).mean - whole.mean) > found.difference / ORDER_NOISE for order in orders):
            return LossProbe(why_not="the order of the samples changes the loss")
        if not found.twice_differs and self._is_of_the_layers():
            return LossProbe(comparison=found)
        return found

    def _measure(self, whole: LossValue, *, seed: int = 0) -> LossComparison:
        twice = self._loss.value(torch.cat([self._whole, self._whole]), seed=seed)
        parts = [(self._loss.value(part, seed=seed + index), len(part)) for index, part in enumerate(self._loss.parts)]
        return compare_losses(whole, twice, parts, tolerance=self._loss.tolerance)

    def _is_of_the_layers(self) -> bool:
        """Return whether the loss is a mean in evaluation mode, where layers such as BatchNorm do not use the batch."""
        if any(isinstance(module, _BatchNorm) and module.running_mean is None for module in self._model.modules()):
            return True
        with self._loss.in_evaluation_mode():
            try:
                return self._measure(self._loss.value(self._whole)).is_mean
            except Exception:  # the loss does not work in this mode
                return False

    def _check_evaluating(self) -> LossProbe | LossComparison | None:
        """Check the loss in evaluation mode, without dropout; None: it is still random."""
        with self._loss.in_evaluation_mode():
            try:
                return self._check(self._loss.value(self._whole))
            except Exception:  # the loss does not work in this mode
                return None

    def _check_random(self, *, also_parts: bool) -> LossProbe | LossComparison:
        """Check a random loss by comparing means over random numbers."""
        runs: list[LossComparison] = []
        while True:
            for seed in range(100 + 8 * len(runs), 100 + 8 * (len(runs) + REPEATS), 8):
                runs.append(self._measure(self._loss.value(self._whole, seed=seed), seed=seed + 1))
            if not all(isfinite(run.whole + run.twice + run.parts) for run in runs):
                return LossProbe(why_not="the loss is not finite")
            means = mean_comparison(runs, tolerance=max(RANDOM_TOLERANCE, self._loss.tolerance))
            errors = [standard_errors(runs, "twice")] if means.twice_differs else []
            errors += [standard_errors(runs, "parts")] if means.parts_differ and also_parts else []
            most = max(errors, default=0.0)
            if most > RANDOM_ERRORS:
                return means
            if most < UNCERTAIN_ERRORS or len(runs) >= MOST_REPEATS:
                return LossProbe(comparison=means)

    def _compare_with_workers(self, whole: LossValue) -> LossProbe:
        """Check that a loss over the global batch is the same over the workers' shares as on one worker.

        Raises:
            RecipeError: it differs.
        """
        size = len(self._whole)
        if self._world_size == 1 or size < self._world_size:
            return LossProbe(gathers=True)
        start, stop = share_bounds(size, parts=self._world_size, index=self._rank)
        mine = self._loss.value(self._whole[start:stop], is_alone=False)
        means = [mean_of([(term, stop - start)]) for term in mine.terms]
        sums = torch.tensor([(mean.total, mean.weight) for mean in means], dtype=torch.float64)
        sums = sum_over_workers(sums, world_size=self._world_size, device=self._device)
        shared = sum_of_means([Mean(total, weight) for total, weight in sums.tolist()])
        is_random = abs(self._loss.value(self._whole, seed=1).mean - whole.mean) > 1e-6 * abs(whole.mean)
        if is_random or not isfinite(shared) or not isfinite(whole.mean):
            return LossProbe(gathers=True)
        if abs(shared - whole.mean) > self._loss.tolerance * max(abs(shared), abs(whole.mean)):
            raise RecipeError(
                f"the loss is over the global batch, and {size} samples give {whole.mean:.4g} on one worker and "
                f"{shared:.4g} on {self._world_size}.",
                "Gather everything that is compared with scaler.all_gather, and compute the loss from the gathered "
                "rows alone: then every worker has the loss of all samples.",
            )
        return LossProbe(gathers=True)
