"""Combinations of an experiment's matrix: their names, and which values they have."""

from collections.abc import Mapping
from typing import Any

from scaler.job.changes import shown

SHORT = {
    "scale.num_workers": "workers",
    "scale.global_batch_size": "batch",
    "scale.per_worker_batch_size": "batch a worker",
}


def label(overrides: Mapping[str, Any]) -> str:
    """Return the name of a combination.

    Example:
        >>> label({"scale.num_workers": 2, "scale.global_batch_size": 256, "scale.rule": "sqrt"})
        'workers 2, batch 256, rule sqrt'
        >>> label({"schedule": {"name": "step", "decay": 0.1}, "reference.lr": 0.03})
        'schedule step (decay 0.1), lr 0.03'
    """
    return ", ".join(f"{_short(key)} {_shown(value)}" for key, value in overrides.items()) or "the job"


def matches(overrides: Mapping[str, Any], some: Mapping[str, Any]) -> bool:
    """Return whether a combination has some values."""
    return all(key in overrides and overrides[key] == value for key, value in some.items())


def _short(key: str) -> str:
    return SHORT.get(key, key.rpartition(".")[2])


def _shown(value: Any) -> str:
    """Return a value; a section with a name begins with it."""
    if not isinstance(value, Mapping) or "name" not in value:
        return shown(value)
    options = ", ".join(f"{key} {_shown(each)}" for key, each in value.items() if key != "name")
    return f"{value['name']} ({options})" if options else str(value["name"])
