"""Verdicts on ranks that the others wait for: in most steps, or in a few very long ones.

A rank's own time is its step time without the wait in the all-reduce. All ranks wait for the longest own time.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scaler.report.run.model import Verdict, WorkerRow
from scaler.report.run.step_arrays import StepArrays
from scaler.report.run.verdicts.evidence import Evidence
from scaler.report.run.verdicts.step_times import (
    SELDOM,
    SLOW_STEP,
    WORTH_S,
    StepTimes,
    lower_median,
    step_times_of,
    whole_steps,
)
from scaler.report.text.format import number, plural, seconds

STANDS_OUT = 1.2  # times the median rank's own time in the same step, for as many samples
STANDS_OUT_IN = 0.75  # of the steps: by chance 1 in 900 for 40 steps, if a rank is slow in half of its steps
COSTS = 0.05  # of the training time: what the other ranks waited for it
SHOWN_RANKS = 3  # verdicts on the costliest stragglers; the others are counted

SLOW_COSTS = 0.05  # of the training time: what slow steps took beyond the median

PARTS: Mapping[str, tuple[str, str]] = {
    "data": (
        "in loading data",
        "See what else reads or decodes on its node, and whether its data is as fast to read as on the other nodes.",
    ),
    "compute": (
        "in forward and backward",
        "See what else runs on its node or device, its clock and temperature, and whether its hardware is the same.",
    ),
    "update": (
        "in the optimizer step or the code around it",
        "See what the recipe does on this rank only, such as logging or saving, and what else runs on its node.",
    ),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class StragglerFinding:
    """A rank whose own time stands out in most steps of an attempt."""

    rank: int
    part: str  # key of PARTS: where it loses most of its time
    share_of_steps: float  # in which it stands out
    ratio: float  # its median own time over that of the median rank
    cost: float  # share of the attempt's training time that the other ranks waited for it


@dataclass(frozen=True, kw_only=True, slots=True)
class StragglerFindings:
    """The stragglers of the newest attempt that has any."""

    attempt: int | None
    found: Sequence[StragglerFinding]  # costliest first
    cost: float  # share of the attempt's training time that all of them cost

    @property
    def ranks(self) -> set[int]:
        """The ranks of the stragglers."""
        return {finding.rank for finding in self.found}


def find_stragglers(arrays: StepArrays) -> StragglerFindings:
    """Return the stragglers of the newest attempt that has any."""
    for attempt in reversed(arrays.attempts.tolist()):
        times = step_times_of(arrays, attempt)
        if times is not None and len(times.ranks) > 1:
            found = stragglers_of(times)
            if found.found:
                return found
    return StragglerFindings(attempt=None, found=(), cost=0.0)


def stragglers_of(times: StepTimes) -> StragglerFindings:
    """Return an attempt's stragglers: ranks that are slow in most steps and cost at least ``COSTS``."""
    usual = lower_median(times.own_s)[:, None]
    median_samples = lower_median(times.samples.astype(np.float32))[:, None]
    fair = usual * np.maximum(times.samples / np.maximum(median_samples, 1.0), 1.0)  # more samples may take longer
    shares = (times.own_s > STANDS_OUT * fair).mean(axis=0)
    out = np.flatnonzero(shares >= STANDS_OUT_IN)
    if not len(out):
        return StragglerFindings(attempt=None, found=(), cost=0.0)
    others = np.delete(times.own_s, out, axis=1).max(axis=1)
    waited = np.maximum(times.own_s[:, out] - others[:, None], 0.0)
    costs = waited.sum(axis=0, dtype=np.float64) / times.train_s
    medians = np.median(times.own_s[:, out], axis=0) / np.median(usual)
    found = [
        StragglerFinding(
            rank=int(times.ranks[rank]),
            part=_part(times, int(rank)),
            share_of_steps=float(shares[rank]),
            ratio=float(ratio),
            cost=float(cost),
        )
        for rank, ratio, cost in zip(out.tolist(), medians, costs, strict=True)
        if cost >= COSTS and times.is_worth(cost)
    ]
    return StragglerFindings(
        attempt=times.attempt if found else None,
        found=sorted(found, key=lambda finding: -finding.cost),
        cost=float(waited.max(axis=1).sum(dtype=np.float64)) / times.train_s if found else 0.0,
    )


def _part(times: StepTimes, rank: int) -> str:
    """Return the part of a step in which a rank loses most time against the median rank."""
    parts = {"data": times.data_s, "compute": times.compute_s, "update": times.update_s}
    beyond = {name: float((values[:, rank] - lower_median(values)).sum()) for name, values in parts.items()}
    return max(beyond, key=lambda name: beyond[name])


