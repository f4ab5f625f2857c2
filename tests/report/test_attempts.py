"""Attempts of a run: work done again is counted once; decisions, and which of them still hold."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
from made_events import make_event
from synthetic import SYNTHETIC_JOB, SyntheticRun, as_json, codes

from scaler.job import Job
from scaler.metrics.events import GroupEnded
from scaler.plan import make_plan
from scaler.report.run.format import further_facts, reached_text

LRS = ("lr", "lr_planned")


def test_work_that_was_done_again_is_counted_once(synthetic_run: SyntheticRun) -> None:
    # The first attempt reached 96 and died; the second continued from the checkpoint at 64.
    run = synthetic_run.attempt(0, stop=96, loss=9.0).attempt(1, start=64, loss=1.0)
    report = run.report()
    assert (report.totals.samples_seen, report.totals.steps) == (200, 14)
    assert [worker.samples for worker in report.workers] == [100, 100]
    assert [(row.start_samples, row.end_samples, row.ended_by) for row in report.attempts] == [
        (0, 64, "lost"),
        (64, 200, "finished"),
    ]
    assert report.lr_audit.max_abs_error == 0.0
    assert list(report.series.samples_seen) == sorted(set(report.series.samples_seen))
    assert report.series.loss_mean[:5] == (9.0, 9.0, 9.0, 9.0, 1.0)
    assert ("restarts", None) in codes(report)


def test_a_sharded_run_has_its_mesh_in_each_attempt_and_in_the_facts(
    synthetic_run: SyntheticRun, digits: Callable[..., Job]
) -> None:
    sharded = digits(*SYNTHETIC_JOB, "train.strategy=fsdp")
    run = replace(synthetic_run, job=sharded, plan=make_plan(sharded)).attempt(0, stop=96).died(0).attempt(1, start=64)
    report = run.report()
    mesh = {"replicate": 1, "shard": 2, "tensor": 1, "context": 1, "pipeline": 1, "expert": 1}
    assert [(row.data_parallel_size, row.mesh) for row in report.attempts] == [(2, mesh), (2, mesh)]
    assert ("mesh", "replicate 1, shard 2: the batch is divided among 2 workers") in further_facts(report)
    copies = synthetic_run.attempt(0).report()
    assert [row.mesh["replicate"] for row in copies.attempts] == [2]
    assert "mesh" not in dict(further_facts(copies))


def test_an_attempt_of_which_nothing_was_kept_ends_where_it_began(synthetic_run: SyntheticRun) -> None:
    run = synthetic_run.attempt(0, stop=96).died(0).attempt(1, start=64, stop=80).died(0).attempt(2, start=32)
    report = run.report()
    assert [(row.start_samples, row.end_samples, row.is_undone) for row in report.attempts] == [
        (0, 32, False),
        (64, 64, True),
        (32, 200, False),
    ]
    assert [reached_text(row) for row in report.attempts] == ["32", "64 (16 lost)", "200"]
    assert "attempt 1 ended at 80 samples" in report.verdicts[0].evidence


def test_an_attempt_that_died_before_any_checkpoint_leaves_nothing(synthetic_run: SyntheticRun) -> None:
    report = synthetic_run.attempt(0, stop=48).attempt(1, start=0).report()
    assert (report.totals.samples_seen, report.totals.steps) == (200, 14)
    assert [row.end_samples for row in report.attempts] == [0, 200]


def test_three_attempts_that_each_went_back_are_counted_once(synthetic_run: SyntheticRun) -> None:
    run = synthetic_run.attempt(0, stop=96).attempt(1, start=64, stop=132).attempt(2, start=100)
    report = run.report()
    assert report.totals.samples_seen == 200
    assert [row.end_samples for row in report.attempts] == [64, 100, 200]


def test_an_attempt_that_went_back_further_than_the_one_before_is_counted_once(synthetic_run: SyntheticRun) -> None:
    # The second attempt died at once; the third found only an older checkpoint.
    run = synthetic_run.attempt(0, stop=96).attempt(1, start=64, stop=80).attempt(2, start=32)
    report = run.report()
    assert report.totals.samples_seen == 200
    assert report.lr_audit.max_abs_error == 0.0
    assert list(report.series.samples_seen) == sorted(set(report.series.samples_seen))


def test_an_attempt_that_died_before_it_trained_has_a_row_too(synthetic_run: SyntheticRun) -> None:
    run = synthetic_run.attempt(0, stop=96)
    common = {"attempt": 1, "world_size": 2, "start_samples": 64}
    started = [make_event("worker_started", time=run.clock, rank=rank, **common) for rank in (0, 1)]
    ended = GroupEnded(time=run.clock + 2, attempt=1, cause="lost", ranks=[1], message="was killed")
    run = replace(run, events=(*run.events, *started, ended), clock=run.clock + 5).attempt(2, start=64)
    report = run.report()
    rows = [(row.attempt, row.start_samples, row.end_samples, row.ended_by) for row in report.attempts]
    assert rows == [(0, 0, 64, "lost"), (1, 64, 64, "lost"), (2, 64, 200, "finished")]
    short = report.attempts[1]
    assert (short.world_size, short.redone_samples, short.restart_s) == (2, 0, 3.0)
    assert short.global_batch_size == report.attempts[0].global_batch_size
    assert short.cause == "rank 1 died (was killed)"
    assert report.totals.samples_seen == 200
    assert report.lr_audit.max_abs_error == 0.0


def test_a_rank_that_only_a_lost_attempt_had_did_record(synthetic_run: SyntheticRun) -> None:
    report = synthetic_run.attempt(0, stop=48).attempt(1, start=0, world_size=1).report()
    assert ("worker_without_records", 1) not in codes(report)


def test_a_last_step_that_only_an_idle_worker_recorded_is_not_counted(synthetic_run: SyntheticRun) -> None:
    run = synthetic_run.attempt(0, stop=48)
    idle = run.records[-1]._replace(step=3, samples_seen=48, samples=0, loss=None)
    report = replace(run, records=(*run.records, idle), state="failed").report()
    assert report.totals.samples_seen == 48
    assert report.final.train_loss_mean == 2.0
    assert report.series.loss_mean[:3] == (2.0, 2.0, 2.0)
    as_json(report)


def test_an_evaluation_of_lost_work_is_not_shown(synthetic_run: SyntheticRun) -> None:
    run = synthetic_run.attempt(0, stop=96).evaluated(80, loss=9.0).attempt(1, start=64).evaluated(200, loss=1.0)
    report = run.report()
    assert report.series.eval_samples_seen == (200,)
    assert report.final.eval == {"loss": 1.0}


@pytest.mark.parametrize(
    ("state", "ended_by"),
    [("running", "running"), ("failed", "failed"), ("stopped", "stopped"), ("succeeded", "finished")],
)
def test_what_ended_the_last_attempt_is_read_from_the_runs_state(
    synthetic_run: SyntheticRun, state: str, ended_by: str
) -> None:
    report = replace(synthetic_run.attempt(0, stop=48), state=state).report()
    assert (report.state, report.attempts[-1].ended_by, report.attempts[-1].end_samples) == (state, ended_by, 48)


def test_a_batch_that_is_planned_to_grow(synthetic_run: SyntheticRun, digits: Callable[..., Job]) -> None:
    job = digits(
        *SYNTHETIC_JOB, "scale.batch_schedule={name: doubling, every: {samples: 64}, max_global_batch_size: 64}"
    )
    run = replace(synthetic_run, job=job, plan=make_plan(job))
    report = run.attempt(0).report()
    (attempt,) = report.attempts
    assert (attempt.global_batch_size, attempt.end_global_batch_size, attempt.peak_lr) == (16, 64, 0.04)
    assert report.is_uneven
    # 64 samples of 16; 36 to the end of the epoch in 32 and 4; 32 in 32; then 64 and the last 4.
    assert report.series.samples_seen == (0, 16, 32, 48, 64, 96, 100, 132, 196)
    assert report.series.global_batch_size == (16, 16, 16, 16, 32, 32, 32, 64, 64)
    assert report.lr_audit.max_abs_error == 0.0
    assert report.decisions == ()
    assert report.verdicts == ()


def test_a_batch_that_grew_with_the_noise(synthetic_run: SyntheticRun) -> None:
    report = synthetic_run.attempt(0, grown={100: 32, 132: 64}).report()
    (attempt,) = report.attempts
    assert (attempt.global_batch_size, attempt.end_global_batch_size) == (16, 64)
    assert report.series.global_batch_size[-3:] == (32, 64, 64)
    assert [(row.samples_seen, row.kind, row.undone) for row in report.decisions] == [
        (100, "batch_grown", False),
        (132, "batch_grown", False),
    ]
    assert report.decisions[0].message == "The global batch grew to 32 samples, the peak learning rate to 0.08."


def test_a_batch_that_grew_in_work_that_was_lost(synthetic_run: SyntheticRun) -> None:
    run = synthetic_run.attempt(0, stop=132, grown={64: 32, 132: 64}).attempt(1, start=100, grown={64: 32, 164: 64})
    report = run.report()
    assert [(row.attempt, row.samples_seen, row.undone) for row in report.decisions] == [
        (0, 64, False),
        (0, 132, True),
        (1, 164, False),
    ]
    assert [(row.global_batch_size, row.end_global_batch_size) for row in report.attempts] == [(16, 32), (32, 64)]
    assert report.series.global_batch_size == (16, 16, 16, 16, 32, 32, 32, 32, 64)


def test_a_batch_that_grew_at_the_checkpoint_is_in_it(synthetic_run: SyntheticRun) -> None:
    report = synthetic_run.attempt(0, stop=132, grown={100: 32}).attempt(1, start=100, grown={100: 32}).report()
    assert [(row.samples_seen, row.undone) for row in report.decisions] == [(100, False)]
    assert [(row.global_batch_size, row.end_global_batch_size) for row in report.attempts] == [(16, 16), (32, 32)]


def test_a_training_that_diverged_and_went_back(synthetic_run: SyntheticRun) -> None:
    run = synthetic_run.attempt(0, stop=96, loss=lambda rank, seen: math.nan if seen == 80 else 2.0)
    run = run.event("diverged", 96, reason="loss is nan", goes_back=True)
    halved = {name: lambda rank, seen: run.plan.lr_at(seen) / 2 for name in LRS}
    report = run.attempt(1, start=64, **halved).report()
    assert [(row.start_samples, row.end_samples, row.ended_by) for row in report.attempts] == [
        (0, 64, "diverged"),
        (64, 200, "finished"),
    ]
    (decision,) = report.decisions
    assert decision.message == "The training diverged and returned to the checkpoint at 64 samples: loss is nan."
    assert not decision.undone
    assert ("diverged", None) in codes(report)
    assert ("restarts", None) not in codes(report)
    assert report.all_clear is None
    assert (report.totals.samples_seen, report.final.train_loss_mean) == (200, 2.0)


def test_a_training_that_diverged_and_was_stopped(synthetic_run: SyntheticRun) -> None:
    run = synthetic_run.attempt(0, stop=96, loss=lambda rank, seen: math.nan if seen == 80 else 2.0)
    run = run.event("diverged", 96, reason="loss is nan", goes_back=False)
    report = replace(run, state="failed").report()
    assert report.attempts[-1].ended_by == "failed"
    assert codes(report) == [("not_finished", None), ("diverged", None)]
    assert report.decisions[0].message == "The training diverged and was stopped: loss is nan."
    as_json(report)


def test_a_worker_that_died_after_a_return_is_a_restart(synthetic_run: SyntheticRun) -> None:
    run = synthetic_run.attempt(0, stop=96).event("diverged", 96, reason="loss is nan", goes_back=True)
    report = run.attempt(1, start=64, stop=132).attempt(2, start=100).report()
    assert [row.ended_by for row in report.attempts] == ["diverged", "lost", "finished"]
    assert {"diverged", "restarts"} <= {code for code, _ in codes(report)}


@pytest.mark.parametrize(("at", "undone"), [(48, False), (64, False), (80, True)])
def test_an_lr_that_was_lowered_is_in_the_checkpoint_of_its_place(
    synthetic_run: SyntheticRun, at: int, undone: bool
) -> None:
    run = synthetic_run.attempt(0, stop=96).event("lr_lowered", at, by="plateau", factor=0.25, reason="loss 2 is bad")
    (decision,) = run.attempt(1, start=64).report().decisions
    assert decision.undone is undone
    assert decision.message == "The learning rate was lowered to 0.25 of the planned one: loss 2 is bad."


def test_a_run_in_which_an_lr_was_lowered_is_all_clear(synthetic_run: SyntheticRun) -> None:
    run = synthetic_run.attempt(0, factors={100: 0.5}).event(
        "lr_lowered", 100, by="plateau", factor=0.5, reason="loss 2 is no better"
    )
    assert run.report().all_clear is not None
