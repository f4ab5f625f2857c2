"""The progress of a run while it runs, from what its workers upload."""

from dataclasses import replace
from typing import Any

import pytest
from made_events import make_event
from synthetic import SyntheticRun

from scaler.cluster.progress import MOST_WORKERS, Progress, ProgressTracker, WorkerProgress, find_straggler
from scaler.metrics.events import WorkerStarted
from scaler.metrics.record import Record


def looks(run: SyntheticRun, *, steps: int) -> Progress:
    """Return the progress after the first steps of every rank."""
    tracker = ProgressTracker()
    tracker.add([], run.events)
    for rank in (0, 1):
        tracker.add([record for record in run.records if record.rank == rank][:steps], [])
    return tracker.progress()


def test_nothing_is_known_before_every_worker_has_handed_over(synthetic_run: SyntheticRun) -> None:
    run = synthetic_run.attempt(0)
    tracker = ProgressTracker()
    assert tracker.progress() == Progress()
    tracker.add([record for record in run.records if record.rank == 0], run.events)
    assert tracker.progress() == Progress(attempt=0, world_size=2, workers_started=2)


@pytest.mark.parametrize(("steps", "samples"), [(1, 16), (2, 32), (6, 96), (7, 100), (8, 116), (14, 200)])
def test_progress_is_the_samples_seen_with_the_last_step(synthetic_run: SyntheticRun, steps: int, samples: int) -> None:
    progress = looks(synthetic_run.attempt(0), steps=steps)
    assert progress.samples_seen == progress.progress == samples


def test_progress_that_is_measured_is_the_records(synthetic_run: SyntheticRun) -> None:
    # The schedule is at half the samples seen; the newest step is worth as much as the one before.
    run = synthetic_run.attempt(0, progress=lambda rank, seen: seen / 2)
    assert [looks(run, steps=steps).progress for steps in (2, 6, 7)] == [16.0, 48.0, 50.0]


def test_the_slowest_worker_counts(synthetic_run: SyntheticRun) -> None:
    run = synthetic_run.attempt(0, lr=lambda rank, seen: float(seen))
    tracker = ProgressTracker()
    tracker.add([], run.events)
    tracker.add([record for record in run.records if record.rank == 0][:6], [])
    tracker.add([record for record in run.records if record.rank == 1][:3], [])
    look = tracker.progress()
    assert (look.samples_seen, look.progress, look.lr) == (48, 48.0, 32.0)


def test_a_return_to_a_checkpoint_starts_anew(synthetic_run: SyntheticRun) -> None:
    run = synthetic_run.attempt(0, stop=96, loss=9.0).attempt(1, start=64, stop=96, loss=1.0)
    tracker = ProgressTracker()
    for attempt in (0, 1):
        tracker.add([], [event for event in run.events if event.attempt == attempt])
        for rank in (0, 1):
            mine: list[Record] = [r for r in run.records if (r.attempt, r.rank) == (attempt, rank)]
            tracker.add(mine, [])
    stale: Any = run.records[0]
    tracker.add([stale], [])  # a late record of the last attempt changes nothing
    look = tracker.progress()
    assert (look.attempt, look.progress, look.loss_mean) == (1, 96.0, 1.0)


def test_the_throughput_is_that_of_the_last_seconds(synthetic_run: SyntheticRun) -> None:
    # A step takes an eighth of a second; the first ten took a minute.
    run = synthetic_run.attempt(0).altered(lambda r: r.step < 10, step_time_s=6.0)
    assert looks(run, steps=10).samples_per_s == pytest.approx(2.67, rel=0.3)
    tracker = ProgressTracker()
    tracker.add([], run.events)
    for rank in (0, 1):
        mine = [record for record in run.records if record.rank == rank]
        tracker.add([*mine, *(mine[-2]._replace(samples_seen=200 + at) for at in range(100))], [])
    assert tracker.progress().samples_per_s == pytest.approx(128.0)


@pytest.mark.parametrize(
    ("own_s", "stands_out"),
    [([0.1, 0.1, 0.126], True), ([0.1, 0.1, 0.124], False), ([0.01, 0.01, 0.02], False), ([0.0, 0.0, 0.0], False)],
)
def test_a_straggler_is_well_above_the_others_and_costs_the_group_time(
    synthetic_run: SyntheticRun, own_s: list[float], stands_out: bool
) -> None:
    looks = [
        WorkerProgress(
            rank=rank, samples_per_s=64.0, loss=2.0, step_time_s=0.2, data_wait_s=0.0, compute_s=own, sync_wait_s=0.0,
            peak_memory_gib=0.4,
        )
        for rank, own in enumerate(own_s)
    ]  # fmt: skip
    looks.sort(key=lambda look: -look.own_s)
    found = find_straggler(looks)
    assert (found is not None) == stands_out
    if found is not None:
        assert (found.rank, found.own_s, found.others_s, found.waits_for_data) == (2, 0.126, 0.1, False)


def test_progress_has_the_slowest_of_many_workers(synthetic_run: SyntheticRun) -> None:
    tracker = ProgressTracker()
    tracker.add([], [make_event("attempt_started", attempt=0, world_size=1000)])
    one = synthetic_run.attempt(0).records[0]
    for rank in range(1000):
        tracker.add([one._replace(rank=rank, data_wait_s=0.1 if rank == 700 else 0.0, compute_s=0.01)], [])
    look = tracker.progress()
    assert len(look.workers) == MOST_WORKERS
    assert look.workers[0].rank == 700
    assert look.straggler is not None
    assert (look.straggler.rank, look.straggler.waits_for_data) == (700, True)


def test_workers_that_join_a_new_group_are_counted_anew(synthetic_run: SyntheticRun) -> None:
    joined = [event for event in synthetic_run.attempt(0).events if isinstance(event, WorkerStarted)]
    again = [replace(event, attempt=1) for event in joined]
    tracker = ProgressTracker()
    counts = []
    for event in [*joined, joined[0], *again]:
        tracker.add([], [event])
        counts.append(tracker.progress().workers_started)
    assert counts == [1, 2, 2, 1, 2]
