"""The attempts of a run: what restarts cost, why attempts ended, and the plan and ramp of each attempt."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic import SYNTHETIC_JOB, SyntheticRun, codes

from scaler.core.resize_ramp import ResizeRamp
from scaler.job import Job, dump_job, load_job
from scaler.metrics.writer import MetricsWriter
from scaler.plan import make_plan
from scaler.report.run.model import ENDED_BY, AttemptRow
from scaler.report.run.read import read_report
from scaler.runs import RunFolder

Digits = Callable[..., Job]


def row(run: SyntheticRun, attempt: int = 0) -> AttemptRow:
    return run.report().attempts[attempt]


# Work that was trained again, and how long a restart took.


def test_work_that_was_trained_again_is_counted_and_timed(synthetic_run: SyntheticRun) -> None:
    run = synthetic_run.attempt(0, stop=96, step_time_s=lambda rank, seen: 0.25 + rank).died(1).later(3.2)
    report = run.attempt(1, start=64).report()
    first, second = report.attempts
    # Two steps of 16, each of 0.25 s on one rank and of 1.25 s on the other.
    assert (first.redone_samples, first.redone_s, first.restart_s) == (32, 2 * 0.75, pytest.approx(3.2))
    assert (second.redone_samples, second.redone_s, second.restart_s) == (0, 0.0, None)
    assert (report.totals.redone_samples, report.totals.redone_s) == (32, 1.5)
    assert report.totals.restart_s == pytest.approx(3.2)
    assert report.totals.train_s == 4 * 0.75 + 10 * 0.125, "only work in the final weights counts"


def test_attempts_that_began_at_the_same_checkpoint_count_once(synthetic_run: SyntheticRun) -> None:
    run = synthetic_run.attempt(0, stop=96).died(1).attempt(1, start=64, stop=64).died(1)
    run = run.attempt(2, start=64, stop=80).died(1).attempt(3, start=64)
    report = run.report()
    assert [row.redone_samples for row in report.attempts] == [32, 0, 16, 0]
    assert [(row.start_samples, row.end_samples) for row in report.attempts] == [(0, 64), (64, 64), (64, 64), (64, 200)]
    assert (report.totals.samples_seen, report.totals.steps, report.totals.redone_samples) == (200, 14, 48)
    assert report.lr_audit.checked_steps == 14


def test_an_attempt_from_an_older_checkpoint_repeats_work_of_two_attempts(synthetic_run: SyntheticRun) -> None:
    run = synthetic_run.attempt(0, stop=96).died(1).attempt(1, start=64, stop=80).died(1).attempt(2, start=32)
    assert [row.redone_samples for row in run.report().attempts] == [64, 16, 0]


@given(attempts=st.lists(st.tuples(st.sampled_from([0, 16, 32, 48, 64]), st.integers(0, 5)), min_size=1, max_size=5))
def test_every_recorded_sample_is_in_the_weights_or_trained_again(attempts: list[tuple[int, int]]) -> None:
    """An attempt is its first sample, never beyond the end of the attempt before, and its number of steps."""
    job = load_job(Path(__file__).parents[2] / "jobs/digits/job.yaml", overrides=SYNTHETIC_JOB)
    run, reached = SyntheticRun(job=job, plan=make_plan(job), state="stopped"), 0
    for attempt, (wanted, steps) in enumerate(attempts):
        start = min(wanted, reached)
        reached = min(start + 16 * steps, 96)
        run = run.attempt(attempt, start=start, stop=reached).died(0)
    report = run.report()
    recorded = sum(record.samples for record in run.records)
    assert report.totals.samples_seen == sum(worker.samples for worker in report.workers) == reached
    assert report.totals.samples_seen + report.totals.redone_samples == recorded
    assert report.lr_audit.max_abs_error in (0.0, None)


def test_a_restart_does_not_count_the_time_without_a_driver(synthetic_run: SyntheticRun) -> None:
    run = synthetic_run.attempt(0, stop=96).resumed(64, idle_s=86400.0).later(4.0).attempt(1, start=64)
    assert (row(run).ended_by, row(run).restart_s) == ("killed", pytest.approx(4.0))
    assert row(run).cause == "the driver was gone; resumed"
    stopped = synthetic_run.attempt(0, stop=96).left("stop").later(1.5).resumed(96, idle_s=86400.0).later(4.0)
    stopped = stopped.attempt(1, start=96)
    assert (row(stopped).ended_by, row(stopped).restart_s) == ("stopped", pytest.approx(5.5))
    assert codes(stopped.report()) == [], "a stop by the user is no fault"


def test_without_an_end_event_the_last_event_is_the_end(synthetic_run: SyntheticRun) -> None:
    run = synthetic_run.attempt(0, stop=96).evaluated(64, loss=1.0).later(7.0).attempt(1, start=64)
    assert (row(run).ended_by, row(run).cause, row(run).restart_s) == ("lost", None, pytest.approx(7.0))


def test_a_clock_that_went_back_gives_no_negative_restart(synthetic_run: SyntheticRun) -> None:
    run = synthetic_run.attempt(0, stop=96).died(1).later(-60.0).attempt(1, start=64)
    assert row(run).restart_s == 0.0


# Why attempts ended.


def test_each_attempt_has_its_own_cause(many_attempts: SyntheticRun) -> None:
    report = many_attempts.report()
    assert [(row.ended_by, row.cause) for row in report.attempts] == [
        ("hung", "rank 1 hung for 600 s: computing, recipe.py:30 in loss"),
        ("out_of_memory", "out of memory with 8 samples on rank 0"),
        ("resized", "resized: 2 -> 3 workers"),
        ("preempted", "the node of rank 0 was preempted"),
        ("killed", "the driver was gone; resumed with train.seed 0 -> 1"),
        ("finished", None),
    ]
    assert {row.ended_by for row in report.attempts} <= set(ENDED_BY)
    assert (report.totals.samples_seen, report.totals.steps) == (200, 14)


@pytest.mark.parametrize(
    ("state", "ended_by", "cause"),
    [
        ("succeeded", "finished", None),  # a worker that died after the last checkpoint does not count
        ("failed", "failed", "rank 1 hung for 600 s: computing, recipe.py:30 in loss"),
        ("stopped", "stopped", None),  # stopped while a worker hung
        ("running", "hung", "rank 1 hung for 600 s: computing, recipe.py:30 in loss"),  # the next attempt is starting
    ],
)
def test_the_last_attempt_ended_as_the_run_did(
    synthetic_run: SyntheticRun, state: str, ended_by: str, cause: str | None
) -> None:
    last = row(replace(synthetic_run.attempt(0, stop=96).hung(1), state=state))
    assert (last.ended_by, last.cause, last.restart_s) == (ended_by, cause, None)


def test_a_run_that_was_stopped_says_so(synthetic_run: SyntheticRun) -> None:
    last = row(replace(synthetic_run.attempt(0, stop=96).left("stop"), state="stopped"))
    assert (last.ended_by, last.cause) == ("stopped", "stopped on request")


def test_a_finished_run_that_was_extended_was_not_killed(synthetic_run: SyntheticRun, digits: Digits) -> None:
    longer = digits(*SYNTHETIC_JOB, "train.epochs=3")
    run = synthetic_run.attempt(0).resumed(200, idle_s=60.0, changes=[("train.epochs", "2", "3")])
    report = run.attempt(1, start=200, job=longer).report()
    first, second = report.attempts
    assert (first.ended_by, first.cause) == ("finished", "trained to its end; resumed with train.epochs 2 -> 3")
    assert (second.ended_by, report.totals.samples_seen) == ("finished", 300)
    assert report.verdicts == ()


def test_a_finished_run_with_measured_progress_is_known_by_it(synthetic_run: SyntheticRun, digits: Digits) -> None:
    job = digits(*SYNTHETIC_JOB, "scale.rule=adascale")
    run = replace(synthetic_run, job=job, plan=make_plan(job))
    for worth, ended_by in ((2.0, "finished"), (1.0, "killed")):  # 6 steps of 16: 192 and 96 of 200; the last has 4
        done = run.attempt(0, stop=100, progress=lambda rank, seen, worth=worth: seen * worth)
        assert row(done.resumed(100).attempt(1, start=100)).ended_by == ended_by


def test_a_smaller_micro_batch_is_a_decision_that_stays(synthetic_run: SyntheticRun) -> None:
    run = synthetic_run.attempt(0, stop=96).event("micro_batch_halved", 80, per_worker_batch_size=4)
    (decision,) = run.died(0).attempt(1, start=64).report().decisions
    assert decision.message == "A worker ran out of memory: at most 4 samples in one forward/backward from here on."
    assert not decision.undone


# The plan and the ramp of each attempt.


def test_a_changed_job_leaves_the_audit_of_earlier_attempts_exact(synthetic_run: SyntheticRun, digits: Digits) -> None:
    jumps = (*SYNTHETIC_JOB, "scale.rewarmup=null")
    changed = digits(*jumps, "reference.lr=0.02", "schedule.warmup={samples: 64}", "train.epochs=3")
    run = replace(synthetic_run, job=digits(*jumps)).attempt(0, stop=96).left("resize", "2 -> 1 workers")
    run = run.attempt(1, start=96, stop=132, world_size=1)
    run = run.resumed(100, changes=[("reference.lr", "0.01", "0.02")]).attempt(2, start=100, stop=148, job=changed)
    run = run.died(0).attempt(3, start=132, world_size=1)  # planned by the newest job, too
    report = run.report()
    assert [row.peak_lr for row in report.attempts] == [0.04, 0.02, 0.08, 0.04]
    assert report.plan["peak_lr"] == 0.08
    assert (report.lr_audit.max_abs_error, report.lr_audit.as_planned) == (0.0, True)
    assert report.totals.samples_seen == 300
    forgotten = replace(run, later_jobs={}).report()
    assert not forgotten.lr_audit.as_planned, "the audit needs the job of that attempt"


def test_a_controller_of_the_newest_job_does_not_excuse_earlier_attempts(
    synthetic_run: SyntheticRun, digits: Digits
) -> None:
    changed = digits(*SYNTHETIC_JOB, "schedule.plateau={metric: loss}")
    off = {name: lambda rank, seen: synthetic_run.plan.lr_at(seen) / 2 for name in ("lr", "lr_planned")}
    run = synthetic_run.attempt(0, stop=64, **off).resumed(64).attempt(1, start=64, job=changed)
    assert run.plan.reacts == ("plateau",)
    assert not run.report().lr_audit.as_planned


def test_a_job_with_groups_is_audited_without_names_of_parameters(synthetic_run: SyntheticRun, digits: Digits) -> None:
    grouped = digits(*SYNTHETIC_JOB, "groups=[{match: head.*, lr_ratio: 10}]")
    run = synthetic_run.attempt(0, stop=64).resumed(64).attempt(1, start=64)
    report = replace(run, job=grouped, later_jobs={1: synthetic_run.job}).report()
    assert report.lr_audit.max_abs_error == 0.0


def test_a_halved_micro_batch_changes_no_learning_rate(synthetic_run: SyntheticRun, digits: Digits) -> None:
    auto = ("scale.per_worker_batch_size=auto", "scale.grad_accum_steps=null", "scale.global_batch_size=32")
    job = digits(*SYNTHETIC_JOB, *auto)
    run = replace(synthetic_run, job=job, plan=make_plan(job))
    run = run.attempt(0, stop=96).worker_event("out_of_memory", 1, per_worker_batch_size=16)
    report = run.attempt(1, start=64, world_size=1).report()
    assert [row.per_worker_batch_size for row in report.attempts] == [16, 32]
    assert (report.lr_audit.max_abs_error, report.attempts[0].ended_by) == (0.0, "out_of_memory")


@pytest.fixture
def smaller(synthetic_run: SyntheticRun, digits: Digits) -> SyntheticRun:
    """Return a run that began on one worker, at half the lr of two; a climb after a resize takes 54 samples."""
    job = digits(*SYNTHETIC_JOB, "scale.rewarmup={samples: 54}")
    run = replace(synthetic_run, job=job, plan=make_plan(job))
    return run.attempt(0, stop=96, world_size=1).left("resize", "1 -> 2 workers")


RIGHT = ResizeRamp(start=96, stop=150, factor=0.5)


def test_a_ramp_is_planned(smaller: SyntheticRun) -> None:
    run = smaller.attempt(1, start=96, ramp=RIGHT)
    report = run.report()
    assert (report.lr_audit.max_abs_error, report.lr_audit.as_planned) == (0.0, True)
    assert report.series.lr_planned[12] == smaller.plan.lr_at(96) * 0.5
    unsaid = tuple(replace(event, ramp=None) if event.kind == "attempt_started" else event for event in run.events)
    assert not replace(run, events=unsaid).report().lr_audit.as_planned


@pytest.mark.parametrize(
    "wrong",
    [
        None,  # a jump without a ramp
        ResizeRamp(start=96, stop=150, factor=0.5 + 1e-6),
        ResizeRamp(start=96, stop=150, factor=1 / 3),
        ResizeRamp(start=96, stop=151, factor=0.5),
        ResizeRamp(start=80, stop=150, factor=0.5),
    ],
)
def test_a_wrong_ramp_is_found_even_if_all_files_of_the_run_agree(
    smaller: SyntheticRun, wrong: ResizeRamp | None
) -> None:
    report = smaller.attempt(1, start=96, ramp=wrong).report()
    assert not report.lr_audit.as_planned
    (verdict,) = report.verdicts
    assert verdict.code == "lr_differs_from_plan"
    assert verdict.message == (
        "The learning rate that the training planned is not the one that the job and the events give."
    )
    assert "recipe" not in verdict.next


def test_a_ramp_continues_at_the_same_batch_and_a_second_one_begins_there(smaller: SyntheticRun) -> None:
    run = smaller.attempt(1, start=96, stop=116, ramp=RIGHT).died(0)
    assert run.attempt(2, start=116, ramp=RIGHT).report().lr_audit.max_abs_error == 0.0
    assert not run.attempt(2, start=116).report().lr_audit.as_planned, "the ramp is missing"
    plan = run.plan
    before = plan.lr_at(116) * RIGHT.at(116)
    again = make_plan(run.job, 4)
    ramp = ResizeRamp(start=116, stop=116 + 54, factor=before / again.lr_at(116))
    assert run.attempt(2, start=116, world_size=4, ramp=ramp).report().lr_audit.max_abs_error == 0.0


def test_a_small_rise_has_no_ramp(smaller: SyntheticRun, digits: Digits) -> None:
    job = digits(*SYNTHETIC_JOB, "scale.rewarmup={samples: 54, above: 2}")
    run = replace(smaller, job=job)
    assert run.attempt(1, start=96).report().lr_audit.max_abs_error == 0.0
    assert not run.attempt(1, start=96, ramp=RIGHT).report().lr_audit.as_planned


def test_a_loop_without_its_ramp_is_found(synthetic_run: SyntheticRun) -> None:
    plain = {name: lambda rank, seen: synthetic_run.plan.lr_at(seen) for name in ("lr", "lr_planned")}
    report = synthetic_run.attempt(0, ramp=ResizeRamp(start=0, stop=100, factor=0.5), **plain).report()
    assert ("lr_differs_from_plan", None) in codes(report)


# Read from the run's folder.


def test_the_jobs_of_a_run_are_read_from_its_folder(
    tmp_path: Path, synthetic_run: SyntheticRun, digits: Digits
) -> None:
    changed = digits(*SYNTHETIC_JOB, "reference.lr=0.02")
    run = synthetic_run.attempt(0, stop=96).resumed(64, changes=[("reference.lr", "0.01", "0.02")])
    run = run.attempt(12, start=64, job=changed)
    (tmp_path / "run").mkdir()
    folder = RunFolder(str(tmp_path / "run"))
    folder.write("job.yaml", dump_job(run.job))
    folder.write("job-12.yaml", dump_job(changed))
    folder.write("job-old.yaml", "not one of them")
    folder.write_json("plan.json", run.plan.to_dict())
    folder.write("status.json", json.dumps({"schema_version": 1, "run_id": "another", "state": "succeeded"}))
    writer = MetricsWriter(folder)
    writer.add(run.records)
    for event in run.events:
        writer.add_event(event)
    writer.close()
    report = read_report(folder)
    assert report.run_id == "run", "the folder's name: status.json may be of the one that it was copied from"
    assert [row.peak_lr for row in report.attempts] == [0.04, 0.08]
    assert (report.lr_audit.max_abs_error, report.totals.samples_seen) == (0.0, 200)
    folder.remove("job-12.yaml")
    assert not read_report(folder).lr_audit.as_planned
