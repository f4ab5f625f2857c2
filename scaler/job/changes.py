"""The differences between two jobs, and which of them a resumed run accepts."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from shlex import quote
from typing import Any

from scaler.errors import JobFileError
from scaler.job.model import Job
from scaler.masking import mask_values


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """One key of the job whose value differs; None stands for null and for a missing key."""

    key: str
    old: Any
    new: Any

    def texts(self) -> tuple[str, str, str]:
        """Return the key, the old value and the new value, as texts for ``--set``."""
        return self.key, shown(self.old), shown(self.new)

    def __str__(self) -> str:
        """Return ``key: old -> new``."""
        return f"{self.key}: {shown(self.old)} -> {shown(self.new)}"


def job_changes(old: Job, new: Job) -> list[Change]:
    """Return every key whose value differs, in the order of the job file.

    A list counts as one value, and so does a section that only one of the two jobs has. Secrets are compared and shown
    as ``***``, so a secret that is given again is no change.
    """
    return list(_changes(job_values(old), job_values(new)))


def shown(value: Any) -> str:
    """Return a value as text for ``--set``; nulls inside it are left out.

    Example:
        >>> [shown(value) for value in (None, True, 0.5, "cosine", [1, 2], {"min": 1, "max": 4})]
        ['null', 'true', '0.5', 'cosine', '[1, 2]', '{min: 1, max: 4}']
    """
    return value if isinstance(value, str) else _inner(value)


def _inner(value: Any) -> str:
    match value:
        case Mapping():
            parts = [f"{key}: {_inner(part)}" for key, part in value.items() if part is not None]
            return f"{{{', '.join(parts)}}}"
        case list() | tuple():
            return f"[{', '.join(_inner(part) for part in value)}]"
        case str() if value.isidentifier() and value not in ("true", "false", "null"):
            return value
        case float():
            return f"{value:g}" if float(f"{value:g}") == value else repr(value)
        case _:
            return json.dumps(value, ensure_ascii=False)


def job_values(job: Job) -> dict[str, Any]:
    """Return the job's values by section and key, with the defaults of its optimizer; secrets are ``***``."""
    values = mask_values(job.model_dump(mode="json"))
    optimizer = job.reference.optimizer
    options = {
        key: list(value) if isinstance(value, tuple) else value for key, value in optimizer.with_defaults.items()
    }
    values["reference"]["optimizer"] = {"name": optimizer.name, **options, **values["reference"]["optimizer"]}
    return values


def _changes(old: Mapping[str, Any], new: Mapping[str, Any], *, inside: str = "") -> Iterator[Change]:
    for key in dict.fromkeys((*old, *new)):
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            yield from _changes(before, after, inside=f"{inside}{key}.")
        elif before != after:
            yield Change(key=f"{inside}{key}", old=before, new=after)


def _always(change: Change) -> bool:
    return True


def _both_known(change: Change) -> bool:
    return change.old is not None and change.new is not None


def _switched(change: Change) -> bool:
    """Return whether a value is set now and was not before, or the reverse."""
    return bool(change.old) != bool(change.new)


def _only_lr(change: Change) -> bool:
    """Return whether a change of one of several optimizers is of learning rate or rule only: a key, or an entry."""
    entries = [value for value in (change.old, change.new) if isinstance(value, Mapping)]
    other = ("optimizer", "match", "name")
    return change.key.endswith((".lr", ".rule")) or (
        bool(entries) and all(value.get(key) is None for value in entries for key in other)
    )


def _to_or_from(word: str) -> Callable[[Change], bool]:
    """Return a test of whether a key, or the ``name`` or ``up_to`` of a section, was or becomes this word."""

    def has(value: Any) -> bool:
        return word in (value.get("name"), value.get("up_to")) if isinstance(value, Mapping) else value == word

    return lambda change: has(change.old) or has(change.new)


