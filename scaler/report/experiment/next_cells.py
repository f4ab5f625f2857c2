"""What to run next: a few cells that decide what the runs so far do not decide."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from textwrap import wrap
from typing import Any

from scaler.core.equivalence import pairs_to_decide
from scaler.core.intervals import deviation
from scaler.job.reading import flow_yaml
from scaler.report.experiment.batches import LR
from scaler.report.experiment.labels import label
from scaler.report.experiment.model import (
    CriticalBatchResult,
    GroupResult,
    LawResult,
    NextCell,
    NextCells,
    Question,
    Recommendation,
    SweepRow,
)
from scaler.report.experiment.recommendation import speeds_of
from scaler.report.experiment.speed import WORKERS
from scaler.report.text.format import number, plural

BATCH = "scale.global_batch_size"
MOST_CELLS = 5  # combinations that are listed
MOST_SEEDS = 8  # a comparison that needs more of them is not listed, but named
NARROW = 60  # columns of a comment in the lines to paste
FEW_SEEDS = 3  # of a combination that is new


def next_cells(
    groups: Sequence[GroupResult],
    question: Question,
    sweeps: Sequence[SweepRow],
    critical: CriticalBatchResult | None,
    laws: Sequence[LawResult],
    recommendation: Recommendation | None,
    *,
    rules_need_sweep: bool,
    cpus: float | None,
) -> NextCells | None:
    """Return the cells to run next, the most important decision first; None: the runs decide everything.

    The decisions are: whether settings that are faster than the recommended one are as good as the baseline; the best
    learning rate, where it is at the edge of those tried or none was tried; the critical batch size; the laws of
    scaling.

    Args:
        groups: of the experiment; every cell has run.
        question: what it asks.
        sweeps: its learning rates.
        critical: its critical batch size; None: not asked for.
        laws: its laws of scaling.
        recommendation: the group to use; None: there is none.
        rules_need_sweep: whether rules are compared at a learning rate of the reference that is not tuned.
        cpus: of the cluster; None: not known.
    """
    base = next((group for group in groups if group.is_baseline), None)
    if base is None or not base.seeds:
        return None
    found = _Found()
    _add_undecided(found, groups, base, question, recommendation)
    for row in sweeps:
        if row.best is not None and not row.is_inside:
            _add_beyond_edge(found, groups, row)
    if rules_need_sweep and not sweeps and base.base_lr is not None:
        for factor in (0.5, 2.0):
            overrides = {**base.overrides, LR: _rounded(factor * base.base_lr)}
            found.add(overrides, base.seeds[:FEW_SEEDS], "whether the learning rate of the reference is the best one")
    if critical is not None and critical.refusal is not None:
        _add_batches(found, groups, base, critical, recommendation)
    _add_workers(found, groups, laws, cpus=cpus)
    return found.result()


@dataclass(kw_only=True, slots=True)
class _Found:
    """The cells so far; a combination that is wanted twice is one cell with the seeds of both."""

    cells: dict[str, NextCell] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)

    def add(self, overrides: Mapping[str, Any], seeds: Sequence[int], why: str) -> None:
        name = label(overrides)
        known = self.cells.get(name)
        if known is not None:
            why = known.why if why in known.why else f"{known.why}; {why}"
            seeds = sorted({*known.seeds, *seeds})
        elif len(self.cells) >= MOST_CELLS:
            self.left_out.append(f"{name}: {why}")
            return
        self.cells[name] = NextCell(overrides=dict(overrides), label=name, seeds=tuple(seeds), why=why)

    def result(self) -> NextCells | None:
        if not self.cells and not self.left_out:
            return None
        cells, more = tuple(self.cells.values()), len(self.left_out) - MOST_CELLS
        lines = []
        for cell in cells:
            pairs = [flow_yaml({key: value})[1:-1] for key, value in cell.overrides.items()]
            entry = "\n    ".join([*pairs, f"seeds: {list(cell.seeds)}"])
            comment = wrap(cell.why, NARROW, initial_indent="  # ", subsequent_indent="  # ")
            lines += [*comment, f"  - {entry}"]
        return NextCells(
            cells=cells,
            runs=sum(len(cell.seeds) for cell in cells),
            yaml="\n".join(["include:", *lines]) + "\n" if cells else "",
            left_out=(*self.left_out[:MOST_CELLS], *((f"and {more} more",) if more > 0 else ())),
        )


def _add_undecided(
    found: _Found,
    groups: Sequence[GroupResult],
    base: GroupResult,
    question: Question,
    recommendation: Recommendation | None,
) -> None:
    """Add the seeds that decide the undecided comparisons. The baseline needs the same seeds, for the pairs."""
    speeds = speeds_of(groups)
    best = None if recommendation is None else speeds.get(recommendation.label)
    undecided = [
        group
        for group in groups
        if (difference := group.difference_to_baseline) is not None
        and difference.verdict == "undecided"
        and not difference.is_as_good
        and not group.failed
    ]
    last = max(seed for group in groups for seed in group.seeds)
    slower = [group for group in undecided if best is not None and speeds.get(group.label, math.inf) <= best]
    faster_ones = [group for group in undecided if group not in slower]
    for group in sorted(faster_ones, key=lambda group: -speeds.get(group.label, 0.0)):
        difference, ours = group.difference_to_baseline, speeds.get(group.label)
        assert difference is not None
        spread = deviation(difference.each)
        pairs = (
            pairs_to_decide(difference.mean, spread, margin=question.margin, mode=question.mode, level=difference.level)
            if spread
            else FEW_SEEDS + difference.pairs - 1
        )
        more = None if pairs is None else max(1, pairs - difference.pairs)
        faster = f"; it is {number(ours / best, 2)}x as fast as the recommended one" if ours and best else ""
        why = f"whether it is as good as the baseline{faster}"
        if more is None or more > MOST_SEEDS:
            count = "more than 200 seeds" if more is None else f"about {plural(more, 'more seed')}"
            found.left_out.append(f"{group.label}: {why} needs {count}, or a wider margin fixed before the runs")
            continue
        seeds = range(last + 1, last + 1 + more)
        found.add(group.overrides, seeds, why)
        if group.label in found.cells:
            found.add(base.overrides, seeds, "the same seeds of the baseline, for pairs")
    if slower:
        found.left_out.append(f"whether {plural(len(slower), 'slower setting')} would be as good as the baseline")


def _add_beyond_edge(found: _Found, groups: Sequence[GroupResult], row: SweepRow) -> None:
    """Add the next learning rate beyond the edge of a sweep."""
    edge = next(
        (
            group
            for group in groups
            if group.peak_lr == row.best and label({k: v for k, v in group.overrides.items() if k != LR}) == row.label
        ),
        None,
    )
    if edge is None or edge.base_lr is None:
        return
    place = row.lrs.index(row.best or 0.0)
    beside = row.lrs[1] if place == 0 else row.lrs[place - 1]
    new = _rounded(edge.base_lr * row.lrs[place] / beside)
    found.add(
        {**edge.overrides, LR: new}, edge.seeds[:FEW_SEEDS], "whether a learning rate beyond those tried is better"
    )


def _add_batches(
    found: _Found,
    groups: Sequence[GroupResult],
    base: GroupResult,
    critical: CriticalBatchResult,
    recommendation: Recommendation | None,
) -> None:
    like = next((group for group in groups if recommendation and group.label == recommendation.label), base)
    if BATCH not in like.overrides:
        if critical.add:
            batches = ", ".join(f"{batch:,}" for batch in critical.add)
            found.left_out.append(f"the critical batch size needs runs at batch {batches}")
        return
    for batch in critical.add:
        found.add({**like.overrides, BATCH: batch}, like.seeds[:FEW_SEEDS], "the critical batch size")


def _add_workers(
    found: _Found, groups: Sequence[GroupResult], laws: Sequence[LawResult], *, cpus: float | None
) -> None:
    """Add the numbers of workers that the simplest law of each series needs."""
    by_series: dict[str, LawResult] = {}
    for law in laws:
        if law.refusal is not None and law.add:
            known = by_series.get(law.series)
            by_series[law.series] = law if known is None or len(law.add) < len(known.add) else known
    if any(law.refusal is None for law in laws):
        return
    for series, law in by_series.items():
        like = next(
            group
            for group in groups
            if WORKERS in group.overrides
            and label({key: value for key, value in group.overrides.items() if key != WORKERS}) == series
        )
        for workers in law.add:
            why = f"the law {law.law} of {law.kind} scaling"
            if cpus is not None and workers > cpus:
                found.left_out.append(f"{series}: {why} needs {workers} workers, and {plural(workers, 'CPU')}")
            else:
                found.add({**like.overrides, WORKERS: workers}, like.seeds[:FEW_SEEDS], why)


def _rounded(lr: float) -> float:
    return float(f"{lr:.3g}")
