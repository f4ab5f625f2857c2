"""A learning-rate scheduler for your own torch loop: the learning rate is a function of the samples seen."""

import sys
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any
from weakref import ref

from scaler.core.optimizers import NAMED_OPTIMIZERS
from scaler.core.scale import scale
from scaler.core.scale_lr import batch_ratio, horizon, make_rule, peak_lr
from scaler.core.schedules import Schedule
from scaler.core.short_step import scale_short_step, short_step_momentum
from scaler.errors import PlanError
from scaler.training.optimizer.initialization import is_initialization
from scaler.training.optimizer.scheduler_checks import (
    WRITTEN,
    require_free_momentum,
    require_known_lr,
    require_next_step,
    require_same_reference,
    require_written_lrs,
)
from scaler.training.optimizer.settings import Optimizer, set_group_constants, set_group_lr, short_momentum


@dataclass(frozen=True, kw_only=True, slots=True)
class _Group:
    """The values of a parameter group: at the reference's batch, and as the rule scales them."""

    reference: Mapping[str, Any]  # lr, and the constants that the rule scales
    all_constants: Mapping[str, Any]  # of the reference
    peak_lr: float
    constants: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class _ShortStep:
    """The learning rate and constants of the next step, if it has fewer samples than a global batch."""

    samples: int
    lr_ratio: float
    constants: tuple[Mapping[str, Any], ...]  # of each group


