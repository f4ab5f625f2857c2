"""The unit of a job, samples or tokens: what fits it, and the job with its batch sizes in samples."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from pydantic import BaseModel

from scaler.core.unit import require_whole
from scaler.errors import PlanError
from scaler.job.section import Length, problem

if TYPE_CHECKING:
    from scaler.job.model import Job

# The batch sizes of a job: where they are, by section. ``batch_schedule`` has another one, in some of its kinds.
_SIZES = (("reference", "global_batch_size"), ("scale", "global_batch_size"), ("scale", "per_worker_batch_size"))


def require_unit(job: "Job") -> None:
    """Refuse keys of a job that do not fit its unit; for its validator.

    Raises:
        PydanticCustomError: tokens in a job that counts samples, or what does not go with ``sequence_lengths``.
    """
    train = job.train
    if train.unit == "samples":
        for key in ("tokens_per_sample", "sequence_lengths"):
            if getattr(train, key):
                raise problem(
                    f"train.{key} is given, and train.unit = samples.",
                    "Write train.unit: tokens, and every batch size in tokens; or leave it out.",
                )
        if job.reference.total_tokens is not None:
            raise problem(
                "reference.total_tokens is given, and train.unit = samples.", "Give reference.total_samples or epochs."
            )
        for key, length in lengths_of(job):
            if getattr(length, "tokens", None) is not None:
                raise problem(
                    f"{key} = {{tokens: {length.tokens}}}, and train.unit = samples.",
                    "Write train.unit: tokens, train.tokens_per_sample, and every batch size in tokens; or give "
                    f"{key} in samples.",
                )
        return
    if train.sequence_lengths:
        _require_planned_lengths(job)


def _require_planned_lengths(job: "Job") -> None:
    """Refuse what does not go with a number of tokens in a sample that changes in training."""
    scale, remedy = job.scale, "Leave train.sequence_lengths out, or give "
    for place, later in enumerate(job.train.sequence_lengths):
        if later.at.steps is not None:
            raise problem(
                f"train.sequence_lengths.{place}.at = {{steps: {later.at.steps}}} is not a fixed number of samples.",
                "Give it in tokens, samples or epochs.",
            )
    if job.train.steps is not None:
        raise problem(
            f"train.steps = {job.train.steps} is not a fixed number of samples: train.sequence_lengths changes them.",
            "Give train.tokens, train.epochs or train.samples.",
        )
    if scale.global_batch_size is None and scale.is_elastic and scale.on_resize != "hold_global_batch":
        raise problem(
            "train.sequence_lengths needs a batch that does not follow the number of workers.",
            f"{remedy}scale.global_batch_size.",
        )
    if scale.batch_schedule is not None or scale.rule == "adascale":
        key = "batch_schedule" if scale.batch_schedule is not None else "rule = adascale"
        raise problem(
            f"train.sequence_lengths and scale.{key} both change the samples of a step.", "Leave one of them out."
        )
    if scale.horizon and job.train.tokens is None:
        raise problem(
            "scale.horizon compares the tokens of two trainings, and train.sequence_lengths changes those of an epoch.",
            "Give train.tokens.",
        )
    points = [("train.stop_after", job.train.stop_after)] if job.train.stop_after is not None else []
    for key, point in [*points, *_lengths(job.groups, "groups")]:
        unit = next((unit for unit in ("steps", "fraction") if getattr(point, unit, None)), None)
        if unit is not None:
            raise problem(
                f"{key} is in {unit if unit == 'steps' else 'fractions'}, and train.sequence_lengths changes the "
                "samples of a step.",
                "Give it in tokens, samples or epochs.",
            )
    for key, length in lengths_of(job, of="schedule"):
        unit = next((unit for unit in ("epochs", "samples") if getattr(length, unit)), None)
        if unit is not None:
            raise problem(
                f"{key} is in {unit}, whose tokens train.sequence_lengths changes.",
                "Give it in tokens, in steps or as a fraction.",
            )


def lengths_of(job: "Job", *, of: str = "") -> Iterator[tuple[str, Length]]:
    """Yield every length of the job that the user gave, with its key; of one section, or of all."""
    if of:
        yield from _lengths(getattr(job, of), of)
        return
    for name in type(job).model_fields:
        yield from _lengths(getattr(job, name), name)


def _lengths(value: object, key: str) -> Iterator[tuple[str, Length]]:
    if isinstance(value, Length):
        yield key, value
    if isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from _lengths(getattr(value, name), f"{key}.{name}")
    elif isinstance(value, tuple):
        for place, part in enumerate(value):
            yield from _lengths(part, f"{key}.{place}")


def in_samples(job: "Job") -> "Job":
    """Return the job with its batch sizes in samples, as a plan has them; a job in samples is returned unchanged.

    This is the only place where batch sizes in tokens become samples. Lengths in tokens are converted by
    ``scaler.plan.lengths``.

    Raises:
        PlanError: the tokens of a sample are not known, or a batch is not a whole number of samples.
    """
    train, tokens = job.train, job.train.tokens_per_sample
    if train.unit == "samples":
        return job
    if tokens is None:
        raise PlanError(
            "train.unit = tokens, and the tokens of a sample are not known.",
            "Give train.tokens_per_sample, or return scaler.Recipe(tokens_per_sample=...).",
        )
    changes: dict[str, dict[str, object]] = {"reference": {}, "scale": {}}
    for section, key in _SIZES:
        size = getattr(getattr(job, section), key)
        if isinstance(size, int):  # per_worker_batch_size may be auto
            changes[section][key] = require_whole(size, tokens, key=f"{section}.{key}")
    if job.reference.total_tokens is not None:
        changes["reference"] |= {
            "total_samples": max(1, round(job.reference.total_tokens / tokens)),
            "total_tokens": None,
        }
    growth, noise = job.scale.batch_schedule, job.scale.noise_scale
    if (most := getattr(growth, "max_global_batch_size", None)) is not None:
        whole = require_whole(most, tokens, key="scale.batch_schedule.max_global_batch_size")
        assert growth is not None
        changes["scale"]["batch_schedule"] = growth.model_copy(update={"max_global_batch_size": whole})
    if noise is not None:
        changes["scale"]["noise_scale"] = noise / tokens
    for place, later in enumerate(train.sequence_lengths):
        why = f", which train.sequence_lengths.{place} gives them"
        for name, size in (("global", job.scale.global_batch_size), ("per_worker", job.scale.most_per_worker)):
            if size is not None:
                require_whole(size, later.tokens_per_sample, key=f"scale.{name}_batch_size", why=why)
    return job.model_copy(
        update={
            "reference": job.reference.model_copy(update=changes["reference"]),
            "scale": job.scale.model_copy(update=changes["scale"]),
            "train": train.model_copy(update={"unit": "samples"}),
        }
    )
