"""Read JSON from files that an attacker may have written."""

import json
from typing import Any

MOST_LEVELS = 100  # scaler writes at most 6; recursive readers raise RecursionError at a few hundred


def parse_json(raw: bytes | str) -> Any:
    """Return the value of a JSON text.

    Raises:
        ValueError: the text is not JSON, or is nested deeper than ``MOST_LEVELS``.

    Example:
        >>> parse_json('{"a": [1, 2]}')
        {'a': [1, 2]}
        >>> parse_json("[" * 200_000)
        Traceback (most recent call last):
        ValueError: it is nested too deep
    """
    try:
        value = json.loads(raw)
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    opened = raw.count(b"[") + raw.count(b"{") if isinstance(raw, bytes) else raw.count("[") + raw.count("{")
    if opened > MOST_LEVELS and _levels(value) > MOST_LEVELS:
        raise ValueError("it is nested too deep")
    return value


def _levels(value: Any) -> int:
    """Return the number of levels of a value, counted up to ``MOST_LEVELS + 1``."""
    level, here = 0, [value]
    while here and level <= MOST_LEVELS:
        parts = [part for part in here if isinstance(part, dict | list)]
        here = [inner for part in parts for inner in (part.values() if isinstance(part, dict) else part)]
        level += bool(parts)
    return level
