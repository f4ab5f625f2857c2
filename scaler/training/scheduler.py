"""A learning-rate scheduler for one's own torch loop: the rate is a function of the samples seen."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Unpack
from weakref import ref

from scaler.core.optimizers import OPTIMIZER_CLASSES
from scaler.core.rules import Rule, scale
from scaler.core.scale_lr import RuleOptions, batch_ratio, make_rule, peak_lr
from scaler.core.schedules import Schedule
from scaler.errors import PlanError, TrainingError
from scaler.training.optimizer import Optimizer, set_group_constants, set_group_rate


@dataclass(frozen=True, kw_only=True, slots=True)
class _Group:
    """A parameter group: what it has at the reference's batch, and what the rule makes of it."""

    reference: Mapping[str, Any]  # lr, and the constants that the rule scales
    peak_lr: float
    constants: Mapping[str, Any]


class SampleScheduler:
    """Writes the rate of the next step into a torch optimizer, as a function of the samples seen.

        lr = base_lr * lr_ratio(global_batch_size / reference_batch_size) * schedule(samples_seen)

    ``base_lr`` is the rate that a parameter group has when the scheduler is made. Every group keeps its own, as it does
    each constant that the rule scales (betas, eps, weight decay, momentum). They stay in the group, as ``initial_lr``,
    ``initial_betas``, ..., which torch saves with the optimizer, and a group that has them already is taken at their
    word. So nothing compounds: not in a scheduler made anew, nor with an optimizer that was loaded before.

    Call ``step`` after every optimizer step, on every rank, with the samples of all steps so far; not after
    micro-batches that only accumulate. A step that a ``GradScaler`` skips counts too: its samples are spent.

    To resume, make it as for a new training, at today's ``global_batch_size`` and with its schedule, and load its state
    and the optimizer's in either order: rates and constants are derived anew after each load, by a hook of the
    optimizer's. A scheduler stops writing when it is dropped.

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
        samples_seen: samples that have contributed to the weights, over all workers.
        rule: the rule used, never ``auto``.
        reason: why this rule.
        lr_ratio: of the peak rate to the reference's.

    Raises:
        PlanError: numbers out of range, a rule that does not hold for this optimizer or so far out, a momentum that the
            optimizer lacks or that rule and schedule both set, or an optimizer that wraps another.

    Example:
        >>> import scaler, torch
        >>> model = torch.nn.Linear(2, 1)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> schedule = scaler.Schedule(shape=scaler.shapes.Linear(length=256))
        >>> scheduler = scaler.SampleScheduler(
        ...     optimizer, reference_batch_size=16, global_batch_size=64, schedule=schedule
        ... )
        >>> for step in range(4):
        ...     model(torch.zeros(64, 2)).sum().backward()
        ...     optimizer.step()
        ...     optimizer.zero_grad()
        ...     scheduler.step(samples_seen=64 * (step + 1))
        ...     print(scheduler.get_last_lr())
        [0.4]
        [0.30000000000000004]
        [0.2]
        [0.1]
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
        made, self.reason = make_rule(rule, optimizer=name, **options)
        self.optimizer = optimizer
        self.reference_batch_size, self.global_batch_size = reference_batch_size, global_batch_size
        self.schedule = schedule
        self.rule = made.name
        self.samples_seen = samples_seen
        self._used: list[float] | None = None  # rates of the optimizer's last step
        self._written: list[float] = []  # as they read back
        self._groups: list[_Group] = []
        self.lr_ratio = 1.0
        for group in optimizer.param_groups:
            self._add(group, made, ratio, name)
        self._write()
        self._listen()

    def step(self, *, samples_seen: int) -> None:
        """Write the rate of the next step.

        Args:
            samples_seen: samples of all steps so far, the last one included, over all workers.

        Raises:
            TrainingError: stepped twice for the same samples, by more than a global batch, or the rate in the optimizer
                is not the one that was written.
        """
        self._require_own_rates()
        taken = samples_seen - self.samples_seen
        if taken <= 0:
            twice = "stepped twice for the same samples" if taken == 0 else "stepped back"
            raise TrainingError(
                f"samples_seen = {samples_seen}, and the scheduler is at {self.samples_seen}: it is {twice}.",
                "Step it once after each optimizer step, with the samples of all steps so far, over all workers.",
            )
        if taken > self.global_batch_size:
            raise TrainingError(
                f"samples_seen = {samples_seen} is {taken} samples after the last step, "
                f"and global_batch_size = {self.global_batch_size}.",
                "Count all workers and micro-steps in global_batch_size, and step after every optimizer step.",
            )
        self.samples_seen = samples_seen
        self._write_rates()

    def get_last_lr(self) -> list[float]:
        """Return the rates that the optimizer used in its last step, per group; before its first, those it will use."""
        return list(self._written if self._used is None else self._used)

    def state_dict(self) -> dict[str, Any]:
        """Return the samples seen and the reference: nothing that depends on this batch, and no rate in use."""
        groups = [
            {key: list(value) if isinstance(value, tuple) else value for key, value in group.reference.items()}
            for group in self._groups
        ]
        return {"samples_seen": self.samples_seen, "reference_batch_size": self.reference_batch_size, "groups": groups}

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

    def _add(self, group: dict[str, Any], rule: Rule, ratio: float, optimizer: str) -> None:
        constants = {key: group.get(f"initial_{key}", value) for key, value in group.items() if key != "params"}
        scaled = scale(
            rule,
            batch_ratio=ratio,
            reference_batch_size=self.reference_batch_size,
            optimizer=optimizer,
            constants=constants,
        )
        if self.schedule.momentum(0) is not None:
            _require_free_momentum(group, scaled.constants, optimizer)
        self.lr_ratio = scaled.lr_ratio
        base_lr = float(constants["lr"])
        self._groups.append(
            _Group(
                reference={"lr": base_lr, **{key: constants[key] for key in scaled.constants}},
                peak_lr=peak_lr(base_lr, scaled.lr_ratio),
                constants=scaled.constants,
            )
        )

    def _listen(self) -> None:
        """Have the optimizer say what it used, and when it was loaded; without keeping this scheduler alive."""
        me = ref(self)

        def stepped(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
            if (scheduler := me()) is not None:
                scheduler._used = [float(group["lr"]) for group in optimizer.param_groups]

        def loaded(optimizer: Optimizer) -> None:
            if (scheduler := me()) is not None:
                scheduler._used = None
                scheduler._write()

        self.optimizer.register_step_post_hook(stepped)
        self.optimizer.register_load_state_dict_post_hook(loaded)

    def _write(self) -> None:
        """Write everything: what a load may have replaced."""
        for group, planned in zip(self.optimizer.param_groups, self._groups, strict=True):
            group.update({f"initial_{key}": value for key, value in planned.reference.items()})
            set_group_constants(self.optimizer, group, planned.constants)
        self._write_rates()

    def _write_rates(self) -> None:
        factor, momentum = self.schedule.factor(self.samples_seen), self.schedule.momentum(self.samples_seen)
        for group, planned in zip(self.optimizer.param_groups, self._groups, strict=True):
            set_group_rate(group, planned.peak_lr * factor, momentum=momentum)
        self._written = [float(group["lr"]) for group in self.optimizer.param_groups]

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
    return next((name for name, known in OPTIMIZER_CLASSES.items() if known == path), path)
