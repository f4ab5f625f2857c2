"""Ranks that make the others wait: in most steps, or in a few that took very long.

A rank's own time is all of its step but the waiting in the all-reduce. Whoever has the longest own time is waited for.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scaler.report.run.model import Verdict, WorkerRow
from scaler.report.run.step_arrays import StepArrays
from scaler.report.run.verdicts.evidence import Evidence
from scaler.report.run.verdicts.step_times import SELDOM, SLOW_STEP, WORTH_S, Pace, lower_median, pace_of, whole_steps
from scaler.report.text.format import number, plural, seconds

STANDS_OUT = 1.2  # times the median rank's own time in the same step, for as many samples
STANDS_OUT_IN = 0.75  # of the steps: by chance once in 900 for 40 steps, were half of a rank's steps so slow
COSTS = 0.05  # of the training time: what the group would save without it
SHOWN_RANKS = 3  # verdicts on stragglers, the costliest; the rest is counted

SLOW_COSTS = 0.05  # of the training time: what the slow steps took beyond the median

PARTS: Mapping[str, tuple[str, str]] = {
    "data": (
        "waiting for its samples",
        "See what else reads or decodes on its node, and whether the data is as near as on the others.",
    ),
    "compute": (
        "computing",
        "See what else runs on its node or device, its clock and temperature, and whether the node is like the others.",
    ),
    "update": (
        "between its steps: the optimizer, and what stands around it",
        "See what the recipe does on this rank alone, such as logging or saving, and what else runs on its node.",
    ),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Straggler:
    """A rank whose own time stands out in most steps of an attempt."""

    rank: int
    part: str  # of PARTS: where most of its excess is
    share_of_steps: float  # in which it stands out
    ratio: float  # of its median own time over that of the median rank
    cost: float  # of the attempt's training time: what the ranks that do not stand out waited for it


@dataclass(frozen=True, kw_only=True, slots=True)
class Stragglers:
    """Those of the newest attempt that has any."""

    attempt: int | None
    found: Sequence[Straggler]  # the costliest first
    cost: float  # of all of them together, of the attempt's training time

    @property
    def ranks(self) -> set[int]:
        """Who they are."""
        return {one.rank for one in self.found}


def find_stragglers(arrays: StepArrays) -> Stragglers:
    """Return the stragglers of the newest attempt that has any."""
    for attempt in reversed(arrays.attempts.tolist()):
        pace = pace_of(arrays, attempt)
        if pace is not None and len(pace.ranks) > 1:
            found = stragglers_of(pace)
            if found.found:
                return found
    return Stragglers(attempt=None, found=(), cost=0.0)


def stragglers_of(pace: Pace) -> Stragglers:
    """Return an attempt's stragglers: who stands out in most steps, and costs the others enough."""
    usual = lower_median(pace.own_s)[:, None]
    median_samples = lower_median(pace.samples.astype(np.float32))[:, None]
    fair = usual * np.maximum(pace.samples / np.maximum(median_samples, 1.0), 1.0)  # more samples may take longer
    shares = (pace.own_s > STANDS_OUT * fair).mean(axis=0)
    out = np.flatnonzero(shares >= STANDS_OUT_IN)
    if not len(out):
        return Stragglers(attempt=None, found=(), cost=0.0)
    others = np.delete(pace.own_s, out, axis=1).max(axis=1)
    waited = np.maximum(pace.own_s[:, out] - others[:, None], 0.0)
    costs = waited.sum(axis=0, dtype=np.float64) / pace.train_s
    medians = np.median(pace.own_s[:, out], axis=0) / np.median(usual)
    found = [
        Straggler(
            rank=int(pace.ranks[rank]),
            part=_part(pace, int(rank)),
            share_of_steps=float(shares[rank]),
            ratio=float(ratio),
            cost=float(cost),
        )
        for rank, ratio, cost in zip(out.tolist(), medians, costs, strict=True)
        if cost >= COSTS and pace.is_worth(cost)
    ]
    return Stragglers(
        attempt=pace.attempt if found else None,
        found=sorted(found, key=lambda one: -one.cost),
        cost=float(waited.max(axis=1).sum(dtype=np.float64)) / pace.train_s if found else 0.0,
    )