class SampleScheduler:
    """Writes the learning rate of the next step into a torch optimizer, as a function of the samples seen.

        lr = base_lr * lr_ratio(global_batch_size / reference_batch_size) * schedule(samples_seen)

    ``base_lr`` is the learning rate that a parameter group has when the scheduler is made. Every group keeps its own
    ``base_lr``, and its own value of each constant that the rule scales (betas, eps, weight decay, momentum). These
    values are stored in the group as ``initial_lr``, ``initial_betas``, ..., which torch saves with the optimizer.
    Another scheduler for the same optimizer reads them from there, so changes never compound: not with a new scheduler,
    and not with an optimizer whose state was loaded before.

    Call ``step`` once per optimizer step on every rank, with the samples before the step and the samples in it. Do not
    call it for micro-batches that only accumulate. A step with fewer samples than ``global_batch_size`` (the last of an
    epoch) gets the learning rate and constants of its own size. A step that a ``GradScaler`` skips counts too: its
    samples are used up.

    To resume, make the scheduler as for a new training, with the present ``global_batch_size`` and its schedule. Then
    load the states of scheduler and optimizer in any order: a hook of the optimizer derives learning rates and
    constants again after each load. A scheduler stops writing when no reference to it is left.

    This class is not a torch ``LRScheduler``: the ``step`` of those takes no samples, their state contains learning
    rates, and accelerate steps them once per process. With accelerate, make this scheduler before ``prepare`` and pass
    it to ``register_for_checkpointing``.

    Args:
        optimizer: as it was tuned at the reference: its learning rates and constants are those of
            ``reference_batch_size``.
        reference_batch_size: samples per optimizer step of the reference, >= 1. Batch sizes, ``noise_scale``, the
            schedule and the arguments of ``step`` may all be in tokens instead.
        global_batch_size: samples per optimizer step now, over all workers and micro-steps, >= 1.
        schedule: the share of the peak learning rate at any sample, for this batch. A warmup from the reference's
            learning rate starts at ``min(1, 1 / lr_ratio)``; with ``legw`` it is ``warmup_ratio`` times as long (both
            are fields of ``scaler.scale_lr``'s result).
        rule: as in ``scaler.scale_lr``; ``auto`` chooses by the optimizer's class.
        samples_seen: where the training starts, in samples; use it to continue without a saved state of this class.
        exponent: as in ``scaler.scale_lr``.
        noise_scale: as in ``scaler.scale_lr``.
        betas: as in ``scaler.scale_lr``.
        co_scale: as in ``scaler.scale_lr``.
        beta2_range: as in ``scaler.scale_lr``.
        reference_samples: as in ``scaler.scale_lr``.
        total_samples: as in ``scaler.scale_lr``.

    Attributes:
        samples_seen: samples before the step that the learning rate was written for; after a load, where to continue.
        optimizer_name: of the optimizer's class in the job file, or ``module:Class``.
        rule: the rule used, never ``auto``.
        reason: why this rule is used.
        lr_ratio: peak learning rate over the reference's.

    Raises:
        PlanError: a number is out of range; the rule does not hold for this optimizer or this batch; the schedule moves
            a momentum that the optimizer lacks or the rule scales; the optimizer wraps another one; or a group's
            learning rate was changed after an earlier scheduler had stored another ``initial_lr``.

    Example:
        >>> import scaler, torch
        >>> model = torch.nn.Linear(2, 1)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> schedule = scaler.Schedule(shape=scaler.shapes.Linear(length=256))
        >>> scheduler = scaler.SampleScheduler(
        ...     optimizer, reference_batch_size=16, global_batch_size=64, schedule=schedule
        ... )
        >>> for samples_seen, samples in ((0, 64), (64, 64), (128, 16), (144, 64)):
        ...     scheduler.step(samples_seen=samples_seen, samples=samples)
        ...     model(torch.zeros(samples, 2)).mean().backward()
        ...     optimizer.step()
        ...     optimizer.zero_grad()
        ...     print(round(scheduler.get_last_lr()[0], 6))
        0.4
        0.3
        0.05
        0.175
    """

    def __init__(
        self,
        optimizer: Optimizer,
        *,
        reference_batch_size: int,
        global_batch_size: int,
        schedule: Schedule,
        rule: str = "auto",
        samples_seen: int = 0,
        exponent: float | None = None,
        noise_scale: float | None = None,
        betas: str = "sde",
        co_scale: Mapping[str, bool | str] | None = None,
        beta2_range: tuple[float, float] | None = None,
        reference_samples: int | None = None,
        total_samples: int | None = None,
    ) -> None:
        if "_optimizer_step_post_hooks" not in vars(optimizer):
            raise PlanError(
                f"optimizer is {type(optimizer).__name__}, which wraps another optimizer and does not call its hooks.",
                "Make the scheduler with the optimizer itself, before it is wrapped.",
            )
        if samples_seen < 0:
            raise PlanError(f"samples_seen = {samples_seen} is below 0.", "A training starts at 0.")
        ratio = batch_ratio(reference_batch_size=reference_batch_size, global_batch_size=global_batch_size)
        name = name_of_class(type(optimizer))
        self._rule, self.reason = make_rule(
            rule,
            optimizer=name,
            exponent=exponent,
            noise_scale=noise_scale,
            betas=betas,
            co_scale=co_scale,
            beta2_range=beta2_range,
            horizon=horizon(reference_samples=reference_samples, total_samples=total_samples),
        )
        self.optimizer_name = name
        self.optimizer = optimizer
        self.reference_batch_size, self.global_batch_size = reference_batch_size, global_batch_size
        self.schedule = schedule
        self.rule = self._rule.name
        self.samples_seen = samples_seen
        self._used: list[float] | None = None  # learning rates of the optimizer's last step
        self._short: _ShortStep | None = None  # the next step, if it is short
        self._inside = ExitStack()  # what to undo after a short step
        self._announced = False  # ``step`` was called for the next optimizer step
        self._stepped = False  # the optimizer has stepped since
        self._trains = True  # whether the optimizer's present step is one of the training
        self._written: list[float] = []  # the learning rate of each group, read back after writing
        self._groups: list[_Group] = []
        self._share: float | None = None  # of the peak learning rate; None: the schedule's
        self.lr_ratio = 1.0
        for group in optimizer.param_groups:
            self._add(group, ratio)
        self._write()
        self._listen()

    def step(self, *, samples_seen: int, samples: int | None = None) -> None:
        """Write the learning rate and constants of the next optimizer step.

        Call it before the optimizer step, or right after the previous one. ``samples_seen`` and ``samples`` always
        describe the next step.

        Args:
            samples_seen: samples of all steps before the next one, over all workers.
            samples: samples in the next step, over all workers and micro-steps; None: a whole global batch.

        Raises:
            TrainingError: called twice for one step, for more than a global batch, for a step beyond the end of the
                schedule, or without ``samples`` for a step that turned out short; or something else changed the
                learning rate in the optimizer.
        """
        require_written_lrs(self.optimizer.param_groups, self._written, samples_seen=self.samples_seen)
        require_next_step(
            samples_seen,
            samples,
            at=self.samples_seen,
            written_for=self._samples,
            global_batch_size=self.global_batch_size,
            is_announced=self._announced,
            has_stepped=self._stepped,
            schedule=self.schedule,
        )
        samples = self.global_batch_size if samples is None else samples
        self.samples_seen = samples_seen
        self._short = self._short_step(samples) if samples < self.global_batch_size else None
        self._announced, self._stepped = True, False
        self._write_lrs()

    def follow(self, *, samples_seen: int, samples: int, share: float) -> None:
        """Write the learning rate and constants of the next optimizer step, for a caller that counts the samples.

        Unlike ``step``, it does not require that this optimizer took the step before, so it fits loops with several
        optimizers.

        Args:
            samples_seen: samples of all steps before the next one, over all workers.
            samples: samples in the next step, over all workers and micro-steps, at most a global batch.
            share: of the peak learning rate, in place of the schedule's.

        Raises:
            TrainingError: something else changed the learning rate in the optimizer.
        """
        require_written_lrs(self.optimizer.param_groups, self._written, samples_seen=self.samples_seen)
        self.samples_seen, self._share = samples_seen, share
        self._short = self._short_step(samples) if samples < self.global_batch_size else None
        self._announced, self._stepped = True, False
        self._write_lrs()

    @property
    def _samples(self) -> int:
        """Samples in the step that the learning rate was written for."""
        return self._short.samples if self._short is not None else self.global_batch_size

    def get_last_lr(self) -> list[float]:
        """Return each group's learning rate in the optimizer's last step; before its first step, in the next one."""
        return list(self._written if self._used is None else self._used)

    def state_dict(self) -> dict[str, Any]:
        """Return the samples seen and the reference; nothing that depends on the present batch."""
        groups = [
            {key: list(value) if isinstance(value, tuple) else value for key, value in group.reference.items()}
            for group in self._groups
        ]
        seen = self.samples_seen + (self._samples if self._stepped else 0)
        return {"samples_seen": seen, "reference_batch_size": self.reference_batch_size, "groups": groups}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continue from a saved state, with this scheduler's batch.

        Raises:
            PlanError: it is the state of another kind of scheduler, or has another reference.
        """
        require_same_reference(self.state_dict(), state_dict)
        self.samples_seen = state_dict["samples_seen"]
        self._used = None
        self._write()

    def _add(self, group: dict[str, Any], ratio: float) -> None:
        constants = {key: group.get(f"initial_{key}", value) for key, value in group.items() if key != "params"}
        scaled = scale(
            self._rule,
            batch_ratio=ratio,
            reference_batch_size=self.reference_batch_size,
            optimizer=self.optimizer_name,
            constants=constants,
        )
        if self.schedule.momentum(0) is not None:
            require_free_momentum(group, scaled.constants, self.optimizer_name)
        base_lr = float(constants["lr"])
        peak = peak_lr(base_lr, scaled.lr_ratio)
        own_lr = peak * self.schedule.factor(self.samples_seen)
        require_known_lr(group, len(self._groups), base_lr=base_lr, own_lr=own_lr)
        self.lr_ratio = scaled.lr_ratio
        self._groups.append(
            _Group(
                reference={"lr": base_lr, **{key: constants[key] for key in scaled.constants}},
                all_constants=constants,
                peak_lr=peak,
                constants=scaled.constants,
            )
        )

    def _short_step(self, samples: int) -> _ShortStep:
        found = [
            scale_short_step(
                self._rule,
                samples=samples,
                global_batch_size=self.global_batch_size,
                reference_batch_size=self.reference_batch_size,
                optimizer=self.optimizer_name,
                constants=group.all_constants,
            )
            for group in self._groups
        ]
        return _ShortStep(
            samples=samples, lr_ratio=found[0].lr_ratio, constants=tuple(scaled.constants for scaled in found)
        )

    def _listen(self) -> None:
        """Register hooks for the optimizer's steps and loads, with a weak reference to this scheduler."""
        me = ref(self)

        def begins(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
            if (scheduler := me()) is not None:
                scheduler._trains = not is_initialization(optimizer)
                if scheduler._trains:
                    scheduler._enter_short_step()

        def stepped(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
            if (scheduler := me()) is not None and scheduler._trains:
                scheduler._used = [float(group["lr"]) for group in optimizer.param_groups]
                scheduler._stepped = True
                scheduler._leave_short_step()

        def loaded(optimizer: Optimizer) -> None:
            if (scheduler := me()) is not None:
                scheduler._used = None
                scheduler._write()

        self.optimizer.register_step_pre_hook(begins)
        self.optimizer.register_step_post_hook(stepped)
        self.optimizer.register_load_state_dict_post_hook(loaded)

    def _enter_short_step(self) -> None:
        """Write the constants of a short step while the optimizer takes it, as ``step_settings`` does."""
        if self._short is None:
            return
        for group, constants in zip(self.optimizer.param_groups, self._short.constants, strict=True):
            self._set_constants(group, constants)
        self._inside.enter_context(
            short_momentum(
                self.optimizer,
                name=self.optimizer_name,
                ratio=self.lr_ratio / self._short.lr_ratio,
                share=self._short.samples / self.global_batch_size,
            )
        )

    def _leave_short_step(self) -> None:
        self._inside.close()
        if self._short is not None:
            for group, planned, short in zip(
                self.optimizer.param_groups, self._groups, self._short.constants, strict=True
            ):
                whole = {**planned.all_constants, **planned.constants}
                self._set_constants(group, {key: whole[key] for key in short})

    def _write(self) -> None:
        """Write learning rates and constants, which a load may have replaced. The next step counts as a whole one."""
        self._short, self._announced, self._stepped = None, False, False
        for group, planned in zip(self.optimizer.param_groups, self._groups, strict=True):
            group.update({f"initial_{key}": value for key, value in planned.reference.items()})
            self._set_constants(group, planned.constants)
        self._write_lrs()

    def _set_constants(self, group: dict[str, Any], constants: Mapping[str, Any]) -> None:
        """Write constants into a parameter group, except a momentum (for Adam: beta1) that the schedule moves."""
        if self.schedule.momentum(0) is not None:
            constants = _without_momentum(constants, group)
        set_group_constants(self.optimizer, group, constants)

    def _momentum(self) -> float | None:
        momentum = self.schedule.momentum(self.samples_seen)
        if momentum is None or self._short is None:
            return momentum
        share = self._short.samples / self.global_batch_size
        return short_step_momentum(momentum, optimizer=self.optimizer_name, share=share)

    def _write_lrs(self) -> None:
        factor = self.schedule.factor(self.samples_seen) if self._share is None else self._share
        momentum = self._momentum()
        for group, planned in zip(self.optimizer.param_groups, self._groups, strict=True):
            peak = planned.peak_lr
            if self._short is not None:
                peak = peak_lr(float(planned.reference["lr"]), self._short.lr_ratio)
            set_group_lr(group, peak * factor, momentum=momentum)
        self._written = [float(group["lr"]) for group in self.optimizer.param_groups]
        for group, written in zip(self.optimizer.param_groups, self._written, strict=True):
            group[WRITTEN] = written


def _without_momentum(constants: Mapping[str, Any], group: Mapping[str, Any]) -> dict[str, Any]:
    """Return the constants with the group's present momentum (for Adam: its beta1)."""
    held = {name: value for name, value in constants.items() if name != "momentum"}
    return {**held, "betas": (group["betas"][0], *held["betas"][1:])} if "betas" in held else held


def name_of_class(kind: type[Optimizer]) -> str:
    """Return a class's name in the job file, or else the shortest ``module:Class`` from which it can be imported."""
    parts = kind.__module__.split(".")
    modules = [".".join(parts[: length + 1]) for length in range(len(parts))]
    home = next((name for name in modules if getattr(sys.modules.get(name), kind.__name__, None) is kind), modules[-1])
    path = f"{home}:{kind.__name__}"
    return next((name for name, facts in NAMED_OPTIMIZERS.items() if facts.path == path), path)
