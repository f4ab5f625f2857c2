"""Render a run's report for a terminal of 80 columns, or of fewer, the verdicts first."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from scaler.report.run.cost_text import Part, budget_parts, slowest_first
from scaler.report.run.format import (
    ATTEMPT_NUMBERS,
    audit_text,
    batch_text,
    costs,
    decision_text,
    ended_text,
    further_facts,
    heads,
    loss_text,
    reached_text,
    results,
)
from scaler.report.run.model import Report, WorkerRow
from scaler.report.run.tokens import in_unit
from scaler.report.text.format import amount, count, number, option, percent, plural, printable, seconds

MOST_WORKERS = 16  # of more workers, the slowest are shown
BAR_WIDTH = 78
MARK = "<"  # beside a rank that has a verdict
GAP = 2  # between two columns of the workers' table
# The columns of the workers' table that a narrow terminal leaves out after the counts, the first one first.
LEFT_OUT = ("p95", "GiB", "loss", "sync", "data", "step p50")
_BAR_STYLES = {
    "startup": "bright_black",
    "compute": "blue",
    "data": "yellow",
    "sync": "magenta",
    "update": "cyan",
    "evaluation": "green",
    "checkpoint": "bright_yellow",
    "redone": "red",
    "restart": "bright_red",
    "other": "white",
}
_STATE_STYLES = {"succeeded": "bold green", "failed": "bold red", "stopped": "bold yellow"}


def report_text(report: Report, *, with_failure: bool = True) -> RenderableType:
    """Return a run's report for a terminal; ``with_failure=False`` leaves out the error that ended the run."""
    report = in_unit(report)
    title = Text.assemble(
        (printable(report.run_id), "bold"), "  ", (report.state, _STATE_STYLES.get(report.state, "bold"))
    )
    audit = ("lr used", audit_text(report.lr_audit))
    facts = [*results(report), audit, *costs(report), *further_facts(report)]
    parts: list[RenderableType] = [title, _verdicts(report)]
    if report.totals.steps:
        parts += [_facts(facts), *_budget(report), _Fitted(lambda width: _worker_table(report, width=width))]
    if report.failure and with_failure:
        parts.insert(2, Text(printable(report.failure)))
    if report.decisions:
        parts.append(_decision_list(report))
    if report.is_uneven:
        parts.append(_attempt_table(report))
        if any(loss_text(row, report.unit) for row in report.attempts):
            parts.append(_end_list(report))
    return Group(*(Padding(part, (0, 0, 1, 0)) for part in parts))


def _verdicts(report: Report) -> RenderableType:
    if report.all_clear is not None:
        return Text(report.all_clear, style="green")
    blocks: list[RenderableType] = []
    for verdict in report.verdicts:
        blocks.append(Text.assemble((verdict.code, "bold yellow"), f"  {printable(verdict.message)}"))
        blocks.append(
            Padding(Text(f"{printable(verdict.evidence)}\n{printable(verdict.next)}", style="dim"), (0, 0, 0, 2))
        )
    return Group(*blocks)


def _facts(rows: Iterable[tuple[str, str]]) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column()
    for name, value in rows:
        table.add_row(Text(printable(name)), Text(value))
    return table


def _budget(report: Report) -> list[RenderableType]:
    """The parts of the wall clock: a bar of letters, and the meaning of each letter."""
    wall_s = report.totals.wall_s
    if report.budget is None or wall_s is None or wall_s <= 0:
        return []
    parts = budget_parts(report.budget)
    return [_Fitted(lambda width: _bar(parts, wall_s, width=min(BAR_WIDTH, width)))] if parts else []


@dataclass(frozen=True, slots=True)
class _Fitted:
    """A part of the report that depends on the width of the terminal."""

    make: Callable[[int], RenderableType]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield self.make(options.max_width)