def _part(pace: Pace, rank: int) -> str:
    """Where a rank takes longest beyond the median rank."""
    parts = {"data": pace.data_s, "compute": pace.compute_s, "update": pace.update_s}
    beyond = {name: float((values[:, rank] - lower_median(values)).sum()) for name, values in parts.items()}
    return max(beyond, key=lambda name: beyond[name])


def straggler_verdicts(evidence: Evidence, stragglers: Stragglers) -> list[Verdict]:
    """Say who is slow: a node whose ranks all are, or each rank."""
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
            rank=one.rank,
            message=f"Rank {one.rank}{_on(nodes, one.rank, evidence, stragglers)} makes the others wait, "
            f"{PARTS[one.part][0]}.",
            evidence=f"it takes {number(one.ratio, 3)} times the median rank's time, longer by a fifth or more in "
            f"{one.share_of_steps:.0%} of the steps{where}; that costs {one.cost:.0%} of the training time"
            + (f"; {plural(rest, 'more rank')} like it" if rest else ""),
            next=PARTS[one.part][1],
        )
        for one in shown
    ]


def _on(nodes: Mapping[int, str | None], rank: int, evidence: Evidence, stragglers: Stragglers) -> str:
    """The rank's node, where it is known: rows of workers tell that of the newest life."""
    known = nodes.get(rank) is not None and stragglers.attempt == evidence.attempts[-1].attempt
    return f" on {nodes[rank]}" if known else ""


def _slow_node(evidence: Evidence, stragglers: Stragglers) -> Verdict | None:
    """All stragglers are all the workers of one node of several, at least two."""
    if len(stragglers.found) < 2 or stragglers.attempt != evidence.attempts[-1].attempt:
        return None
    rows: list[WorkerRow] = [row for row in evidence.workers if row.rank < evidence.attempts[-1].world_size]
    nodes = {row.node for row in rows if row.rank in stragglers.ranks}
    if len(nodes) != 1 or None in nodes or {row.rank for row in rows if row.node in nodes} != stragglers.ranks:
        return None
    (node,) = nodes
    parts = [one.part for one in stragglers.found]
    part = max(PARTS, key=parts.count)
    ratio = float(np.median([one.ratio for one in stragglers.found]))
    return Verdict(
        code="slow_node",
        rank=None,
        message=f"All {len(stragglers.found)} workers on {node} make the others wait, {PARTS[part][0]}.",
        evidence=f"they take {number(ratio, 3)} times the median rank's time; that costs {stragglers.cost:.0%} of the "
        "training time",
        next=PARTS[part][1],
    )


def slow_steps(arrays: StepArrays) -> Verdict | None:
    """A few steps took many times the median, and together a share of the training time that counts.

    Of records that stand for several steps, a slow one is as many slow steps, of its mean time.
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
    rank, what, then = _who(arrays, worst)
    merged = int(steps[worst])
    mean = f", on average of records of up to {int(steps[slow].max())}," if int(steps[slow].max()) > 1 else ""
    many = f"{plural(count, 'step')}{mean} took more than {SLOW_STEP:g} times the median of "
    longest = f"the longest, step {kept['step'][worst]} of attempt {kept['attempt'][worst]}, took"
    if merged > 1:
        longest = (
            f"the longest, {merged} steps from {kept['step'][worst]} of attempt {kept['attempt'][worst]}, took each"
        )
    return Verdict(
        code="slow_steps",
        rank=rank,
        message=f"{many}{seconds(float(usual[worst]))}.",
        evidence=f"{seconds(beyond)} more in all, {beyond / train_s:.0%} of the training time; "
        f"{longest} {seconds(float(each[worst]))}, {what}",
        next=then,
    )


def _who(arrays: StepArrays, row: int) -> tuple[int | None, str, str]:
    """Who a step waited for and where, and what to do; nobody, where all were together in the all-reduce."""
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
        return None, "most of it in the all-reduce, all ranks together", "Look at the network between the nodes then."
    parts = {"data": float(times["data_wait_s"][index]), "compute": float(times["compute_s"][index])}
    parts["update"] = float(own[index]) - sum(parts.values())
    part = max(parts, key=lambda name: parts[name])
    return rank, f"most of it with rank {rank} {PARTS[part][0]}", PARTS[part][1]
