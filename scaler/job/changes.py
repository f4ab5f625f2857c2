"""What differs between two jobs, and what of it a run that goes on can bear."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from shlex import quote
from typing import Any

from scaler.core.optimizers import OPTIMIZER_OPTIONS
from scaler.errors import JobFileError
from scaler.job.model import Job
from scaler.masking import mask_values


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """One key of the job with another value; None stands for null and for a key that is not there."""

    key: str
    old: Any
    new: Any

    def texts(self) -> tuple[str, str, str]:
        """Return the key and both values as texts, as ``--set`` takes them."""
        return self.key, shown(self.old), shown(self.new)

    def __str__(self) -> str:
        """Return ``key: old -> new``."""
        return f"{self.key}: {shown(self.old)} -> {shown(self.new)}"


def job_changes(old: Job, new: Job) -> list[Change]:
    """Return every key whose value differs, in the order of the job file.

    Lists count as one value, and so do sections that only one of the two has. Secrets are compared and shown as
    ``***``: that one was given again is no change.
    """
    return list(_changes(_values(old), _values(new)))


def shown(value: Any) -> str:
    """Return a value as ``--set`` takes it; nulls within it are left out.

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


def _values(job: Job) -> dict[str, Any]:
    """The job's values, with what its optimizer takes where it is not told."""
    values = mask_values(job.model_dump(mode="json"))
    told = values["reference"]["optimizer"]
    defaults = {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in OPTIMIZER_OPTIONS.get(told["name"], {}).items()
    }
    values["reference"]["optimizer"] = {"name": told["name"], **defaults, **told}
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
    """Whether something is there now and was not, or the other way round."""
    return bool(change.old) != bool(change.new)


def _to_or_from(word: str) -> Callable[[Change], bool]:
    """Whether a key, or the ``name`` of a section, was or becomes this word."""

    def name(value: Any) -> Any:
        return value.get("name") if isinstance(value, Mapping) else value

    return lambda change: word in (name(change.old), name(change.new))


# Key -> when a change of it is refused, and why. Every other key may change: the plan is made anew from the job, and
# nothing of it is in a checkpoint.
#
# May change, and why that is sound:
#   recipe_args            data, addresses, secrets; a model of another shape is found when its weights are loaded
#   reference, scale       rate, batch and rule are functions of the job and samples_seen; constants are written anew
#   schedule               a function of samples_seen; a plateau that is new begins with no memory
#   train.epochs|...       the end of the run; the schedule is stretched with it
#   train.last_batch       of each step by itself: the order of the samples does not follow from it
#   train.ema.decay, clip_grad_norm, precision, noise_scale_every, data_workers, eval_every    of each step by itself
#   train.check_data       of the start of each attempt
#   resources, checkpoint, failures, tracking    of the context
FIXED: Mapping[str, tuple[Callable[[Change], bool], str]] = {
    "name": (_always, "the run has its name from it"),
    "recipe": (_always, "the weights that are saved are those of its model"),
    "storage": (_always, "the run's folder stays where it is"),
    "train.num_samples": (
        _both_known,
        "samples_seen counts passes over that many; null, once and now, is compared later",
    ),
    "train.seed": (_always, "the order of the data follows from it: samples would be used twice in an epoch, or never"),
    "train.ema": (_switched, "the average begins with the training, and is in every checkpoint or in none"),
    "reference.optimizer.name": (_always, "the state that is saved is this optimizer's"),
    "reference.optimizer.momentum": (_switched, "the running mean is in every checkpoint or in none"),
    "reference.optimizer.amsgrad": (_switched, "the largest squares are in every checkpoint or in none"),
    "reference.optimizer.centered": (_switched, "the running mean is in every checkpoint or in none"),
    "scale.rule": (_to_or_from("adascale"), "with adascale, progress is measured in other samples"),
    "scale.batch_schedule": (_to_or_from("noise_scale"), "how far the batch has grown is measured, and saved"),
    "scale.batch_schedule.name": (_to_or_from("noise_scale"), "how far the batch has grown is measured, and saved"),
    "groups": (_always, "the optimizer's state is saved by groups"),
    "layer_decay": (_always, "the optimizer's state is saved by groups"),
}


def require_resumable(changes: Sequence[Change]) -> None:
    """Refuse changes that a run that goes on cannot bear.

    Args:
        changes: from the job as it ran to the job that is to go on.

    Raises:
        JobFileError: lists all of them, each with its reason, and what sets them back.
    """
    another = any(change.key == "reference.optimizer.name" for change in changes)
    refused = [(change, reason) for change in changes if (reason := _why_not(change, another_optimizer=another))]
    if not refused:
        return
    lines = [f"{change}: {reason}." for change, reason in refused]
    back = " ".join(f"--set {quote(f'{change.key}={shown(change.old)}')}" for change, _ in refused)
    raise JobFileError(
        f"a run that goes on cannot change {', '.join(change.key for change, _ in refused)}.",
        "\n".join([*lines, f"Set back: {back}", "Or begin a new run: scaler submit JOB."]),
    )


def _why_not(change: Change, *, another_optimizer: bool) -> str | None:
    """Why a run that goes on cannot bear a change; None where it can."""
    for key, (is_refused, reason) in FIXED.items():
        is_inside = change.key.startswith("layer_decay.") and key == "layer_decay"
        if (change.key == key or is_inside) and is_refused(change):
            return reason
    if change.key.startswith("reference.optimizer.") and change.new is None and not another_optimizer:
        return "left out, it would stay as it was saved; give its default"  # scaler knows no default of this one
    return None
