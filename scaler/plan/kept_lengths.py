"""Refuse to resume a run at another batch size when that would silently change lengths of the schedule."""

from collections.abc import Iterator
from shlex import quote
from typing import Any

from scaler.core.unit import unit_with
from scaler.errors import JobFileError
from scaler.job import Job
from scaler.job.changes import shown
from scaler.job.section import Length
from scaler.plan.lengths import Lengths
from scaler.plan.model import Plan


def require_same_lengths(before: Job, old: Plan, now: Job, new: Plan, *, with_auto_warmup: bool = True) -> None:
    """Refuse to resume if a length in steps, or an automatic one, is a different number of samples than before.

    Args:
        before: the job that ran.
        old: its plan.
        now: the job that is resumed.
        new: its plan.
        with_auto_warmup: whether an automatic warmup counts, too.

    Raises:
        JobFileError: lists each such key, and the value in samples that keeps it.
    """
    mine = dict(_in_steps(now))
    theirs = dict(_in_steps(before))
    moved = []
    for key, value in mine.items():
        if theirs.get(key) != value:
            continue  # the user changed it
        was, is_now = _samples(value, before, old), _samples(value, now, new)
        if was != is_now:
            moved.append((key, value, was, is_now))
    lines = [
        f"{key} = {shown(_plain(value))}: {_samples_text(was)} so far, {_samples_text(is_now)} now."
        for key, value, was, is_now in moved
    ]
    keep = [_keeping(key, value, was) for key, value, was, _ in moved]
    old_warmup, new_warmup = old.schedule.warmup_samples, new.schedule.warmup_samples
    is_auto = now.schedule.warmup == before.schedule.warmup == "auto"
    is_unedited = now.reference.warmup == before.reference.warmup and old.total_samples == new.total_samples
    if with_auto_warmup and is_auto and is_unedited and old_warmup != new_warmup:
        lines.append(f"schedule.warmup = auto: {old_warmup:,} samples so far, {new_warmup:,} now.")
        keep.append(f"--set {quote(f'schedule.warmup={{samples: {old.schedule.warmup.samples}}}')}")
    if lines:
        raise JobFileError(
            f"the global batch is {new.units.plural(new.global_batch_size)} now and was "
            f"{old.units.number(old.global_batch_size)}, which would change the schedule.",
            "\n".join([*lines, f"Keep it: {' '.join(keep)}"]),
        )


def _in_steps(job: Job) -> Iterator[tuple[str, Any]]:
    """Yield every length in steps that changes the training, with its key."""
    if job.train.steps is not None:
        yield "train.steps", job.train.steps
    for section, values in (("schedule", job.schedule), ("scale.batch_schedule", job.scale.batch_schedule)):
        for name in type(values).model_fields if values is not None else ():
            value = getattr(values, name)
            if any(length.steps is not None for length in _lengths(value)):
                yield f"{section}.{name}", value
    for group in job.groups if not isinstance(job.groups, str) else ():
        if any(length.steps is not None for length in _lengths(group.freeze)):
            yield "groups", job.groups


def _lengths(value: Any) -> list[Length]:
    """Return the lengths in a value: itself, those of a list, or those in its entries."""
    if isinstance(value, Length):
        return [value]
    if isinstance(value, tuple):
        return [length for part in value for length in _lengths(part)]
    return [value.at] if isinstance(getattr(value, "at", None), Length) else []


def _samples(value: Any, job: Job, plan: Plan) -> list[int]:
    lengths = Lengths(
        global_batch_size=plan.global_batch_size,
        reference_batch_size=plan.reference_batch_size,
        is_elastic=job.scale.is_elastic,
        num_samples=plan.num_samples,
        last_batch=plan.last_batch,
        total_samples=plan.total_samples,
        units=unit_with(plan.tokens_per_sample),
    )
    found = [Length(steps=value)] if isinstance(value, int) else _lengths(value)
    if not found:  # groups
        found = [group.freeze for group in value if isinstance(group.freeze, Length)]
    return [lengths.samples(length) for length in found]


def _keeping(key: str, value: Any, samples: list[int]) -> str:
    """Return the options that keep a key at its number of samples."""
    if key == "train.steps":
        return f"--set train.steps=null --set train.samples={samples[0]}"
    return f"--set {quote(f'{key}={shown(_kept(value, samples))}')}"


def _samples_text(samples: list[int]) -> str:
    return f"{', '.join(f'{count:,}' for count in samples)} samples"


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(part) for part in value]
    return value.model_dump(exclude_none=True) if hasattr(value, "model_dump") else value


def _kept(value: Any, samples: list[int]) -> Any:
    """Return the value with each length replaced by its earlier number of samples."""
    left = iter(samples)

    def kept(part: Any) -> Any:
        if isinstance(part, Length):
            count = next(left)
            settings = {name: setting for name, setting in _plain(part).items() if name not in part._units()}
            return {"samples": count, **settings}
        if isinstance(part, tuple):
            return [kept(one) for one in part]
        if isinstance(getattr(part, "at", None), Length):
            return {**_plain(part), "at": kept(part.at)}
        if isinstance(getattr(part, "freeze", None), Length):
            return {**_plain(part), "freeze": kept(part.freeze)}
        return _plain(part)

    return kept(value)
