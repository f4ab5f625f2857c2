"""Events of which a test says only what matters to it."""

from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints

from scaler.metrics.events import KINDS, Event, parse_event

_EMPTY = {int: 0, float: 0.0, str: "", bool: False}


def make_event(kind: str, **values: Any) -> Event:
    """Return an event; a field that is not given is None where it may be, else 0 or empty."""
    if kind not in KINDS:
        return parse_event({"kind": kind, **values})
    hints = {name: hint for name, hint in get_type_hints(KINDS[kind]).items() if name not in ("kind", "extra")}
    return parse_event({"kind": kind, **{name: _empty(hint) for name, hint in hints.items()}, **values})


def _empty(hint: Any) -> Any:
    if hint is NoneType or NoneType in get_args(hint):
        return None
    return _EMPTY[hint] if hint in _EMPTY else {"Mapping": {}, "Sequence": []}[get_origin(hint).__name__]
