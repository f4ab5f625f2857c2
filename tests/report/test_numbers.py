"""Numbers of synthetic runs, each worked out by hand."""

import json
import math
from dataclasses import replace
from typing import Any

import pytest
from synthetic import SyntheticRun

from scaler.report.model import Report
from scaler.report.numbers import SERIES_POINTS

# Of report.json: may grow, and nothing in it is renamed.
FIELDS: dict[str, set[str]] = {
    "": {"schema_version", "run_id", "state", "plan", "totals", "workers", "final", "attempts", "lr_audit", "verdicts"},
    "totals": {"samples_seen", "steps", "wall_s", "train_s", "samples_per_s"},
    "workers": {
        "rank", "node", "pid", "steps", "samples", "loss_mean", "worker_samples_per_s", "step_time_s", "data_wait_s",
        "sync_wait_s", "peak_memory_gib",
    },
    "final": {"train_loss_mean", "eval"},
    "attempts": {
        "attempt", "world_size", "global_batch_size", "peak_lr", "start_samples", "end_samples", "ended_by",
    },
    "lr_audit": {"checked_steps", "max_abs_error", "as_planned"},
    "verdicts": {"code", "rank", "message", "evidence", "next"},
}  # fmt: skip


def as_json(report: Report) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    return values


def codes(report: Report) -> list[tuple[str, int | None]]:
    return [(verdict.code, verdict.rank) for verdict in report.verdicts]


def test_every_documented_field_is_there(synthetic_run: SyntheticRun) -> None:
    values = as_json(replace(synthetic_run.attempt(0), state="failed").report())
    for section, names in FIELDS.items():
        part = values[section] if section else values
        rows = part if isinstance(part, list) else [part]
        assert rows
        assert all(row.keys() >= names for row in rows)
    assert values["workers"][0]["step_time_s"].keys() == {"median", "p95"}


def test_a_run_of_two_epochs_on_two_workers(synthetic_run: SyntheticRun) -> None:
    report = synthetic_run.attempt(0, loss=lambda rank, seen: 2.0 + rank).evaluated(200, accuracy=0.5).report()
    # An epoch of 100 samples: six steps of 16 and one of 4.
    assert (report.totals.samples_seen, report.totals.steps) == (200, 14)
    assert (report.totals.train_s, report.totals.wall_s) == (14 * 0.125, 10.5)
    assert report.totals.samples_per_s == 200 / (14 * 0.125)
    assert report.final.train_loss_mean == 2.5
    assert report.final.eval == {"accuracy": 0.5}
    first, second = report.workers
    assert (first.rank, first.node, first.pid) == (0, "node-0", 100)
    assert (first.steps, first.samples, first.loss_mean) == (14, 100, 2.0)
    assert (second.steps, second.samples, second.loss_mean) == (14, 100, 3.0)
    assert first.worker_samples_per_s == 100 / (14 * 0.125)
    assert (first.step_time_s.median, first.step_time_s.p95) == (0.125, 0.125)
    assert (first.data_wait_s, first.compute_s, first.sync_wait_s) == (14 / 64, 14 / 16, 14 / 32)
    assert first.peak_memory_gib == 0.5
    (attempt,) = report.attempts
    assert (attempt.world_size, attempt.global_batch_size, attempt.peak_lr) == (2, 16, 0.04)
    assert (attempt.start_samples, attempt.end_samples, attempt.ended_by) == (0, 200, "finished")
    assert (report.lr_audit.checked_steps, report.lr_audit.max_abs_error) == (14, 0.0)
    assert report.verdicts == ()


def test_the_order_in_which_records_arrived_does_not_matter(synthetic_run: SyntheticRun) -> None:
    run = synthetic_run.attempt(0, loss=lambda rank, seen: 1.0 + rank + seen / 100)
    shuffled = replace(run, records=tuple(sorted(run.records, key=lambda record: hash((record.step, record.rank, 7)))))
    assert shuffled.records != run.records
    assert shuffled.report() == run.report()