def straggler_verdicts(evidence: Evidence, stragglers: StragglerFindings) -> list[Verdict]:
    """Return one verdict on a slow node, if all ranks of a node are slow; else one for each of the costliest ranks."""
    node = _slow_node(evidence, stragglers)
    if node is not None:
        return [node]
    shown = stragglers.found[:SHOWN_RANKS]
    rest = len(stragglers.found) - len(shown)
    where = f" of attempt {stragglers.attempt}" if len(evidence.attempts) > 1 else ""
    nodes = {worker.rank: worker.node for worker in evidence.workers}
    return [
        Verdict(
            code="straggler",
            rank=finding.rank,
            message=f"Rank {finding.rank}{_on(nodes, finding.rank, evidence, stragglers)} makes the others wait: "
            f"it is slow {PARTS[finding.part][0]}.",
            evidence=f"it takes {number(finding.ratio, 3)} times the median rank's time, and at least a fifth longer "
            f"in {finding.share_of_steps:.0%} of the steps{where}; that costs {finding.cost:.0%} of the training time"
            + (f"; {plural(rest, 'more rank')} slow in this way" if rest else ""),
            next=PARTS[finding.part][1],
        )
        for finding in shown
    ]


def _on(nodes: Mapping[int, str | None], rank: int, evidence: Evidence, stragglers: StragglerFindings) -> str:
    """Return `` on NODE``, or nothing: the rows of workers have the nodes of the newest attempt only."""
    known = nodes.get(rank) is not None and stragglers.attempt == evidence.attempts[-1].attempt
    return f" on {nodes[rank]}" if known else ""


def _slow_node(evidence: Evidence, stragglers: StragglerFindings) -> Verdict | None:
    """Return a verdict if the stragglers are all the workers of one node, and at least two."""
    if len(stragglers.found) < 2 or stragglers.attempt != evidence.attempts[-1].attempt:
        return None
    rows: list[WorkerRow] = [row for row in evidence.workers if row.rank < evidence.attempts[-1].world_size]
    nodes = {row.node for row in rows if row.rank in stragglers.ranks}
    if len(nodes) != 1 or None in nodes or {row.rank for row in rows if row.node in nodes} != stragglers.ranks:
        return None
    (node,) = nodes
    parts = [finding.part for finding in stragglers.found]
    part = max(PARTS, key=parts.count)
    ratio = float(np.median([finding.ratio for finding in stragglers.found]))
    return Verdict(
        code="slow_node",
        rank=None,
        message=f"All {len(stragglers.found)} workers on {node} make the others wait: they are slow {PARTS[part][0]}.",
        evidence=f"they take {number(ratio, 3)} times the median rank's time; that costs {stragglers.cost:.0%} of the "
        "training time",
        next=PARTS[part][1],
    )


def slow_steps(arrays: StepArrays) -> Verdict | None:
    """Return a verdict if a few steps took many times the median, and cost at least ``SLOW_COSTS``.

    A slow record that stands for several steps counts as that many steps, each of its mean time.
    """
    kept = arrays.kept
    steps = kept["steps"]
    each = kept["step_time_s"] / steps
    slow, beyond, usual, counted = [], 0.0, np.zeros(len(each)), 0
    for attempt in arrays.attempts.tolist():
        rows = whole_steps(arrays, attempt)
        if not len(rows):
            continue
        usual[rows] = np.median(each[rows])
        mine = rows[each[rows] > SLOW_STEP * usual[rows]]
        slow += mine.tolist()
        beyond += float(((each[mine] - usual[mine]) * steps[mine]).sum())
        counted += int(steps[rows].sum())
    train_s, count = float(kept["step_time_s"].sum()), int(steps[slow].sum())
    if not slow or count > SELDOM * counted or beyond < max(SLOW_COSTS * train_s, WORTH_S):
        return None
    worst = max(slow, key=lambda row: float(each[row]))
    rank, what, advice = _slow_part(arrays, worst)
    merged = int(steps[worst])
    most = int(steps[slow].max())
    mean = f" (means over records of up to {most} steps)" if most > 1 else ""
    many = f"{plural(count, 'step')}{mean} took more than {SLOW_STEP:g} times the median of "
    first = f"step {kept['step'][worst]} of attempt {kept['attempt'][worst]}"
    longest = f"the longest, {merged} steps from {first}, took each" if merged > 1 else f"the longest, {first}, took"
    return Verdict(
        code="slow_steps",
        rank=rank,
        message=f"{many}{seconds(float(usual[worst]))}.",
        evidence=f"{seconds(beyond)} more in all, {beyond / train_s:.0%} of the training time; "
        f"{longest} {seconds(float(each[worst]))}, {what}",
        next=advice,
    )


def _slow_part(arrays: StepArrays, row: int) -> tuple[int | None, str, str]:
    """Return the rank that a step waited for (None: no single rank), where it was slow, and the next step."""
    there = arrays.is_there[row]
    times: dict[str, NDArray[np.float64]] = {
        name: np.where(there, arrays.cells[name][row], -np.inf)
        for name in ("step_time_s", "data_wait_s", "compute_s", "sync_wait_s")
    }
    least_sync = float(times["sync_wait_s"][there].min())
    with np.errstate(invalid="ignore"):
        own = np.where(there, times["step_time_s"] - times["sync_wait_s"], -np.inf)
    index = int(own.argmax())
    rank = int(arrays.ranks[index])
    if least_sync > float(own[index]):
        return None, "most of it in the all-reduce, on all ranks", "Check the network between the nodes at that time."
    parts = {"data": float(times["data_wait_s"][index]), "compute": float(times["compute_s"][index])}
    parts["update"] = float(own[index]) - sum(parts.values())
    part = max(parts, key=lambda name: parts[name])
    return rank, f"most of it because rank {rank} was slow {PARTS[part][0]}", PARTS[part][1]
