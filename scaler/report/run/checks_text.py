"""Render checks for a terminal: a table of limits and values."""

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from scaler.report.run.checks import Check, Checks
from scaler.report.text.format import number, plural, printable, seconds


def checks_text(checks: Checks) -> RenderableType:
    """Return checks for a terminal: how many failed, then a table of all."""
    failed = sum(not check.is_ok for check in checks.checks)
    summary = f"{failed} of {plural(len(checks.checks), 'check')} failed" if failed else "every check passed"
    title = Text.assemble((printable(checks.run_id), "bold"), "  ", (summary, "bold red" if failed else "bold green"))
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("check", "wanted", "is"):
        table.add_column(name, overflow="fold")
    table.add_column("ok", no_wrap=True)
    for check in checks.checks:
        table.add_row(
            Text(printable(check.name)),
            Text(f"{check.bound} {_value(check, check.limit)}"),
            Text(_is(check)),
            Text("ok", style="green") if check.is_ok else Text("failed", style="bold red"),
        )
    return Group(Padding(title, (0, 0, 1, 0)), table)


def _is(check: Check) -> str:
    if check.bound == "absent" and check.value is None:
        return "absent"
    return "–" if check.value is None else _value(check, check.value)


def _value(check: Check, value: float | str) -> str:
    if isinstance(value, str):
        return printable(value)
    if check.unit == "s":
        return seconds(value)
    return f"{number(value)} {check.unit}".rstrip()
