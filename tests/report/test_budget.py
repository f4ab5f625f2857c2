"""Where the wall clock went, what it cost, and what more workers bought."""

from collections.abc import Callable
from dataclasses import astuple, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic import SUBMITTED, SYNTHETIC_JOB, SyntheticRun

from scaler.job import Job
from scaler.plan import make_plan
from scaler.report.run.model import Budget, Report

ENDING_S = 2.0


def ended(run: SyntheticRun, seconds: float = ENDING_S) -> Report:
    """Report on a run that ended some seconds after its last event or step."""
    return replace(run, wall_s=run.clock + seconds - SUBMITTED).report()


def budget(report: Report) -> Budget:
    assert report.budget is not None
    return report.budget


def with_job(run: SyntheticRun, digits: Callable[..., Job], *overrides: str) -> SyntheticRun:
    job = digits(*SYNTHETIC_JOB, *overrides)
    return replace(run, job=job, plan=make_plan(job))


# The budget


def test_the_budget_of_a_run(synthetic_run: SyntheticRun) -> None:
    run = synthetic_run.later(3.0).attempt(0, evaluation_s=lambda rank, seen: 0.5 if seen == 100 else 0.0)
    spent = budget(ended(run))
    assert (spent.startup_s, spent.evaluation_s, spent.other_s) == (3.0, 0.5, ENDING_S)
    assert (spent.compute_s, spent.data_wait_s, spent.sync_wait_s, spent.update_s) == (
        14 / 16,
        14 / 64,
        14 / 32,
        14 / 64,
    )


def test_what_stood_after_the_last_step_is_a_mean_over_ranks(synthetic_run: SyntheticRun) -> None:
    run = synthetic_run.attempt(0)
    for rank in (0, 1):
        run = run.worker_event("worker_ended", rank, evaluation_s=1.0 + rank, checkpoint_s=0.25)
    spent = budget(ended(run))
    assert (spent.evaluation_s, spent.checkpoint_s, spent.other_s) == (1.5, 0.25, ENDING_S - 1.75)


def test_work_that_was_done_again_is_not_counted_as_work(synthetic_run: SyntheticRun) -> None:
    waits = {"evaluation_s": lambda rank, seen: 1.0 if seen == 80 else 0.0}
    run = synthetic_run.attempt(0, stop=96, **waits).worker_event("worker_ended", 0, evaluation_s=0.5, checkpoint_s=0.5)
    spent = budget(ended(run.later(1.0).died(1).later(4.0).attempt(1, start=64), 0.0))
    # Two steps, the evaluation before the second, and what stood after it.
    assert (spent.redone_s, spent.restart_s, spent.evaluation_s, spent.checkpoint_s) == (2.25, 4.0, 0.0, 0.0)
    assert spent.compute_s == 14 / 16
    assert spent.other_s == pytest.approx(0.0)


def test_a_run_that_never_began_was_starting_up_all_the_time(synthetic_run: SyntheticRun) -> None:
    report = replace(synthetic_run, state="failed", wall_s=7.0).report()
    assert budget(report) == Budget(
        startup_s=7.0, compute_s=0.0, data_wait_s=0.0, sync_wait_s=0.0, update_s=0.0, evaluation_s=0.0,
        checkpoint_s=0.0, redone_s=0.0, restart_s=0.0, other_s=0.0,
    )  # fmt: skip


def test_a_run_that_goes_on_has_no_budget_and_no_cost(synthetic_run: SyntheticRun, digits: Callable[..., Job]) -> None:
    run = with_job(synthetic_run, digits, "resources.price_per_worker_hour=3")
    report = replace(run.attempt(0, stop=96), state="running", wall_s=None).report()
    assert (report.budget, report.cost) == (None, None)


def test_times_that_are_not_known_are_no_budget(synthetic_run: SyntheticRun) -> None:
    run = synthetic_run.attempt(0)
    report = replace(run, submitted=None).report()
    assert (report.budget, report.attempts[0].elapsed_s, set(report.series.elapsed_s)) == (None, None, {None})


ATTEMPT = st.tuples(
    st.sampled_from(["lost", "hung", "resized", "killed"]),
    st.integers(0, 8),  # steps that it took
    st.integers(0, 8),  # steps that the next goes back
    st.integers(1, 3),  # workers
    st.integers(0, 40),  # eighths of a second until the next attempt
)


