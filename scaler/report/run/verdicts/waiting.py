"""Where the time of all ranks went: waiting for data, for each other, for the first step; what workers brought."""

import numpy as np

from scaler.report.run.model import Scaling, Totals, Verdict
from scaler.report.run.verdicts.evidence import Evidence
from scaler.report.run.verdicts.step_times import WORTH_S, newest_pace
from scaler.report.run.verdicts.stragglers import Stragglers
from scaler.report.text.format import number, plural, seconds

INPUT_BOUND = 0.2  # of the step time, mean over ranks: without the wait, training would be 1.25 times as fast
SYNC_BOUND = 0.3  # of the step time, mean over ranks, without what stragglers cost
LOW_EFFICIENCY = 0.7  # of one worker's speed: 3 in 10 workers are paid for nothing
SLOW_STARTUP = 0.2  # of the wall clock,
SLOW_STARTUP_S = 60.0  # and at least so many seconds


def input_bound(evidence: Evidence) -> Verdict | None:
    """All ranks waited for their samples, in the newest attempt that is long enough to say."""
    pace = newest_pace(evidence.arrays)
    if pace is None:
        return None
    waits = pace.data_s.mean(axis=0, dtype=np.float64) * len(pace.step_s)  # R
    share = float(waits.mean()) / pace.train_s
    least = float(waits.min()) / pace.train_s
    if least < INPUT_BOUND or not pace.is_worth(share):
        return None
    return Verdict(
        code="input_bound",
        rank=None,
        message=f"Training waits for data: {share:.0%} of the step time, mean over ranks.",
        evidence=f"{seconds(float(np.median(pace.data_s)))} of a step of {seconds(float(np.median(pace.step_s)))}, "
        f"medians over {plural(len(pace.step_s), 'step')}; no rank waits less than {least:.0%}",
        next=_load_advice(evidence.job.train.data_workers),
    )


def _load_advice(data_workers: int) -> str:
    """What to do about waiting for data, given the loader processes of a worker."""
    beside = (
        "Load samples beside the training: train.data_workers is 0, set it to 2 or more"
        if not data_workers
        else f"Load samples in more processes: train.data_workers is {data_workers}"
    )
    return (
        f"{beside}, with as many CPUs more (resources.cpus_per_worker); or make samples cheaper to get: decode and "
        "resize them beforehand, cache them, keep them on local disks."
    )


def sync_bound(evidence: Evidence, stragglers: Stragglers) -> Verdict | None:
    """Ranks spend their time in the all-reduce: the network, or waiting for whoever is last, a different one each time.

    The rank that comes last to the all-reduce waits for the network alone: the least waiting of a step is
    communication, and the rest of the mean is waiting for the last one. What chronic stragglers cost is said of them.
    """
    pace = newest_pace(evidence.arrays)
    if pace is None or len(pace.ranks) < 2:
        return None
    sync = float(pace.sync_s.mean(axis=1, dtype=np.float64).sum()) / pace.train_s
    network = float(pace.sync_s.min(axis=1).sum(dtype=np.float64)) / pace.train_s
    chronic = stragglers.cost if stragglers.attempt == pace.attempt else 0.0
    others = max(sync - network - chronic * (1.0 - len(stragglers.found) / len(pace.ranks)), 0.0)
    share = network + others
    if share < SYNC_BOUND or not pace.is_worth(share):
        return None
    is_network = network >= others
    return Verdict(
        code="sync_bound",
        rank=None,
        message=f"Workers wait for each other: {share:.0%} of the step time, mean over ranks, "
        f"{'mostly for the all-reduce itself' if is_network else 'mostly for whichever rank is last'}.",
        evidence=f"{network:.0%} in the all-reduce when all are there, {others:.0%} until the last one is, of a step "
        f"of {seconds(float(np.median(pace.step_s)))} (median)",
        next="Give a step more work between two all-reduces (scale.per_worker_batch_size, scale.grad_accum_steps), "
        "use fewer workers or a faster network."
        if is_network
        else "Even out what varies from step to step: the length of samples in a batch, other processes on the nodes, "
        "more CPUs for a worker (resources.cpus_per_worker).",
    )


def low_efficiency(scaling: Scaling | None, totals: Totals) -> Verdict | None:
    """Workers are much slower together than one of them alone."""
    if scaling is None or scaling.efficiency is None or scaling.one_worker_samples_per_s is None:
        return None
    lost_s = (1.0 - scaling.efficiency) * totals.train_s
    if scaling.world_size < 2 or scaling.efficiency >= LOW_EFFICIENCY or lost_s < WORTH_S:
        return None
    return Verdict(
        code="low_efficiency",
        rank=None,
        message=f"Each of {scaling.world_size} workers is {scaling.efficiency:.0%} as fast as one alone.",
        evidence=f"{number(scaling.worker_samples_per_s)} samples/s a worker against "
        f"{number(scaling.one_worker_samples_per_s)} samples/s alone, from {scaling.source}",
        next="See where a step's time goes (data, compute, sync): more work a step "
        "(scale.per_worker_batch_size), or fewer workers on the same machine.",
    )


def slow_startup(evidence: Evidence) -> Verdict | None:
    """The time before the first step is a large part of the run."""
    budget, totals = evidence.budget, evidence.totals
    if budget is None or totals.wall_s is None or totals.wall_s <= 0.0:
        return None
    share = budget.startup_s / totals.wall_s
    if budget.startup_s < SLOW_STARTUP_S or share < SLOW_STARTUP:
        return None
    return Verdict(
        code="slow_startup",
        rank=None,
        message=f"The run took {seconds(budget.startup_s)} to its first step, {share:.0%} of its wall clock.",
        evidence=f"of {seconds(totals.wall_s)} from submission to the end",
        next=f"{'See in logs/' if evidence.has_log() else 'Find out'} what the workers wait for: nodes that start, "
        "packages, the recipe's build (data that is read or downloaded there), a compilation. Every restart pays most "
        "of it again.",
    )
