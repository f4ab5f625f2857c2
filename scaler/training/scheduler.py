"""A learning-rate scheduler for one's own torch loop: the rate is a function of the samples seen."""

import sys
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Unpack
from weakref import ref

from scaler.core.optimizers import NAMED_OPTIMIZERS
from scaler.core.scale import scale
from scaler.core.scale_lr import RuleOptions, batch_ratio, make_rule, peak_lr
from scaler.core.schedules import Schedule
from scaler.core.short_step import scale_short_step, short_step_momentum
from scaler.errors import PlanError, TrainingError
from scaler.training.optimizer import Optimizer, set_group_constants, set_group_rate, short_momentum

WRITTEN = "sample_scheduler_lr"
"""The key of a parameter group under which a scheduler notes the learning rate that it wrote last."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Group:
    """A parameter group: what it has at the reference's batch, and what the rule makes of it."""

    reference: Mapping[str, Any]  # lr, and the constants that the rule scales
    all_constants: Mapping[str, Any]  # of the reference
    peak_lr: float
    constants: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class _ShortStep:
    """The next step, which has fewer samples than a global batch."""

    samples: int
    lr_ratio: float
    constants: tuple[Mapping[str, Any], ...]  # of each group


class SampleScheduler:
    """Writes the rate of the next step into a torch optimizer, as a function of the samples seen.

        lr = base_lr * lr_ratio(global_batch_size / reference_batch_size) * schedule(samples_seen)

    ``base_lr`` is the learning rate that a parameter group has when the scheduler is made. Every group keeps its own,
    as it does each constant that the rule scales (betas, eps, weight decay, momentum). They stay in the group, as
    ``initial_lr``, ``initial_betas``, ..., which torch saves with the optimizer. A scheduler that is made again takes
    them from there, so nothing compounds: not in a scheduler made anew, nor with an optimizer that was loaded before.

    Call ``step`` once per optimizer step, on every rank, with the samples before the step and the samples in it; not
    for micro-batches that only accumulate. A step that has fewer samples than ``global_batch_size``, the last of an
    epoch, gets the learning rate and constants of its own size. A step that a ``GradScaler`` skips counts too: its
    samples are spent.

    To resume, make it as for a new training, at today's ``global_batch_size`` and with its schedule, and load its state
    and the optimizer's in either order: learning rates and constants are derived anew after each load, by a hook of the
    optimizer. A scheduler stops writing when it is dropped.

    It is not one of torch's ``LRScheduler``: their ``step`` takes no samples, their state holds rates, and accelerate
    steps them once per process. With accelerate, make it before ``prepare`` and pass it to
    ``register_for_checkpointing``.

    Args:
        optimizer: as it was tuned at the reference: rates and constants are those of ``reference_batch_size``.
        reference_batch_size: samples per optimizer step of the reference, >= 1.
        global_batch_size: samples per optimizer step now, over all workers and micro-steps, >= 1.
        schedule: the share of the peak rate at any sample, at this batch. A warmup from the reference's rate starts at
            ``min(1, 1 / lr_ratio)``; with ``legw`` it is ``warmup_ratio`` times as long (both of ``scaler.scale_lr``).
        rule: as in ``scaler.scale_lr``; ``auto`` looks the optimizer's class up.
        samples_seen: where training goes on, in samples; to start from anything else than this scheduler's state.
        **options: as in ``scaler.scale_lr``.

    Attributes:
        samples_seen: samples before the step that the learning rate was written for; after a load, where to continue.
        rule: the rule used, never ``auto``.
        reason: why this rule.
        lr_ratio: of the peak rate to the reference's.

    Raises:
        PlanError: numbers out of range, a rule that does not hold for this optimizer or so far out, a momentum that the
            optimizer lacks or that rule and schedule both set, an optimizer that wraps another, or a group whose
            learning rate was set after an earlier scheduler remembered another one.

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
        **options: Unpack[RuleOptions],
    ) -> None:
        if "_optimizer_step_post_hooks" not in vars(optimizer):
            raise PlanError(
                f"optimizer is {type(optimizer).__name__}, which wraps another and does not call its hooks.",
                "Make the scheduler with the optimizer itself, before it is wrapped.",
            )
        if samples_seen < 0:
            raise PlanError(f"samples_seen = {samples_seen} is below 0.", "A training starts at 0.")
        ratio = batch_ratio(reference_batch_size=reference_batch_size, global_batch_size=global_batch_size)
        name = _name_of(type(optimizer))
        self._rule, self.reason = make_rule(rule, optimizer=name, **options)
        self._optimizer_name = name
        self.optimizer = optimizer
        self.reference_batch_size, self.global_batch_size = reference_batch_size, global_batch_size
        self.schedule = schedule
        self.rule = self._rule.name
        self.samples_seen = samples_seen
        self._used: list[float] | None = None  # rates of the optimizer's last step
        self._short: _ShortStep | None = None  # the next step, when it is short
        self._inside = ExitStack()  # of a short step of the optimizer
        self._announced = False  # ``step`` was called for the next optimizer step
        self._stepped = False  # the optimizer stepped since
        self._written: list[float] = []  # as they read back
        self._groups: list[_Group] = []
        self.lr_ratio = 1.0
        for group in optimizer.param_groups:
            self._add(group, ratio)
        self._write()
        self._listen()

    def step(self, *, samples_seen: int, samples: int | None = None) -> None:
        """Write the learning rate and constants of the next optimizer step.

        Call it before the optimizer step, or right after the one before it: what counts is that ``samples_seen`` and
        ``samples`` are those of the step that comes.

        Args:
            samples_seen: samples of all steps before it, over all workers.
            samples: samples in it, over all workers and micro-steps; None: a whole global batch.

        Raises:
            TrainingError: called twice for one step, for more than a global batch, for a step beyond the end of the
                schedule, or without ``samples`` for a step that turned out short; or the learning rate in the optimizer
                is not the one that was written.
        """
        self._require_own_rates()
        self._require_next(samples_seen, samples)
        samples = self.global_batch_size if samples is None else samples
        self.samples_seen = samples_seen
        self._short = self._short_step(samples) if samples < self.global_batch_size else None
        self._announced, self._stepped = True, False
        self._write_rates()

    @property
    def _samples(self) -> int:
        """The samples of the step that the learning rate was written for."""
        return self._short.samples if self._short is not None else self.global_batch_size

    def _require_next(self, samples_seen: int, samples: int | None) -> None:
        """Refuse a step that does not follow from the last one."""
        taken = samples_seen - self.samples_seen
        if taken < 0 or (taken == 0 and self._announced):
            twice = "stepped twice for the same samples" if taken == 0 else "stepped back"
            raise TrainingError(
                f"samples_seen = {samples_seen}, and the scheduler is at {self.samples_seen}: it is {twice}.",
                "Step it once for each optimizer step, with the samples of all steps before it, over all workers.",
            )
        if taken > self.global_batch_size:
            raise TrainingError(
                f"samples_seen = {samples_seen} is {taken} samples after the last step, "
                f"and global_batch_size = {self.global_batch_size}.",
                "Count all workers and micro-steps in global_batch_size, and step for every optimizer step.",
            )
        written_for = self._samples
        if 0 < taken < written_for and self._stepped:
            raise TrainingError(
                f"the last step had {taken} samples, and its learning rate was that of {written_for}.",
                f"Say so before it: scheduler.step(samples_seen={self.samples_seen}, samples={taken}).",
            )
        if samples is not None and not 1 <= samples <= self.global_batch_size:
            raise TrainingError(
                f"samples = {samples} is not in [1, global_batch_size = {self.global_batch_size}].",
                "It is the samples of one optimizer step, over all workers and micro-steps.",
            )
        end = self.schedule.end
        is_over = samples is not None and samples_seen == end and self.schedule.factor(samples_seen) == 0.0
        if end is not None and (samples_seen > end or is_over):
            raise TrainingError(
                f"samples_seen = {samples_seen} is beyond the schedule, which ends at {end} samples.",
                "Count the samples that each step has, a short last batch too; or make the schedule as long as the "
                "training.",
            )

    def get_last_lr(self) -> list[float]:
        """Return the rates that the optimizer used in its last step, per group; before its first, those it will use."""
        return list(self._written if self._used is None else self._used)

    def state_dict(self) -> dict[str, Any]:
        """Return the samples seen and the reference: nothing that depends on this batch, and no rate in use."""
        groups = [
            {key: list(value) if isinstance(value, tuple) else value for key, value in group.reference.items()}
            for group in self._groups
        ]
        seen = self.samples_seen + (self._samples if self._stepped else 0)
        return {"samples_seen": seen, "reference_batch_size": self.reference_batch_size, "groups": groups}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from ``state_dict``, at this scheduler's batch.

        Raises:
            PlanError: the state is another kind of scheduler's, or has another reference.
        """
        mine = self.state_dict()
        if state_dict.keys() != mine.keys():
            raise PlanError(
                f"the state has {', '.join(map(str, state_dict)) or 'nothing'}: it is not a SampleScheduler's.",
                "To go on from another scheduler, make this one with samples_seen = what the weights have seen.",
            )
        saved = state_dict["groups"]
        told = [("reference_batch_size", self.reference_batch_size, state_dict["reference_batch_size"])]
        told += [("the number of parameter groups", len(self._groups), len(saved))]
        for number, (own, other) in enumerate(zip(mine["groups"], saved, strict=False)):
            told += [(f"{key} of group {number} at the reference", own[key], other[key]) for key in own if key in other]
        for what, own, other in told:
            if own != other:
                raise PlanError(
                    f"{what} = {own}, and the state's is {other}.",
                    "Make the scheduler from the same reference; or, to go on from another one, with "
                    f"samples_seen={state_dict['samples_seen']} instead of this state.",
                )
        self.samples_seen = state_dict["samples_seen"]
        self._used = None
        self._write()

    def _add(self, group: dict[str, Any], ratio: float) -> None:
        constants = {key: group.get(f"initial_{key}", value) for key, value in group.items() if key != "params"}
        scaled = scale(
            self._rule,
            batch_ratio=ratio,
            reference_batch_size=self.reference_batch_size,
            optimizer=self._optimizer_name,
            constants=constants,
        )
        if self.schedule.momentum(0) is not None:
            _require_free_momentum(group, scaled.constants, self._optimizer_name)
        base_lr = float(constants["lr"])
        peak = peak_lr(base_lr, scaled.lr_ratio)
        self._require_remembered(group, base_lr, peak)
        self.lr_ratio = scaled.lr_ratio
        self._groups.append(
            _Group(
                reference={"lr": base_lr, **{key: constants[key] for key in scaled.constants}},
                all_constants=constants,
                peak_lr=peak,
                constants=scaled.constants,
            )
        )

    def _require_remembered(self, group: Mapping[str, Any], base_lr: float, peak: float) -> None:
        """Refuse a group whose learning rate is neither remembered, nor written by a scheduler like this one."""
        now, own = float(group["lr"]), peak * self.schedule.factor(self.samples_seen)
        if "initial_lr" in group and now not in (base_lr, own, group.get(WRITTEN)):
            raise PlanError(
                f"lr of group {len(self._groups)} is {now:g}, and an earlier scheduler left initial_lr = {base_lr:g} "
                "in it.",
                f'To start from {now:g}: del group["initial_lr"] for each group of optimizer.param_groups. '
                f'To start from {base_lr:g}: group["lr"] = {base_lr:g}.',
            )

    def _short_step(self, samples: int) -> _ShortStep:
        found = [
            scale_short_step(
                self._rule,
                samples=samples,
                global_batch_size=self.global_batch_size,
                reference_batch_size=self.reference_batch_size,
                optimizer=self._optimizer_name,
                constants=group.all_constants,
            )
            for group in self._groups
        ]
        return _ShortStep(
            samples=samples, lr_ratio=found[0].lr_ratio, constants=tuple(scaled.constants for scaled in found)
        )

    def _listen(self) -> None:
        """Have the optimizer say what it used, and when it was loaded; without keeping this scheduler alive."""
        me = ref(self)

        def begins(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
            if (scheduler := me()) is not None:
                scheduler._enter_short_step()

        def stepped(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
            if (scheduler := me()) is not None:
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
        """Give the optimizer the constants of a short step, only while it steps: see ``training.optimizer.step_of``."""
        if self._short is None:
            return
        moves = self._momentum() is not None
        for group, constants in zip(self.optimizer.param_groups, self._short.constants, strict=True):
            set_group_constants(self.optimizer, group, _without_momentum(constants, group) if moves else constants)
        self._inside.enter_context(
            short_momentum(
                self.optimizer,
                name=self._optimizer_name,
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
                set_group_constants(self.optimizer, group, {key: whole[key] for key in short})

    def _write(self) -> None:
        """Write everything: what a load may have replaced. The next step is taken for a whole one."""
        self._short, self._announced, self._stepped = None, False, False
        for group, planned in zip(self.optimizer.param_groups, self._groups, strict=True):
            group.update({f"initial_{key}": value for key, value in planned.reference.items()})
            set_group_constants(self.optimizer, group, planned.constants)
        self._write_rates()

    def _momentum(self) -> float | None:
        momentum = self.schedule.momentum(self.samples_seen)
        if momentum is None or self._short is None:
            return momentum
        share = self._short.samples / self.global_batch_size
        return short_step_momentum(momentum, optimizer=self._optimizer_name, share=share)

    def _write_rates(self) -> None:
        factor, momentum = self.schedule.factor(self.samples_seen), self._momentum()
        for group, planned in zip(self.optimizer.param_groups, self._groups, strict=True):
            peak = planned.peak_lr
            if self._short is not None:
                peak = peak_lr(float(planned.reference["lr"]), self._short.lr_ratio)
            set_group_rate(group, peak * factor, momentum=momentum)
        self._written = [float(group["lr"]) for group in self.optimizer.param_groups]
        for group, written in zip(self.optimizer.param_groups, self._written, strict=True):
            group[WRITTEN] = written

    def _require_own_rates(self) -> None:
        """Refuse to go on when somebody else wrote a rate, or added a group."""
        groups = self.optimizer.param_groups
        if len(groups) != len(self._groups):
            raise TrainingError(
                f"the optimizer has {len(groups)} parameter groups, and the scheduler was made for "
                f"{len(self._groups)}.",
                f"Make it anew, with samples_seen={self.samples_seen}.",
            )
        for number, (group, written) in enumerate(zip(groups, self._written, strict=True)):
            if float(group["lr"]) != written:
                raise TrainingError(
                    f"lr of group {number} is {float(group['lr']):g}, and the scheduler wrote {written:g}: "
                    "something else writes it.",
                    "Remove the other scheduler, or put what it does into schedule.",
                )


def _without_momentum(constants: Mapping[str, Any], group: Mapping[str, Any]) -> dict[str, Any]:
    """The constants, with the momentum (Adam: beta1) that is in the group already."""
    held = {name: value for name, value in constants.items() if name != "momentum"}
    return {**held, "betas": (group["betas"][0], *held["betas"][1:])} if "betas" in held else held


def _require_free_momentum(group: Mapping[str, Any], scaled: Mapping[str, Any], optimizer: str) -> None:
    """Refuse a cycle of momentum where there is none, where the rule scales it, or where weights depend on it."""
    moved = "betas" if "betas" in group else "momentum"
    if moved not in group:
        raise PlanError(f"schedule.low_momentum moves a momentum, and {optimizer} has none.", "Leave it out.")
    if moved in scaled:
        raise PlanError(f"schedule.low_momentum moves {moved}, and the rule scales it.", "Leave one of them out.")
    if "train_mode" in group:
        raise PlanError(
            f"schedule.low_momentum moves {moved}, by which the weights of {optimizer} lie between two points.",
            "Leave it out.",
        )


def _name_of(kind: type[Optimizer]) -> str:
    """Its name in the job file, or the shortest path from which it can be imported, as ``module:Class``."""
    parts = kind.__module__.split(".")
    modules = [".".join(parts[: length + 1]) for length in range(len(parts))]
    home = next((name for name in modules if getattr(sys.modules.get(name), kind.__name__, None) is kind), modules[-1])
    path = f"{home}:{kind.__name__}"
    return next((name for name, facts in NAMED_OPTIMIZERS.items() if facts.path == path), path)
