"""Render a dry run for a terminal: a row for each combination, what cannot run, then the sums."""

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from scaler.report.experiment.progress import DryRun, PlannedCell, SearchDryRun
from scaler.report.plan.estimate_text import span_text
from scaler.report.text.format import money, number, option, plural, printable, seconds

HEADS = ("setting", "workers", "batch", "rule", "peak lr", "steps", "seeds", "to run")
TEXTS = ("setting", "rule")


def dry_run_text(found: DryRun) -> RenderableType:
    """Return a dry run for a terminal."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    for name in HEADS:
        table.add_column(name, justify="left" if name in TEXTS else "right", overflow="fold")
    groups: dict[str, list[PlannedCell]] = {}
    for cell in found.cells:
        groups.setdefault(cell.label, []).append(cell)
    for name, cells in groups.items():
        table.add_row(*_row(name, cells))
    problems = [Text(printable(line)) for name, cells in groups.items() for line in _problem(name, cells[0])]
    refused = [Text(""), Text("Cannot run", style="bold"), *problems] if problems else []
    remedies = [Text(printable(line)) for remedy in found.remedies for line in remedy.splitlines()]
    ways = [Text(""), Text("What can be done", style="bold"), *remedies] if remedies else []
    return Group(table, *refused, *ways, Text(""), Text(_sums(found), style="bold"))


def _problem(name: str, cell: PlannedCell) -> Sequence[str]:
    """Return why a cell cannot run; if it has no plan, also what to type."""
    first, *remedy = cell.problem.splitlines() or [""]
    if not first:
        return []
    return [f"{name}: {first}", *(remedy if cell.world_size is None else [])]


def _row(name: str, cells: Sequence[PlannedCell]) -> Sequence[str]:
    first = cells[0]
    return (
        printable(name),
        number(first.world_size),
        number(first.global_batch_size),
        first.rule or "–",
        option(first.peak_lr) if first.peak_lr is not None else "–",
        number(first.total_steps),
        f"{len(cells)}",
        f"{sum(cell.is_to_run for cell in cells)}",
    )


def _sums(found: DryRun) -> str:
    to_run = sum(cell.is_to_run for cell in found.cells)
    have_run = sum(cell.run_id is not None and not cell.is_to_run for cell in found.cells)
    whole = f"{plural(len(found.cells), 'cell')}: {have_run:,} have run, {to_run:,} to run"
    if not to_run:
        return f"{whole}."
    if found.time_s is None:
        *others, last = found.unknown
        workers = "".join(f"{count:,}, " for count in others) + plural(last, "worker")
        return f"{whole}. The time is not known: no finished run shows it with {workers}."
    cost = f", at a cost of {span_text(found.cost, money)}" if found.cost is not None else ""
    return f"{whole} in about {span_text(found.time_s, seconds)}{cost}."


def search_dry_run_text(found: SearchDryRun) -> RenderableType:
    """Return what a search would try, for a terminal."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    table.add_column("key", overflow="fold")
    table.add_column("values", overflow="fold")
    for key, values in found.space.items():
        table.add_row(printable(key), printable(values))
    looks = (
        f" It looks at a trial after {', '.join(f'{place:,}' for place in found.places)} samples."
        if found.places
        else ""
    )
    fewest = f" and at least {found.fewest_samples:,}" if found.fewest_samples < found.most_samples else ""
    trials = f"{plural(found.trials, 'trial')} of {found.total_samples:,} samples"
    whole = f"{trials}: at most {found.most_samples:,} samples{fewest}."
    how = f"Searcher {found.searcher}, scheduler {found.scheduler}.{looks}"
    return Group(table, Text(""), Text(how), Text(whole, style="bold"))
