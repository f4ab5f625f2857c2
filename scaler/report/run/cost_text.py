"""A run's time, cost, efficiency and FLOPs as text."""

from collections.abc import Sequence
from dataclasses import dataclass

from scaler.report.run.model import Budget, Cost, Flops, Scaling, WorkerRow
from scaler.report.text.format import count, money, number, percent, printable, seconds


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """One part of the wall clock, or of a worker's step times."""

    key: str  # its name in style sheets
    name: str
    seconds: float


def budget_parts(budget: Budget) -> tuple[Part, ...]:
    """Return the parts of the wall clock that took time, in the order of a run.

    Example:
        >>> nothing = dict.fromkeys(Budget.__dataclass_fields__, 0.0)
        >>> [part.name for part in budget_parts(Budget(**{**nothing, "startup_s": 2.0, "sync_wait_s": 1.0}))]
        ['start-up', 'sync wait']
    """
    parts = (
        Part(key="startup", name="start-up", seconds=budget.startup_s),
        Part(key="compute", name="compute", seconds=budget.compute_s),
        Part(key="data", name="data wait", seconds=budget.data_wait_s),
        Part(key="sync", name="sync wait", seconds=budget.sync_wait_s),
        Part(key="update", name="update", seconds=budget.update_s),
        Part(key="evaluation", name="evaluation", seconds=budget.evaluation_s),
        Part(key="checkpoint", name="checkpoints", seconds=budget.checkpoint_s),
        Part(key="redone", name="trained again", seconds=budget.redone_s),
        Part(key="restart", name="restarts", seconds=budget.restart_s),
        Part(key="other", name="the rest", seconds=budget.other_s),
    )
    return tuple(part for part in parts if part.seconds > 0)


def step_parts(worker: WorkerRow) -> tuple[Part, ...]:
    """Return the parts of a worker's step times."""
    return (
        Part(key="compute", name="compute", seconds=worker.compute_s),
        Part(key="data", name="data wait", seconds=worker.data_wait_s),
        Part(key="sync", name="sync wait", seconds=worker.sync_wait_s),
        Part(key="update", name="update", seconds=worker.update_s),
    )


def cost_text(cost: Cost, unit: str = "samples") -> str:
    """Return what a run cost, for how many hours at which price.

    Example:
        >>> cost_text(Cost(price_per_worker_hour=2.5, worker_hours=8.0, total=20.0, per_million_samples=None))
        '20.00 for 8 worker-hours at 2.50 each'
    """
    each = f"; {money(cost.per_million_samples)} a million {unit}" if cost.per_million_samples is not None else ""
    hours = f"{number(cost.worker_hours, 3)} worker-hours at {money(cost.price_per_worker_hour)} each"
    return f"{money(cost.total)} for {hours}{each}"


def scaling_text(scaling: Scaling, unit: str = "samples") -> str | None:
    """Return a worker's speed as a share of one worker alone; None if one worker alone was not measured.

    Example:
        >>> scaling_text(Scaling(world_size=4, worker_samples_per_s=90.0, one_worker_samples_per_s=100.0,
        ...                       efficiency=0.9, source="reference.samples_per_s"))
        '90%: 90 samples/s a worker, against 100 of one alone (reference.samples_per_s)'
    """
    if scaling.efficiency is None:
        return None
    alone = f"{count(scaling.one_worker_samples_per_s, unit)} of one alone ({printable(scaling.source or 'measured')})"
    speed = f"{count(scaling.worker_samples_per_s, unit)} {unit}/s"
    return f"{percent(scaling.efficiency)}: {speed} a worker, against {alone}"


def flops_text(flops: Flops) -> str:
    """Return the TFLOPS of a worker, and the share of its peak if the peak is known.

    Example:
        >>> flops_text(Flops(flops_per_sample=1e9, worker_tflops=1.5, peak_tflops=None, mfu=None))
        '1.5 TFLOPS a worker'
    """
    if flops.mfu is None:
        return f"{number(flops.worker_tflops, 3)} TFLOPS a worker"
    return f"{percent(flops.mfu)}: {number(flops.worker_tflops, 3)} of {number(flops.peak_tflops, 3)} TFLOPS a worker"


def slowest_first(workers: Sequence[WorkerRow]) -> list[WorkerRow]:
    """Return workers by their own time in each step (data wait and compute), the slowest first.

    The others wait for this time. Workers without steps are last.
    """
    own = {row.rank: (row.data_wait_s + row.compute_s) / row.steps if row.steps else -1.0 for row in workers}
    return sorted(workers, key=lambda row: (-own[row.rank], row.rank))


def budget_text(parts: Sequence[Part], wall_s: float) -> str:
    """Return the parts of the wall clock on one line, each with its share.

    Example:
        >>> budget_text([Part(key="startup", name="start-up", seconds=2.5)], 10.0)
        'start-up 2.5 s (25%)'
    """
    return ", ".join(f"{part.name} {seconds(part.seconds)} ({percent(part.seconds / wall_s)})" for part in parts)
