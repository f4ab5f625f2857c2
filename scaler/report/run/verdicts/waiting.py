"""Verdicts on time that all ranks lose: waiting for data or for each other, low efficiency, slow start-up."""

from statistics import median

import numpy as np

from scaler.core.unit import Unit
from scaler.metrics.events import OWN_LOOP, WorkerStarted, data_order, of_type
from scaler.report.run.model import Scaling, Totals, Verdict
from scaler.report.run.verdicts.evidence import Evidence
from scaler.report.run.verdicts.step_times import WORTH_S, newest_step_times
from scaler.report.run.verdicts.stragglers import StragglerFindings
from scaler.report.text.format import count, number, plural, seconds

INPUT_BOUND = 0.2  # of the step time, on the rank that waits least: without the wait, training is 1.25 times as fast
SYNC_BOUND = 0.3  # of the step time, mean over ranks, without what stragglers cost
LOW_EFFICIENCY = 0.7  # of one worker's speed: below it, more than 3 of 10 workers add nothing
SLOW_STARTUP = 0.2  # of the wall clock,
SLOW_STARTUP_S = 60.0  # and at least so many seconds


def input_bound(evidence: Evidence) -> Verdict | None:
    """Return a verdict if all ranks wait for their data, in the newest attempt with enough steps."""
    times = newest_step_times(evidence.arrays)
    if times is None:
        return None
    waits = times.data_s.mean(axis=0, dtype=np.float64) * len(times.step_s)  # R
    share = float(waits.mean()) / times.train_s
    least = float(waits.min()) / times.train_s
    if least < INPUT_BOUND or not times.is_worth(share):
        return None
    return Verdict(
        code="input_bound",
        rank=None,
        message=f"Training waits for data for {share:.0%} of the step time, mean over ranks.",
        evidence=f"{seconds(float(np.median(times.data_s)))} of a step of {seconds(float(np.median(times.step_s)))}, "
        f"medians over {plural(len(times.step_s), 'step')}; no rank waits less than {least:.0%}",
        next=_load_advice(evidence.job.train.data_workers, data_order(evidence.events)),
    )


def _load_advice(data_workers: int, order: str | None) -> str:
    """Return the next step for a wait for data, given the number of loading processes of a worker."""
    if order == "stream":
        ahead = "Let a process of its own read ahead (train.data_workers: 1). " if not data_workers else ""
        return (
            f"{ahead}Every worker reads the whole iterable: give train_data a method read_range(start, stop), then "
            "each reads its share; or let each read a part of its own (scaler.Recipe(sharded=True)); or make samples "
            "cheaper to read: decode and resize them beforehand."
        )
    if order == OWN_LOOP:
        return "Load samples in processes of their own: DataLoader(num_workers=...); or make samples faster to load."
    processes = (
        "Load samples in processes of their own: train.data_workers is 0, set it to 2 or more"
        if not data_workers
        else f"Load samples in more processes: train.data_workers is {data_workers}"
    )
    return (
        f"{processes}, with one more CPU for each process (resources.cpus_per_worker); or make samples faster to "
        "load: decode and resize them beforehand, cache them, keep them on local disks."
    )


def sync_bound(evidence: Evidence, stragglers: StragglerFindings) -> Verdict | None:
    """Return a verdict if ranks lose much time in the all-reduce, to the network or to a last rank that changes.

    The rank that reaches the all-reduce last waits for the network only. So the least wait of a step is communication,
    and the rest of the mean is the wait for the last rank. What stragglers cost is in their own verdicts.
    """
    times = newest_step_times(evidence.arrays)
    if times is None or len(times.ranks) < 2:
        return None
    sync = float(times.sync_s.mean(axis=1, dtype=np.float64).sum()) / times.train_s
    network = float(times.sync_s.min(axis=1).sum(dtype=np.float64)) / times.train_s
    chronic = stragglers.cost if stragglers.attempt == times.attempt else 0.0
    others = max(sync - network - chronic * (1.0 - len(stragglers.found) / len(times.ranks)), 0.0)
    share = network + others
    if share < SYNC_BOUND or not times.is_worth(share):
        return None
    is_network = network >= others
    return Verdict(
        code="sync_bound",
        rank=None,
        message=f"Workers wait for each other for {share:.0%} of the step time, mean over ranks, "
        f"{'mostly for the all-reduce itself' if is_network else 'mostly for the last rank, which changes'}.",
        evidence=f"{network:.0%} in the all-reduce after the last rank has reached it, {others:.0%} before; median "
        f"step {seconds(float(np.median(times.step_s)))}{_slowest_link(evidence, times.attempt) if is_network else ''}",
        next="Do more work between two all-reduces (raise scale.per_worker_batch_size or scale.grad_accum_steps), "
        "or use fewer workers or a faster network."
        if is_network
        else "Reduce what varies from step to step: the length of samples in a batch, other processes on the nodes, "
        "too few CPUs for a worker (resources.cpus_per_worker).",
    )