@given(attempts=st.lists(ATTEMPT, max_size=5), startup=st.integers(0, 80))
def test_the_budget_adds_up_over_crashes_resizes_and_resumes(
    attempts: list[tuple[str, int, int, int, int]], startup: int, plain: SyntheticRun
) -> None:
    places = [*range(0, 97, 16), *range(100, 197, 16), 200]
    run, at = plain.later(startup / 8), 0
    waits = {"evaluation_s": lambda rank, seen: 0.5 + rank if seen % 48 == 16 else 0.0}
    step_times = {"step_time_s": lambda rank, seen: 0.125 + 0.0625 * (rank == seen // 16 % 3)}
    idle_s = 0.0
    for attempt, (how, steps, back, workers, seconds) in enumerate(attempts):
        # All take the batch of two workers' plan, so that places are the same.
        stop = min(at + steps, len(places) - 2)
        run = with_attempt(run, attempt, places[at], places[stop], workers, **waits, **step_times)
        match how:
            case "lost":
                run = run.died(0).later(seconds / 8)
            case "hung":
                run = run.hung(0).later(seconds / 8)
            case "resized":
                run = run.left("resize").later(seconds / 8)
            case _:
                idle_s += 3600.0
                run = run.resumed(places[at], idle_s=3600.0).later(seconds / 8)
        at = max(0, stop - back)
    run = with_attempt(run, len(attempts), places[at], None, 2, **waits, **step_times)
    report = ended(run)
    spent = budget(report)
    assert sum(astuple(spent)) == pytest.approx(report.totals.wall_s, abs=1e-9)
    assert report.totals.wall_s == pytest.approx(run.clock + ENDING_S - SUBMITTED - idle_s)
    assert spent.other_s == pytest.approx(ENDING_S, abs=1e-4), "nothing else is left, and nothing is counted twice"
    assert min(astuple(spent)) > -1e-6
    known = [when for when in report.series.elapsed_s if when is not None]
    assert known == sorted(known)
    assert len(known) == len(report.series.samples_seen)


def with_attempt(
    run: SyntheticRun, attempt: int, start: int, stop: int | None, workers: int, **values: object
) -> SyntheticRun:
    """Add an attempt of some workers, which take 16 samples a step whatever their number."""
    return run.attempt(attempt, start=start, stop=stop, world_size=workers, **values)


@pytest.fixture(scope="session")
def plain(digits: Callable[..., Job]) -> SyntheticRun:
    """A run that takes 16 samples a step, with however many workers."""
    job = digits(
        *SYNTHETIC_JOB,
        "scale.num_workers={min: 1, max: 3}",
        "scale.global_batch_size=16",
        "scale.per_worker_batch_size=16",
        workers=2,
    )
    return SyntheticRun(job=job, plan=make_plan(job, 2))


# The clock


def test_elapsed_goes_on_over_a_restart_and_leaves_idle_time_out(synthetic_run: SyntheticRun) -> None:
    run = synthetic_run.later(1.0).attempt(0, stop=48).event("lr_lowered", 32, factor=0.5, reason="it is", by="plateau")
    run = run.resumed(48, idle_s=7200.0).later(2.0)
    run = run.attempt(1, start=48, evaluation_s=lambda rank, seen: 0.5 if seen == 100 else 0.0).evaluated(100, loss=1.0)
    report = run.evaluated(200, loss=1.0).report()
    # Three steps from 1.0 on; then from 1.375 + 2.0, with an evaluation before the step at 100.
    assert [row.elapsed_s for row in report.attempts] == [1.0, 3.375]
    assert report.series.elapsed_s[:5] == (1.0, 1.125, 1.25, 3.375, 3.5)
    assert dict(zip(report.series.samples_seen, report.series.elapsed_s, strict=True))[100] == 3.375 + 4 * 0.125 + 0.5
    assert report.series.eval_elapsed_s == (4.375, 3.375 + 11 * 0.125 + 0.5)
    assert report.decisions[0].elapsed_s == 1.25


# Cost


def test_the_cost_is_of_each_attempts_workers_and_time(synthetic_run: SyntheticRun, digits: Callable[..., Job]) -> None:
    run = with_job(synthetic_run, digits, "resources.price_per_worker_hour=3600")  # one a second
    report = ended(run.later(3.0).attempt(0))
    assert report.cost is not None
    assert report.cost.total == pytest.approx(2 * (3.0 + 14 * 0.125 + ENDING_S))
    assert report.cost.worker_hours == pytest.approx(report.cost.total / 3600)
    assert report.cost.per_million_samples == pytest.approx(report.cost.total / 200 * 1e6)
    resized = run.later(3.0).attempt(0, stop=96).left("resize").later(1.0).attempt(1, start=96, world_size=3)
    cost = ended(resized).cost
    assert cost is not None
    first, second = 3.0 + 6 * 0.125, 1.0 + (resized.clock - SUBMITTED - 3.0 - 6 * 0.125 - 1.0) + ENDING_S
    assert cost.total == pytest.approx(2 * first + 3 * second), "the restart is paid by the attempt that it led to"


def test_without_a_price_there_is_no_cost(synthetic_run: SyntheticRun) -> None:
    assert ended(synthetic_run.attempt(0)).cost is None


def test_a_free_worker_costs_nothing(synthetic_run: SyntheticRun, digits: Callable[..., Job]) -> None:
    cost = ended(with_job(synthetic_run, digits, "resources.price_per_worker_hour=0").attempt(0)).cost
    assert cost is not None
    assert (cost.total, cost.per_million_samples) == (0.0, 0.0)


# Scaling


def test_efficiency_is_against_the_first_speed_that_is_known(
    synthetic_run: SyntheticRun, digits: Callable[..., Job]
) -> None:
    run = with_job(synthetic_run, digits, "reference.samples_per_s=100").attempt(0, stop=96, world_size=1)
    run = run.left("resize").attempt(1, start=96)
    two = 104 / (2 * 8 * 0.125)  # samples over the seconds of two workers
    scaling = run.report().scaling
    assert scaling is not None
    assert (scaling.world_size, scaling.worker_samples_per_s, scaling.source) == (2, two, "reference.samples_per_s")
    assert scaling.efficiency == two / 100
    other = run.report(one_worker=(50.0, "run digits-1")).scaling
    assert other is not None
    assert (other.one_worker_samples_per_s, other.source, other.efficiency) == (50.0, "run digits-1", two / 50)
    own = replace(run, job=synthetic_run.job).report().scaling
    assert own is not None
    assert (own.one_worker_samples_per_s, own.source) == (96 / (12 * 0.125), "attempt 0")


def test_nobodys_speed_is_no_efficiency(synthetic_run: SyntheticRun) -> None:
    scaling = synthetic_run.attempt(0).report().scaling
    assert scaling is not None
    assert (scaling.one_worker_samples_per_s, scaling.efficiency, scaling.source) == (None, None, None)


def test_one_worker_is_not_measured_against_itself(synthetic_run: SyntheticRun) -> None:
    scaling = synthetic_run.attempt(0, world_size=1).report().scaling
    assert scaling is not None
    assert (scaling.world_size, scaling.efficiency) == (1, None)


def test_the_attempt_that_is_judged_is_the_last_with_steps_in_the_weights(synthetic_run: SyntheticRun) -> None:
    run = synthetic_run.attempt(0, stop=96).died(0).attempt(1, start=96, stop=96, world_size=3)
    scaling = replace(run, state="failed").report().scaling
    assert scaling is not None
    assert scaling.world_size == 2
    assert replace(synthetic_run.attempt(0, stop=0), state="failed").report().scaling is None


# FLOPs


def test_flops_are_of_the_speed(synthetic_run: SyntheticRun, digits: Callable[..., Job]) -> None:
    run = with_job(synthetic_run, digits, "resources.peak_tflops_per_worker=312").attempt(0)
    assert run.report().flops is None
    events = tuple(
        replace(event, flops_per_sample=6e11) if event.kind == "attempt_started" else event for event in run.events
    )
    flops = replace(run, events=events).report().flops
    assert flops is not None
    assert flops.worker_tflops == pytest.approx(200 / (2 * 14 * 0.125) * 0.6)
    assert flops.mfu == pytest.approx(flops.worker_tflops / 312)
    unknown = replace(run, events=events, job=synthetic_run.job).report().flops
    assert unknown is not None
    assert (unknown.peak_tflops, unknown.mfu) == (None, None)