def test_losses_are_weighted_by_samples(synthetic_run: SyntheticRun) -> None:
    # Three workers share 24 samples a step, and an epoch's last step has 100 - 4 * 24 = 4: shares of 2, 1 and 1.
    run = synthetic_run.attempt(0, world_size=3, loss=lambda rank, seen: 4.0 if seen % 100 == 96 else 1.0)
    report = run.report()
    assert report.final.train_loss_mean == pytest.approx((96 * 1.0 + 4 * 4.0) / 100)
    assert report.workers[0].loss_mean == pytest.approx((32 * 1.0 + 2 * 4.0) / 34)
    assert report.workers[1].loss_mean == pytest.approx((32 * 1.0 + 1 * 4.0) / 33)


def test_the_loss_is_of_the_last_epoch(synthetic_run: SyntheticRun) -> None:
    run = synthetic_run.attempt(0, loss=lambda rank, seen: 1.0 if seen >= 100 else 9.0)
    assert run.report().final.train_loss_mean == 1.0
    # One step into the second epoch, that step is the last epoch.
    started = synthetic_run.attempt(0, stop=116, loss=lambda rank, seen: 1.0 if seen >= 100 else 9.0)
    assert started.report().final.train_loss_mean == 1.0
    # One step before its end, the first epoch still is.
    nearly = synthetic_run.attempt(0, stop=96, loss=lambda rank, seen: 9.0 if seen >= 16 else 3.0)
    assert nearly.report().final.train_loss_mean == 8.0