def _slowest_link(evidence: Evidence, attempt: int) -> str:
    """Return what the workers of an attempt measured at their start of the slowest link between two nodes, or ''."""
    started = [event for event in of_type(evidence.events, WorkerStarted) if event.attempt == attempt]
    first = next((event.node for event in started if event.rank == 0), None)
    links = [
        (event.link_mib_per_s, event.round_trip_s, event.node)
        for event in started
        if event.link_mib_per_s is not None and event.round_trip_s is not None
    ]
    if first is None or not links:
        return ""
    mib_per_s, round_trip_s, node = min(links)
    text = f"; the slowest link is from {node} to {first}, the node of rank 0: {_link(mib_per_s, round_trip_s)}"
    if len(links) > 1:
        text += f"; median of all links: {_link(median(link[0] for link in links), median(link[1] for link in links))}"
    return text


def _link(mib_per_s: float, round_trip_s: float) -> str:
    return f"{number(mib_per_s)} MiB/s and {seconds(round_trip_s)} a round trip"


def low_efficiency(scaling: Scaling | None, totals: Totals, units: Unit) -> Verdict | None:
    """Return a verdict if a worker of the group is much slower than one worker alone; ``units``: of the plan."""
    if scaling is None or scaling.efficiency is None or scaling.one_worker_samples_per_s is None:
        return None
    lost_s = (1.0 - scaling.efficiency) * totals.train_s
    if scaling.world_size < 2 or scaling.efficiency >= LOW_EFFICIENCY or lost_s < WORTH_S:
        return None
    speed, alone = scaling.worker_samples_per_s, scaling.one_worker_samples_per_s
    unit = f"{units.many}/s"
    if totals.tokens_seen is not None:
        tokens = totals.tokens_seen / max(totals.samples_seen, 1)
        speed, alone = speed * tokens, alone * tokens
    return Verdict(
        code="low_efficiency",
        rank=None,
        message=f"Each of the {scaling.world_size} workers is {scaling.efficiency:.0%} as fast as one worker alone.",
        evidence=f"{count(speed, units.many)} {unit} a worker against {count(alone, units.many)} {unit} alone, from "
        f"{scaling.source}",
        next="See where the time of a step goes (data, compute, sync). Do more work in a step "
        "(scale.per_worker_batch_size), or run fewer workers on a machine.",
    )


def slow_startup(evidence: Evidence) -> Verdict | None:
    """Return a verdict if the time before the first step is a large share of the run."""
    budget, totals = evidence.budget, evidence.totals
    if budget is None or totals.wall_s is None or totals.wall_s <= 0.0:
        return None
    share = budget.startup_s / totals.wall_s
    if budget.startup_s < SLOW_STARTUP_S or share < SLOW_STARTUP:
        return None
    return Verdict(
        code="slow_startup",
        rank=None,
        message=f"The first step came after {seconds(budget.startup_s)}, {share:.0%} of the wall clock.",
        evidence=f"of {seconds(totals.wall_s)} from submission to the end",
        next=f"{'See in logs/' if evidence.has_log() else 'Find out'} what the workers wait for: nodes that start, "
        "packages, the recipe's build (data that it reads or downloads), compilation. Every restart takes most of "
        "this time again.",
    )