def _bar(parts: Sequence[Part], wall_s: float, *, width: int) -> RenderableType:
    bar, lines = Text(), [Text()]
    for part, letter, columns in zip(parts, _letters(parts), _widths(parts, width), strict=True):
        style = _BAR_STYLES[part.key]
        bar.append(letter * columns, style=f"{style} reverse")
        entry = Text.assemble((letter, f"{style} reverse"), f" {part.name} {percent(part.seconds / wall_s)}  ")
        if len(lines[-1]) + len(entry) > width:
            lines.append(Text())
        lines[-1].append(entry)
    return Group(Text(f"Where the {seconds(wall_s)} went", style="bold"), bar, *lines)


def _letters(parts: Iterable[Part]) -> list[str]:
    letters = {"startup": "^", "evaluation": "e", "checkpoint": "k", "redone": "a", "restart": "r", "other": "."}
    return [letters.get(part.key, part.key[0]) for part in parts]


def _widths(parts: Sequence[Part], width: int) -> list[int]:
    """Columns for each part. A part of less than half a column has none; the lines below the bar name it."""
    edges, at, whole = [0], 0.0, sum(part.seconds for part in parts)
    for part in parts:
        at += part.seconds
        edges.append(round(at / whole * width))
    return [end - start for start, end in pairwise(edges)]


def _decision_list(report: Report) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", justify="right", no_wrap=True)
    table.add_column(overflow="fold")
    for decision in report.decisions:
        table.add_row(Text(f"at {amount(decision.samples_seen, report.unit)}"), Text(decision_text(decision)))
    return Group(Text("Decisions in training", style="bold"), table)


def _worker_table(report: Report, *, width: int) -> RenderableType:
    unit = report.unit
    names = ["rank", unit, f"{unit}/s", "loss", "step p50", "p95", "data", "sync", "GiB"]
    about = {verdict.rank for verdict in report.verdicts}
    shown = report.workers if len(report.workers) <= MOST_WORKERS else slowest_first(report.workers)[:MOST_WORKERS]
    rows = [dict(zip(names, _worker_cells(row, unit, is_marked=row.rank in about), strict=True)) for row in shown]
    for name in (unit, *LEFT_OUT):
        if sum(max(len(cell) for cell in (each, *(row[each] for row in rows))) + GAP for each in names) - GAP <= width:
            break
        names.remove(name)
    table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0))
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    for row, cells in zip(shown, rows, strict=True):
        table.add_row(*(cells[name] for name in names), style="bold yellow" if row.rank in about else "")
    notes = []
    if left := len(report.workers) - len(shown):
        more = plural(left, "more worker")
        notes.append(f"and {more}; the table has those with the longest data wait and compute in a step")
    if about & {row.rank for row in shown}:
        notes.append(f"{MARK} a verdict above is about this rank")
    return Group(table, *(Text(note, style="dim") for note in notes))


def _worker_cells(row: WorkerRow, unit: str, *, is_marked: bool) -> tuple[str, ...]:
    busy = row.data_wait_s + row.compute_s + row.sync_wait_s + row.update_s
    return (
        f"{row.rank}{MARK if is_marked else ''}",
        count(row.samples, unit),
        count(row.worker_samples_per_s, unit),
        number(row.loss_mean),
        seconds(row.step_time_s.median) if row.steps else "–",
        seconds(row.step_time_s.p95) if row.steps else "–",
        percent(row.data_wait_s / busy) if busy else "–",
        percent(row.sync_wait_s / busy) if busy else "–",
        number(row.peak_memory_gib, 3) if row.steps else "–",
    )


def _attempt_table(report: Report) -> RenderableType:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in heads((*ATTEMPT_NUMBERS, "ended by"), report.unit):
        table.add_column(name, justify="right", no_wrap=name not in ("global batch", "ended by"))
    for row in report.attempts:
        table.add_row(
            str(row.attempt),
            str(row.world_size),
            batch_text(row, report.unit),
            option(row.peak_lr),
            count(row.start_samples, report.unit),
            reached_text(row, report.unit),
            ended_text(row),
        )
    return table


def _end_list(report: Report) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", justify="right", no_wrap=True)
    table.add_column(overflow="fold")
    for row in report.attempts:
        if text := loss_text(row, report.unit):
            table.add_row(Text(f"attempt {row.attempt}"), Text(text))
    return Group(Text("Why each attempt ended, what was trained again, and the time to restart", style="bold"), table)
