"""Format numbers and text for people: one rule for each kind of number. ``numbers.js`` does the same in a page."""

from collections.abc import Mapping
from typing import Any

from scaler.core.unit import shown

VAST = 1e15  # from here on, a power of ten replaces the digits
GIVEN_DIGITS, DERIVED_DIGITS = 8, 6


def number(value: float | None, digits: int = 4) -> str:
    """Return a measured or counted number: ``digits`` significant digits, and thousands separators from 1,000 on.

    Args:
        value: None: not known, written as a dash.
        digits: significant digits, at most 4. A number that has more digits before the point keeps them.

    Example:
        >>> [number(v) for v in (None, 21555, 34911.7, 2034.0, 0.96111, 0.0000123, 16.0)]
        ['–', '21,555', '34,912', '2,034', '0.9611', '1.23e-05', '16']
    """
    if value is None:
        return "–"
    if abs(value) >= VAST:
        return f"{float(value):.{digits}g}"
    if isinstance(value, int) or abs(value) >= min(10**digits - 0.5, 999.95):  # from here on, four digits give 1,000
        return f"{value:,.0f}"
    return f"{value:.{digits}g}" if value else "0"  # also for -0.0


def option(value: Any) -> str:
    """Return a number that a job sets, or that a rule derives from one: a learning rate, or an optimizer's option.

    A number of at most 8 digits is written as it was given, and any other with 6 significant digits. Other values are
    written as in a job file.

    Example:
        >>> [option(value) for value in (0.99987654, 1.2345678e-8, 0.1 * 8**0.5, True, None, [0.6, 0.9960000000000001])]
        ['0.99987654', '1.2345678e-08', '0.282843', 'true', 'null', '[0.6, 0.996]']
    """
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, float):
        given = f"{value:.12g}"  # without the rounding errors of a double
        mantissa = given.partition("e")[0].lstrip("-").replace(".", "").strip("0")
        return given if len(mantissa) <= GIVEN_DIGITS else f"{value:.{DERIVED_DIGITS}g}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(option, value))}]"
    return str(value)


def optimizer_options(optimizer: Mapping[str, Any]) -> str:
    """Return an optimizer's options without its name and learning rate, as ``name value`` pairs.

    Example:
        >>> optimizer_options({"name": "sgd", "lr": 0.1, "momentum": 0.9, "nesterov": False})
        'momentum 0.9, nesterov false'
    """
    return ", ".join(f"{name} {option(value)}" for name, value in optimizer.items() if name not in ("name", "lr"))


def ratio(value: float) -> str:
    """Return how many times the reference's value another value is.

    Example:
        >>> ratio(16.0), ratio(8**0.5)
        ('16x', '2.828x')
    """
    return f"{number(value)}x"


def seconds(value: float | None) -> str:
    """Return a time in the unit that suits its size; a dash for None.

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


def percent(share: float | None) -> str:
    """Return a share in whole percent; a dash for None, and ``<1%`` below half a percent.

    Example:
        >>> [percent(share) for share in (None, 0.0, 0.003, 0.4567, 1.0)]
        ['–', '0%', '<1%', '46%', '100%']
    """
    if share is None:
        return "–"
    return "<1%" if 0 < share < 0.005 else f"{share:.0%}"


def money(value: float) -> str:
    """Return an amount of money with two decimals; below 0.01 with two significant digits.

    Example:
        >>> [money(value) for value in (0.0, 0.00123, 0.1, 12.5, 1234567.8)]
        ['0.00', '0.0012', '0.10', '12.50', '1,234,567.80']
    """
    return f"{value:.2g}" if 0 < abs(value) < 0.01 else f"{value:,.2f}"


def plural(count: int, noun: str) -> str:
    """Return ``1 worker`` or ``2 workers``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def count(value: float | None, unit: str) -> str:
    """Return a count in the unit of a job, or a speed: samples as ``number``, tokens with three digits and a letter.

    Example:
        >>> count(4194304, "tokens"), count(4194304, "samples"), count(None, "tokens")
        ('4.19M', '4,194,304', '–')
    """
    return shown(value) if unit == "tokens" and value is not None else number(value)


def amount(value: int, unit: str) -> str:
    """Return a count with the unit of a job.

    Example:
        >>> amount(4194304, "tokens"), amount(1, "samples")
        ('4.19M tokens', '1 sample')
    """
    return f"{count(value, unit)} tokens" if unit == "tokens" else plural(value, "sample")


def ended(text: str) -> str:
    """Return text from outside with one full stop at its end.

    Example:
        >>> ended("it is torn"), ended("it is torn.")
        ('it is torn.', 'it is torn.')
    """
    return text if text.endswith("...") else f"{text.rstrip(' .')}."


def joined(*parts: str) -> str:
    """Return parts with semicolons between them; a full stop at the end of a part is removed.

    Example:
        >>> joined("its checksum is another.", "training began at the start")
        'its checksum is another; training began at the start'
    """
    return "; ".join(part if part.endswith("...") else part.rstrip(" .") for part in parts)


def one_line(text: str, most: int = 160) -> str:
    """Return text from outside as one line of at most ``most`` characters.

    Example:
        >>> one_line("no such\\n  file"), one_line("a b c d e f", most=8)
        ('no such file', 'a b c...')
    """
    line = " ".join(text.split())
    return line if len(line) <= most else line[: most - 3].rstrip() + "..."


def printable(text: str) -> str:
    """Return text whose control characters are shown, so that it cannot change a terminal's colours or cursor.

    Example:
        >>> printable("a\\x1b[31mb")
        'a\\\\x1b[31mb'
    """
    return "".join(char if char in "\n\t" or char.isprintable() else repr(char)[1:-1] for char in text)
