"""Suggestions for a value in the wrong form: the mapping or the list to write instead, as YAML."""

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

from pydantic import BaseModel, ValidationError

from scaler.core.nearest import nearest
from scaler.core.optimizers import NAMED_OPTIMIZERS
from scaler.job.reading import flow_yaml, parse_yaml
from scaler.job.section import Length

MOST_OFFERS = 4
TO_FILL_IN = "..."
_UNITS = {
    "step": "steps",
    "epoch": "epochs",
    "sample": "samples",
    "token": "tokens",
    "second": "seconds",
    "s": "seconds",
}
_AMOUNT = re.compile(r"\s*([0-9][0-9.eE+]*)\s*([a-zA-Z]+|%)?\s*")


def mappings_for(models: Sequence[type[BaseModel]], value: object) -> list[str]:
    """Return the mappings that ``value`` may stand for, where the job file needs one of these models.

    Args:
        models: one model, or several with different ``name``.
        value: the value in the file.

    Example:
        >>> from scaler.job.schedule import Cosine, Step, Warmup
        >>> mappings_for([Warmup], 500), mappings_for([Warmup], "10%")
        (['{epochs: 500}', '{steps: 500}', '{samples: 500}'], ['{fraction: 0.1}'])
        >>> mappings_for([Step, Cosine], "cosine"), mappings_for([Step, Cosine], "StepLR")
        (['{name: cosine}'], ['{name: step, every: ...}'])
    """
    if value is None or isinstance(value, dict | list):
        return []
    found = _of_kinds(models, value) if len(models) > 1 else _of_one(models[0], value)
    return [flow_yaml(mapping).replace(f"'{TO_FILL_IN}'", TO_FILL_IN) for mapping in found][:MOST_OFFERS]


def lists_for(models: Sequence[type[BaseModel]], value: object) -> list[str]:
    """Return the lists of one item that ``value`` may stand for; without models: a list of texts."""
    if isinstance(value, dict) and len(models) == 1:
        return [f"[{flow_yaml(value)}]"] if _fits(models[0], value) else []
    if isinstance(value, str) and not models:
        return [flow_yaml([value])]
    return [f"[{mapping}]" for mapping in mappings_for(models, value)] if models else []


def number_in(text: str) -> int | float | None:
    """Return the number in a text, also with ``_`` between its digits; None if the text is not a number.

    Example:
        >>> [number_in(text) for text in ("0.1", "1_000", "auto")]
        [0.1, 1000, None]
    """
    with suppress(Exception):  # a text that is not YAML
        value = parse_yaml(text.strip().replace("_", ""), source="")
        if isinstance(value, int | float) and not isinstance(value, bool):
            return value
    return None


def _of_kinds(models: Sequence[type[BaseModel]], value: object) -> list[dict[str, Any]]:
    """Return a mapping of the kind that the value names."""
    kinds: dict[str, type[BaseModel]] = {}
    for model in models:
        for name in (
            getattr(model.model_fields["name"].annotation, "__args__", ()) if "name" in model.model_fields else ()
        ):
            kinds[str(name)] = model
    near = nearest(value, kinds) if isinstance(value, str) else None
    return [{"name": near, **_missing(kinds[near], "name")}] if near is not None else []


def _of_one(model: type[BaseModel], value: object) -> list[dict[str, Any]]:
    """Return a mapping for each key that allows the value: required keys, else any key; for a length, its units."""
    if issubclass(model, Length):
        amounts = dict(_amounts(model, value))
        return [{unit: amount} for unit, amount in amounts.items() if _fits(model, {unit: amount})]
    required = [name for name, field in model.model_fields.items() if field.is_required()]
    found = []
    for key in required or model.model_fields:
        taken = value
        if key == "name" and isinstance(value, str):  # an optimizer's name
            taken = nearest(value, NAMED_OPTIMIZERS) or value
        if _fits(model, {key: taken}):
            found.append({key: taken, **_missing(model, key)})
    return found


def _amounts(model: type[Length], value: object) -> Iterator[tuple[str, int | float]]:
    """Yield units and amounts that the value may mean: ``500`` fits any unit; ``500 steps`` and ``10%`` have one."""
    unit = None
    if isinstance(value, str):
        match = _AMOUNT.fullmatch(value)
        amount = number_in(match[1]) if match else None
        if match is None or amount is None:
            return
        if match[2] == "%":
            yield "fraction", amount / 100
            return
        unit = match[2] and _UNITS.get(match[2].lower().rstrip("s") or "s")
        if match[2] and unit is None:
            return
    elif isinstance(value, int | float) and not isinstance(value, bool):
        amount = value
    else:
        return
    whole = int(amount) if amount == int(amount) else amount
    for known in model._units():
        if unit == known or (unit is None and known != "tokens"):  # tokens are only for jobs that count them
            yield known, whole


def _missing(model: type[BaseModel], given: str) -> dict[str, str]:
    return {name: TO_FILL_IN for name, field in model.model_fields.items() if field.is_required() and name != given}


def _fits(model: type[BaseModel], values: dict[str, Any]) -> bool:
    """Return whether a model allows these keys, ignoring required keys that are missing."""
    try:
        model.model_validate(values)
    except ValidationError as error:
        return all(details["type"] == "missing" and len(details["loc"]) == 1 for details in error.errors())
    return True
