"""Numbers as people read them; every rendering says them the same way."""


def number(value: float | None, digits: int = 4) -> str:
    """Return a number with thousands separators, or with ``digits`` significant ones; a dash for None.

    Example:
        >>> [number(v) for v in (None, 21555, 34911.7, 0.96111, 0.0000123, 16.0)]
        ['–', '21,555', '34,912', '0.9611', '1.23e-05', '16']
    """
    if value is None:
        return "–"
    if isinstance(value, int) or abs(value) >= 10**digits - 0.5:  # what rounds to one digit more
        return f"{value:,.0f}"
    return f"{value:.{digits}g}"


def seconds(value: float | None) -> str:
    """Return a time in the unit that suits it.

    Example:
        >>> [seconds(v) for v in (None, 0.00142, 1.234, 75.0, 7384.0)]
        ['–', '1.42 ms', '1.23 s', '1 min 15 s', '2 h 3 min']
    """
    if value is None:
        return "–"
    if value < 0.9995:
        return f"{value * 1000:.3g} ms"
    if value < 60:
        return f"{value:.3g} s"
    if value < 3600:
        return f"{int(value // 60)} min {int(value % 60)} s"
    return f"{int(value // 3600)} h {int(value % 3600 // 60)} min"


def plural(count: int, noun: str) -> str:
    """Return ``1 worker`` or ``2 workers``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def printable(text: str) -> str:
    """Return text that cannot move a terminal's cursor or change its colours: control characters are shown.

    Example:
        >>> printable("a\\x1b[31mb")
        'a\\\\x1b[31mb'
    """
    return "".join(char if char in "\n\t" or char.isprintable() else repr(char)[1:-1] for char in text)