def test_the_slowest_worker_is_the_time_of_a_step(synthetic_run: SyntheticRun) -> None:
    report = synthetic_run.attempt(0, step_time_s=lambda rank, seen: 0.25 if rank == seen // 16 % 2 else 0.125).report()
    assert report.totals.train_s == 14 * 0.25


def test_quantiles_are_of_one_workers_steps(synthetic_run: SyntheticRun) -> None:
    slow = synthetic_run.attempt(0).altered(lambda record: record.rank == 1 and record.step == 3, step_time_s=10.0)
    first, second = slow.report().workers
    assert (first.step_time_s.median, first.step_time_s.p95) == (0.125, 0.125)
    assert second.step_time_s.median == 0.125
    assert 0.125 < second.step_time_s.p95 < 10.0


def test_memory_is_the_most_that_was_held(synthetic_run: SyntheticRun) -> None:
    run = synthetic_run.attempt(0).altered(lambda record: (record.rank, record.step) == (1, 5), peak_memory_gib=3.0)
    assert [worker.peak_memory_gib for worker in run.report().workers] == [0.5, 3.0]


def test_a_worker_without_a_share_has_no_loss(synthetic_run: SyntheticRun) -> None:
    # Two samples for three workers: the last one is idle in every step.
    job = synthetic_run.job.model_copy(
        update={"scale": synthetic_run.job.scale.model_copy(update={"global_batch_size": 2, "num_workers": 3})}
    )
    report = replace(synthetic_run, job=job).attempt(0, world_size=3).report()
    assert [worker.samples for worker in report.workers] == [100, 100, 0]
    assert [worker.loss_mean for worker in report.workers] == [2.0, 2.0, None]
    assert report.final.train_loss_mean == 2.0
    assert "loss_not_finite" not in [code for code, _ in codes(report)]


# Lost attempts.


def test_work_that_was_done_again_is_counted_once(synthetic_run: SyntheticRun) -> None:
    # The first life reached 96 and died; the second went on from the checkpoint at 64.
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


def test_an_attempt_that_died_before_any_checkpoint_leaves_nothing(synthetic_run: SyntheticRun) -> None:
    report = synthetic_run.attempt(0, stop=48).attempt(1, start=0).report()
    assert (report.totals.samples_seen, report.totals.steps) == (200, 14)
    assert [row.end_samples for row in report.attempts] == [0, 200]


def test_three_lives_that_each_went_back_are_counted_once(synthetic_run: SyntheticRun) -> None:
    run = synthetic_run.attempt(0, stop=96).attempt(1, start=64, stop=132).attempt(2, start=100)
    report = run.report()
    assert report.totals.samples_seen == 200
    assert [row.end_samples for row in report.attempts] == [64, 100, 200]


def test_a_life_that_went_back_further_than_the_one_before_is_counted_once(synthetic_run: SyntheticRun) -> None:
    # The second life died at once; the third found only an older checkpoint.
    run = synthetic_run.attempt(0, stop=96).attempt(1, start=64, stop=80).attempt(2, start=32)
    report = run.report()
    assert report.totals.samples_seen == 200
    assert report.lr_audit.max_abs_error == 0.0
    assert list(report.series.samples_seen) == sorted(set(report.series.samples_seen))


def test_each_life_is_audited_against_its_own_plan(synthetic_run: SyntheticRun) -> None:
    report = synthetic_run.attempt(0, stop=96).attempt(1, start=96, world_size=1).report()
    assert [row.peak_lr for row in report.attempts] == [0.04, 0.02]
    assert report.lr_audit.max_abs_error == 0.0
    stale = synthetic_run.attempt(0, stop=96).attempt(1, start=96, world_size=1, lr=lambda rank, seen: 0.04)
    assert stale.report().lr_audit.max_abs_error == pytest.approx(0.04, rel=0.2)
    assert ("lr_differs_from_plan", None) in codes(stale.report())


def test_a_rank_that_only_a_lost_life_had_did_record(synthetic_run: SyntheticRun) -> None:
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
def test_what_ended_the_last_life_is_read_from_the_runs_state(
    synthetic_run: SyntheticRun, state: str, ended_by: str
) -> None:
    report = replace(synthetic_run.attempt(0, stop=48), state=state).report()
    assert (report.state, report.attempts[-1].ended_by, report.attempts[-1].end_samples) == (state, ended_by, 48)


# The audit of the rate.


@pytest.mark.parametrize("where", [(0, 0), (1, 6), (0, 13)])
def test_the_audit_finds_one_altered_record(synthetic_run: SyntheticRun, where: tuple[int, int]) -> None:
    honest = synthetic_run.attempt(0)
    record = next(record for record in honest.records if (record.rank, record.step) == where)
    run = honest.altered(lambda r: (r.rank, r.step) == where, lr=record.lr + 1e-6)
    assert run.report().lr_audit.max_abs_error == pytest.approx(1e-6)
    assert codes(run.report()) == [("lr_differs_from_plan", None)]


def test_the_audit_bears_the_last_digit_of_a_float(synthetic_run: SyntheticRun) -> None:
    run = synthetic_run.attempt(0)
    off = tuple(record._replace(lr=math.nextafter(record.lr, 1.0)) for record in run.records)
    report = replace(run, records=off).report()
    assert report.lr_audit.max_abs_error is not None
    assert 0.0 < report.lr_audit.max_abs_error < 1e-16
    assert report.lr_audit.as_planned
    assert report.verdicts == ()


@pytest.mark.parametrize(
    ("error", "as_planned"), [(0.0, True), (1e-17, True), (3.8e-11, True), (4.3e-11, False), (1e-3, False)]
)  # the bound is 1e-9 of the peak of 0.04
def test_a_rate_is_as_planned_but_for_its_last_digits(
    synthetic_run: SyntheticRun, error: float, as_planned: bool
) -> None:
    honest = synthetic_run.attempt(0)
    run = honest.altered(lambda record: record.step == 5, lr=honest.plan.lr_at(80) + error)
    report = run.report()
    assert report.lr_audit.as_planned is as_planned
    assert (codes(report) == []) is as_planned
    assert (report.all_clear is not None) is as_planned


def test_a_rate_that_is_no_number_differs(synthetic_run: SyntheticRun) -> None:
    run = synthetic_run.attempt(0).altered(lambda record: record.step == 5, lr=float("nan"))
    report = run.report()
    as_json(report)
    assert (report.lr_audit.max_abs_error, report.lr_audit.as_planned) == (None, False)
    assert codes(report) == [("lr_differs_from_plan", None)]


# Runs with nothing, or with what is no number.


def test_a_run_without_anything(synthetic_run: SyntheticRun) -> None:
    report = replace(synthetic_run, state="starting").report()
    assert (report.totals.samples_seen, report.totals.steps, report.totals.samples_per_s) == (0, 0, None)
    assert (report.workers, report.attempts) == ((), ())
    assert (report.final.train_loss_mean, report.final.eval) == (None, {})
    assert (report.lr_audit.checked_steps, report.lr_audit.max_abs_error) == (0, None)
    assert report.lr_audit.as_planned is None
    assert report.series.samples_seen == ()
    assert codes(report) == [("not_finished", None)]
    as_json(report)


def test_workers_that_started_and_never_stepped(synthetic_run: SyntheticRun) -> None:
    report = replace(synthetic_run.attempt(0, stop=0), state="failed", failure="it broke").report()
    assert [(worker.steps, worker.samples, worker.loss_mean) for worker in report.workers] == [(0, 0, None)] * 2
    assert report.failure == "it broke"
    assert codes(report) == [("not_finished", None), ("worker_without_records", 0), ("worker_without_records", 1)]
    as_json(report)


def test_a_rank_whose_records_are_missing(synthetic_run: SyntheticRun) -> None:
    run = synthetic_run.attempt(0)
    report = replace(run, records=tuple(record for record in run.records if record.rank == 0)).report()
    assert codes(report) == [("worker_without_records", 1)]
    assert report.workers[1].steps == 0


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_no_number_is_null_and_a_verdict(synthetic_run: SyntheticRun, loss: float) -> None:
    run = synthetic_run.attempt(0).altered(lambda record: (record.rank, record.step) == (1, 9), loss=loss)
    report = run.report()
    values = as_json(report)
    assert values["final"]["train_loss_mean"] is None
    assert [worker["loss_mean"] for worker in values["workers"]] == [2.0, None]
    assert values["series"]["loss_mean"][9] is None
    assert codes(report) == [("loss_not_finite", 1)]


def test_a_loss_that_was_no_number_in_an_earlier_epoch_is_no_verdict(synthetic_run: SyntheticRun) -> None:
    run = synthetic_run.attempt(0).altered(lambda record: (record.rank, record.step) == (1, 6), loss=math.nan)
    assert run.report().verdicts == ()


# Curves.


def test_the_curve_of_a_short_run_has_every_step(synthetic_run: SyntheticRun) -> None:
    run = synthetic_run.attempt(0, loss=lambda rank, seen: 1.0 + rank).evaluated(100, acc=0.1).evaluated(200, acc=None)
    series = run.report().series
    assert series.samples_seen == (0, 16, 32, 48, 64, 80, 96, 100, 116, 132, 148, 164, 180, 196)
    assert set(series.loss_mean) == {1.5}
    assert set(series.loss_min) == {1.0}
    assert set(series.loss_max) == {2.0}
    assert series.lr == series.lr_planned
    assert series.lr[0] == pytest.approx(0.01)
    assert (series.eval_samples_seen, series.evals) == ((100, 200), {"acc": (0.1, None)})


def test_the_curve_of_a_long_run_is_thinned_and_keeps_extremes(synthetic_run: SyntheticRun) -> None:
    job = synthetic_run.job.model_copy(update={"train": synthetic_run.job.train.model_copy(update={"epochs": 180.0})})
    run = replace(synthetic_run, job=job).attempt(0)
    run = run.altered(lambda r: (r.rank, r.step) == (1, 777), loss=50.0)
    run = run.altered(lambda r: (r.rank, r.step) == (0, 778), loss=-50.0)
    report = replace(run, plan=run.plan).report()
    assert report.totals.steps == 180 * 7
    assert len(report.series.samples_seen) == SERIES_POINTS
    assert max(value for value in report.series.loss_max if value is not None) == 50.0
    assert min(value for value in report.series.loss_min if value is not None) == -50.0
