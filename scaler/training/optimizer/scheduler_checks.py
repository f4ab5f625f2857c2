"""Errors of ``SampleScheduler``: steps out of order, another reference, and learning rates that it did not write."""

from collections.abc import Mapping, Sequence
from typing import Any

from scaler.core.schedules import Schedule
from scaler.errors import PlanError, TrainingError

WRITTEN = "sample_scheduler_lr"
"""The key of a parameter group under which a scheduler stores the learning rate that it wrote last."""


def require_next_step(
    samples_seen: int,
    samples: int | None,
    *,
    at: int,
    written_for: int,
    global_batch_size: int,
    is_announced: bool,
    has_stepped: bool,
    schedule: Schedule,
) -> None:
    """Raise an error for a step that does not follow the last one.

    Args:
        samples_seen: samples before the step.
        samples: samples in the step; None: a whole global batch.
        at: ``samples_seen`` of the last step.
        written_for: samples in the step that the learning rate was written for.
        global_batch_size: samples in a whole step.
        is_announced: whether ``step`` was called for the step at ``at``.
        has_stepped: whether the optimizer has stepped since.
        schedule: the scheduler's.

    Raises:
        TrainingError: the step is announced twice, goes back, skips samples, was shorter than announced, has no or too
            many samples, or is beyond the end of the schedule.
    """
    taken = samples_seen - at
    if taken < 0 or (taken == 0 and is_announced):
        twice = "stepped twice for the same samples" if taken == 0 else "stepped back"
        raise TrainingError(
            f"samples_seen = {samples_seen}, and the scheduler is at {at}: it was {twice}.",
            "Step it once for each optimizer step, with the samples of all steps before it, over all workers.",
        )
    if taken > global_batch_size:
        raise TrainingError(
            f"samples_seen = {samples_seen} is {taken} samples after the last step, "
            f"and global_batch_size = {global_batch_size}.",
            "Count all workers and micro-steps in global_batch_size, and step for every optimizer step.",
        )
    if 0 < taken < written_for and has_stepped:
        raise TrainingError(
            f"the last step had {taken} samples, but its learning rate was for {written_for}.",
            f"Give the samples of a short step before that step: scheduler.step(samples_seen={at}, samples={taken}).",
        )
    if samples is not None and not 1 <= samples <= global_batch_size:
        raise TrainingError(
            f"samples = {samples} is not in [1, global_batch_size = {global_batch_size}].",
            "It is the samples of one optimizer step, over all workers and micro-steps.",
        )
    end = schedule.end
    is_over = samples is not None and samples_seen == end and schedule.factor(samples_seen) == 0.0
    if end is not None and (samples_seen > end or is_over):
        raise TrainingError(
            f"samples_seen = {samples_seen} is beyond the schedule, which ends at {end} samples.",
            "Count the samples of each step, a short last batch too; or make the schedule as long as the training.",
        )


def require_same_reference(own: Mapping[str, Any], saved: Mapping[str, Any]) -> None:
    """Raise an error for a saved state that this scheduler cannot load.

    Args:
        own: this scheduler's ``state_dict()``.
        saved: the state to load.

    Raises:
        PlanError: it is the state of another kind of scheduler, or has another reference.
    """
    if saved.keys() != own.keys():
        raise PlanError(
            f"the state has {', '.join(map(str, saved)) or 'nothing'}: it is not a SampleScheduler's.",
            "To continue after another scheduler, make this one with samples_seen = the samples trained on so far.",
        )
    compared = [("reference_batch_size", own["reference_batch_size"], saved["reference_batch_size"])]
    compared += [("the number of parameter groups", len(own["groups"]), len(saved["groups"]))]
    for number, (mine, other) in enumerate(zip(own["groups"], saved["groups"], strict=False)):
        compared += [
            (f"{key} of group {number} at the reference", mine[key], other[key]) for key in mine if key in other
        ]
    for what, mine, other in compared:
        if mine != other:
            raise PlanError(
                f"{what} = {mine}, and the state's is {other}.",
                "Make the scheduler from the same reference; or, to continue with another reference, with "
                f"samples_seen={saved['samples_seen']} instead of this state.",
            )


def require_known_lr(group: Mapping[str, Any], number: int, *, base_lr: float, own_lr: float) -> None:
    """Raise an error for a parameter group whose learning rate was changed after an earlier scheduler wrote it.

    Args:
        group: the optimizer's.
        number: of the group.
        base_lr: the reference's learning rate of the group.
        own_lr: the learning rate that the new scheduler writes.

    Raises:
        PlanError: the group has an ``initial_lr``, but its ``lr`` is none that a scheduler wrote.
    """
    now = float(group["lr"])
    if "initial_lr" in group and now not in (base_lr, own_lr, group.get(WRITTEN)):
        raise PlanError(
            f"lr of group {number} is {now:g}, and an earlier scheduler left initial_lr = {base_lr:g} in it.",
            f'To start from {now:g}: del group["initial_lr"] for each group of optimizer.param_groups. '
            f'To start from {base_lr:g}: group["lr"] = {base_lr:g}.',
        )


def require_written_lrs(groups: Sequence[Mapping[str, Any]], written: Sequence[float], *, samples_seen: int) -> None:
    """Raise an error if something else wrote a learning rate, or added a parameter group.

    Args:
        groups: the optimizer's.
        written: the learning rate that the scheduler wrote into each group.
        samples_seen: where the scheduler is.

    Raises:
        TrainingError: they differ.
    """
    if len(groups) != len(written):
        raise TrainingError(
            f"the optimizer has {len(groups)} parameter groups, and the scheduler was made for {len(written)}.",
            f"Make a new scheduler, with samples_seen={samples_seen}.",
        )
    for number, (group, lr) in enumerate(zip(groups, written, strict=True)):
        if float(group["lr"]) != lr:
            raise TrainingError(
                f"lr of group {number} is {float(group['lr']):g}, and the scheduler wrote {lr:g}: "
                "something else writes it.",
                "Remove the other scheduler, or express its effect in schedule.",
            )


def require_free_momentum(group: Mapping[str, Any], scaled: Mapping[str, Any], optimizer: str) -> None:
    """Raise an error if the schedule moves a momentum that it must not move.

    Args:
        group: of the optimizer.
        scaled: the group's constants that the rule scales.
        optimizer: its name.

    Raises:
        PlanError: the group has no momentum, the rule scales it, or the optimizer's weights depend on it.
    """
    moved = "betas" if "betas" in group else "momentum"
    if moved not in group:
        raise PlanError(f"schedule.low_momentum moves the momentum, but {optimizer} has none.", "Leave it out.")
    only_second = moved == "betas" and "eps" not in scaled  # co_scale.beta2; adam_sde scales beta1 and eps too
    if moved in scaled and not only_second:
        raise PlanError(f"schedule.low_momentum moves {moved}, but the rule scales it too.", "Leave one of them out.")
    if "train_mode" in group:
        raise PlanError(
            f"schedule.low_momentum moves {moved}, but {optimizer} uses it to place its weights between two points.",
            "Leave it out.",
        )