# Key -> when a change of it is refused, and why. Every other key may change: the plan is made again from the job, and
# no part of it is in a checkpoint.
#
# Keys that may change, and why this is safe:
#   recipe_args            data, addresses, secrets; a model of another shape is detected when its weights are loaded
#   reference, scale       learning rate and batch follow from the job and samples_seen; constants are written again
#   schedule               a function of samples_seen; a new plateau starts with an empty state
#   train.epochs|...       the end of the run; the schedule is stretched with it
#   train.stop_after       the end of this run; the schedule stays
#   train.strategy, fsdp   checkpoints are loaded by any number of workers, with either strategy; so is scale.mesh
#   train.last_batch       applies to each step alone; the order of the samples does not depend on it
#   train.ema.decay, clip_grad_norm, precision, noise_scale_every, data_workers, eval_every    apply to each step alone
#   train.tf32, compile, activation_checkpointing, channels_last, pin_memory    change speed and memory only
#   train.check_data       applies to the start of each attempt
#   resources, runtime_env, checkpoint, failures, tracking    do not change the training
FIXED: Mapping[str, tuple[Callable[[Change], bool], str]] = {
    "name": (_always, "the run's id begins with it"),
    "recipe": (_always, "the saved weights are of its model"),
    "storage": (_always, "the run's folder cannot move"),
    "train.num_samples": (
        _both_known,
        "samples_seen counts epochs of this many samples",
    ),
    "train.unit": (_always, "samples_seen and the batch are of this unit"),
    "train.tokens_per_sample": (_always, "the schedule counts the tokens of every sample so far"),
    "train.sequence_lengths": (_always, "the schedule counts the tokens of every sample so far"),
    "train.seed": (_always, "it decides the order of the data: samples would be used twice in an epoch, or never"),
    "train.ema": (_switched, "the average starts with the training, so it cannot be added or removed later"),
    "reference.optimizer.name": (_always, "the saved state is of this optimizer"),
    "reference.optimizer.momentum": (_switched, "the saved state of the optimizer fits only the old value"),
    "reference.optimizer.amsgrad": (_switched, "the saved state of the optimizer fits only the old value"),
    "reference.optimizer.centered": (_switched, "the saved state of the optimizer fits only the old value"),
    "scale.rule": (
        _to_or_from("adascale"),
        "with adascale, progress is counted in samples of the reference's training",
    ),
    "scale.batch_schedule": (
        _to_or_from("noise_scale"),
        "the growth of the batch is measured, and saved in checkpoints",
    ),
    "scale.batch_schedule.up_to": (
        _to_or_from("noise_scale"),
        "the growth of the batch is measured, and saved in checkpoints",
    ),
    "scale.batch_schedule.name": (
        _to_or_from("noise_scale"),
        "the growth of the batch is measured, and saved in checkpoints",
    ),
    "groups": (_always, "the optimizer's state is saved by groups"),
    "layer_decay": (_always, "the optimizer's state is saved by groups"),
}


def require_resumable(changes: Sequence[Change], *, what: str = "a resumed run") -> None:
    """Refuse changes that a resumed run cannot make.

    Args:
        changes: from the job that ran to the job that is resumed.
        what: cannot make them, for the error.

    Raises:
        JobFileError: lists every such change with its reason, and the options that undo them.
    """
    another = any(change.key == "reference.optimizer.name" for change in changes)
    refused = [(change, reason) for change in changes if (reason := _why_not(change, another_optimizer=another))]
    if not refused:
        return
    lines = [f"{change}: {reason}." for change, reason in refused]
    back = " ".join(f"--set {quote(f'{change.key}={shown(change.old)}')}" for change, _ in refused)
    raise JobFileError(
        f"{what} cannot change {', '.join(change.key for change, _ in refused)}.",
        "\n".join([*lines, f"Undo: {back}", "Or start a new run: scaler submit JOB."]),
    )


def _why_not(change: Change, *, another_optimizer: bool) -> str | None:
    """Return why a resumed run cannot make a change; None if it can."""
    for key, (is_refused, reason) in FIXED.items():
        is_inside = change.key.startswith("layer_decay.") and key == "layer_decay"
        if (change.key == key or is_inside) and is_refused(change):
            return reason
    is_fallback = (change.key + ".").startswith("reference.optimizer.fallback.")
    if (is_fallback or change.key.startswith("reference.optimizers.")) and not _only_lr(change):
        return "the saved state is of these optimizers"
    if (
        change.key.startswith("reference.optimizer.")
        and not is_fallback
        and change.new is None
        and not another_optimizer
    ):
        return "without the key, the saved value would stay; give its default"  # which scaler does not know
    return None
