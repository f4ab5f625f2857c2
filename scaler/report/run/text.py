"""A report in the terminal: it fits 80 columns, and the verdict comes first."""

from collections.abc import Iterable, Sequence
from itertools import pairwise

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from scaler.report.run.cost_text import (
    Part,
    budget_parts,
    cost_text,
    flops_text,
    percent,
    scaling_text,
    slowest_first,
)
from scaler.report.run.definitions import COST, EFFICIENCY, SPEED, TRAIN_LOSS, TRAIN_S, WALL_S, evaluation
from scaler.report.run.model import Report, WorkerRow
from scaler.report.text.format import (
    audit_words,
    batch_words,
    decision_words,
    ended_words,
    loss_words,
    more_facts,
    number,
    plural,
    printable,
    reached_words,
    seconds,
)

MOST_WORKERS = 16  # of more, the slowest are shown
BAR_WIDTH = 78
MARK = "<"  # beside a rank that a verdict is about
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
    """Return a run's report for a terminal; ``with_failure=False`` where the error is said beside it."""
    totals = report.totals
    title = Text.assemble(
        (printable(report.run_id), "bold"), "  ", (report.state, _STATE_STYLES.get(report.state, "bold"))
    )
    facts = [
        ("trained", f"{plural(totals.samples_seen, 'sample')} in {plural(totals.steps, 'step')}"),
        (SPEED.name, f"{number(SPEED.read(report))} {SPEED.unit} over {seconds(TRAIN_S.read(report))} of training"),
        (WALL_S.name, seconds(WALL_S.read(report))),
        (TRAIN_LOSS.name, f"{number(TRAIN_LOSS.read(report))}  ({TRAIN_LOSS.of})"),
        *((printable(value.name), number(value.read(report))) for value in map(evaluation, report.final.eval)),
        ("rate used", audit_words(report.lr_audit)),
        *_spent(report),
        *more_facts(report),
    ]
    parts: list[RenderableType] = [title, _verdicts(report)]
    if totals.steps:
        parts += [_facts(facts), *_budget(report), _worker_table(report)]
    if report.failure and with_failure:
        parts.insert(2, Text(printable(report.failure)))
    if report.decisions:
        parts.append(_decision_list(report))
    if report.is_uneven:
        parts.append(_attempt_table(report))
        if any(loss_words(row) for row in report.attempts):
            parts.append(_ending_list(report))
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
        table.add_row(Text(name), Text(value))
    return table


def _spent(report: Report) -> list[tuple[str, str]]:
    """What its workers bought and cost, as far as it is known."""
    scaling = scaling_text(report.scaling) if report.scaling is not None else None
    return [
        *([(EFFICIENCY.name, scaling)] if scaling is not None else []),
        *([("computing", flops_text(report.flops))] if report.flops is not None else []),
        *([(COST.name, cost_text(report.cost))] if report.cost is not None else []),
    ]


def _budget(report: Report) -> list[RenderableType]:
    """Where the wall clock went: one bar of letters, and what each letter stands for."""
    wall_s = report.totals.wall_s
    if report.budget is None or wall_s is None or wall_s <= 0:
        return []
    parts = budget_parts(report.budget)
    bar, lines = Text(), [Text()]
    for part, letter, width in zip(parts, _letters(parts), _widths(parts), strict=True):
        style = _BAR_STYLES[part.key]
        bar.append(letter * width, style=f"{style} reverse")
        said = Text.assemble((letter, f"{style} reverse"), f" {part.name} {percent(part.seconds / wall_s)}  ")
        if len(lines[-1]) + len(said) > BAR_WIDTH:
            lines.append(Text())
        lines[-1].append(said)
    return [Group(Text(f"Where the {seconds(wall_s)} went", style="bold"), bar, *lines)] if parts else []


def _letters(parts: Iterable[Part]) -> list[str]:
    letters = {"startup": "^", "evaluation": "e", "checkpoint": "k", "redone": "a", "restart": "r", "other": "."}
    return [letters.get(part.key, part.key[0]) for part in parts]


def _widths(parts: Sequence[Part]) -> list[int]:
    """Columns for each part; those that would have less than half a one have none, but the words name them."""
    edges, at, whole = [0], 0.0, sum(part.seconds for part in parts)
    for part in parts:
        at += part.seconds
        edges.append(round(at / whole * BAR_WIDTH))
    return [end - start for start, end in pairwise(edges)]


def _decision_list(report: Report) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", justify="right", no_wrap=True)
    table.add_column(overflow="fold")
    for decision in report.decisions:
        table.add_row(Text(f"at {plural(decision.samples_seen, 'sample')}"), Text(decision_words(decision)))
    return Group(Text("Decisions in training", style="bold"), table)


def _worker_table(report: Report) -> RenderableType:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    names = ("rank", "samples", "samples/s", "loss", "step p50", "p95", "data", "sync", "GiB")
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    about = {verdict.rank for verdict in report.verdicts}
    shown = report.workers if len(report.workers) <= MOST_WORKERS else slowest_first(report.workers)[:MOST_WORKERS]
    for row in shown:
        is_marked = row.rank in about
        table.add_row(*_worker_cells(row, is_marked=is_marked), style="bold yellow" if is_marked else "")
    left = len(report.workers) - len(shown)
    if not left:
        return table
    rest = f"and {plural(left, 'more worker')}; these have the most time of their own a step, data wait and compute"
    return Group(table, Text(rest, style="dim"))


def _worker_cells(row: WorkerRow, *, is_marked: bool) -> tuple[str, ...]:
    busy = row.data_wait_s + row.compute_s + row.sync_wait_s + row.update_s
    return (
        f"{row.rank}{MARK if is_marked else ''}",
        number(row.samples),
        number(row.worker_samples_per_s),
        number(row.loss_mean),
        seconds(row.step_time_s.median) if row.steps else "–",
        seconds(row.step_time_s.p95) if row.steps else "–",
        percent(row.data_wait_s / busy) if busy else "–",
        percent(row.sync_wait_s / busy) if busy else "–",
        number(row.peak_memory_gib, 3) if row.steps else "–",
    )


def _attempt_table(report: Report) -> RenderableType:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("attempt", "workers", "global batch", "peak rate", "from sample", "to sample", "ended by"):
        table.add_column(name, justify="right", no_wrap=name not in ("global batch", "ended by"))
    for row in report.attempts:
        table.add_row(
            str(row.attempt),
            str(row.world_size),
            batch_words(row),
            number(row.peak_lr),
            number(row.start_samples),
            reached_words(row),
            ended_words(row),
        )
    return table


def _ending_list(report: Report) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", justify="right", no_wrap=True)
    table.add_column(overflow="fold")
    for row in report.attempts:
        if said := loss_words(row):
            table.add_row(Text(f"attempt {row.attempt}"), Text(said))
    return Group(Text("Why attempts ended, and what that cost", style="bold"), table)
