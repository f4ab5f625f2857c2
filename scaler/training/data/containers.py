"""Move a batch's tensors to a device, in whatever containers the recipe's ``collate`` made."""

from collections.abc import Callable, Mapping, MutableMapping, MutableSequence, Sequence
from copy import copy
from dataclasses import fields, is_dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor


def to_device(batch: Any, device: torch.device) -> Any:
    """Return the batch with its tensors on ``device``; the same object if nothing has to move.

    Tensors move, and so do objects with a method ``to(device)`` of their own (PackedSequence, BatchEncoding). Tuples,
    lists, mappings, dataclasses and their subclasses are searched, and copied together with their other attributes.
    """
    if device.type == "cpu":  # the tensors are there already
        return batch

    def move(part: Any) -> Any:
        try:
            return part.to(device, non_blocking=True)
        except TypeError:  # a ``to`` that takes the device alone
            return part.to(device)

    return moved(batch, move, method="to")


def to_cpu(value: Any) -> Any:
    """Return a value with its tensors on the CPU and without gradients; the same object if nothing changes."""

    def move(part: Any) -> Any:
        return part.detach().cpu() if isinstance(part, Tensor) else part.to("cpu")

    return moved(value, move, method="to")


def moved(value: Any, move: Callable[[Any], Any], *, method: str) -> Any:
    """Return a value with ``move`` applied to each tensor in it, and to each object that has ``method``.

    A container without a changed part is returned itself.
    """
    if isinstance(value, Tensor):
        return move(value)
    if isinstance(value, str | bytes | int | float | None | type):
        return value
    if callable(getattr(type(value), method, None)):  # looked up on the class: some dicts have their keys as attributes
        made = move(value)
        return value if made is None else made  # a ``to`` that moves in place

    def inner(part: Any) -> Any:
        return moved(part, move, method=method)

    if isinstance(value, Mapping):
        return _with_items(value, {key: inner(part) for key, part in value.items()})
    if isinstance(value, tuple):
        return _with_parts(value, [inner(part) for part in value])
    if isinstance(value, MutableSequence):
        return _with_entries(value, {place: inner(part) for place, part in enumerate(value)})
    names = _attributes(value)
    return _with_attributes(value, {name: inner(getattr(value, name)) for name in names if hasattr(value, name)})


def _with_items(value: Mapping[Any, Any], items: dict[Any, Any]) -> Any:
    if all(part is value[key] for key, part in items.items()):
        return value
    if type(value) is dict:
        return items
    if not isinstance(value, MutableMapping):
        return type(value)(items)  # type: ignore[call-arg]
    made = copy(value)
    for key, part in items.items():
        made[key] = part
    return made


def _with_entries(value: MutableSequence[Any], entries: dict[int, Any]) -> Any:
    if all(part is value[place] for place, part in entries.items()):
        return value
    made = copy(value)
    for place, part in entries.items():
        made[place] = part
    return made


def _with_parts(value: tuple[Any, ...], parts: Sequence[Any]) -> Any:
    if all(part is before for part, before in zip(parts, value, strict=True)):
        return value
    kind = type(value)
    if hasattr(kind, "n_sequence_fields"):  # torch.return_types, for example of torch.max
        return kind(parts)
    made = tuple.__new__(kind, parts)
    if hasattr(value, "__dict__"):
        made.__dict__.update(value.__dict__)
    return made


def _with_attributes(value: Any, attributes: dict[str, Any]) -> Any:
    if all(part is getattr(value, name) for name, part in attributes.items()):
        return value
    made = copy(value)
    for name, part in attributes.items():
        object.__setattr__(made, name, part)  # works for frozen dataclasses too
    return made


def _attributes(value: Any) -> list[str]:
    """Return the names of a record's attributes: of a dataclass, an attrs class or a namespace; else none."""
    if is_dataclass(value):
        return [field.name for field in fields(value)]
    if hasattr(type(value), "__attrs_attrs__"):
        return [attribute.name for attribute in type(value).__attrs_attrs__]
    return list(vars(value)) if isinstance(value, SimpleNamespace) else []
