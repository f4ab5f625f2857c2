"""Numbers of synthetic runs, each worked out by hand."""

import math
from dataclasses import replace

import pytest
from synthetic import SyntheticRun, as_json, codes

# Of report.json: may grow, and nothing in it is renamed.
FIELDS: dict[str, set[str]] = {
    "": {
        "schema_version", "run_id", "state", "plan", "totals", "workers", "budget", "cost", "scaling", "flops", "final",
        "attempts", "decisions", "lr_audit", "noise", "gain", "verdicts", "failure", "series",
    },
    "totals": {"samples_seen", "progress", "steps", "wall_s", "train_s", "samples_per_s", "redone_samples", "redone_s",
               "restart_s"},
    "workers": {
        "rank", "node", "pid", "steps", "samples", "loss_mean", "worker_samples_per_s", "step_time_s", "data_wait_s",
        "compute_s", "sync_wait_s", "update_s", "evaluation_s", "checkpoint_s", "peak_memory_gib", "memory_limit_gib",
        "device", "cpu_pct", "gpu_pct",
    },
    "budget": {
        "startup_s", "compute_s", "data_wait_s", "sync_wait_s", "update_s", "evaluation_s", "checkpoint_s", "redone_s",
        "restart_s", "other_s",
    },
    "scaling": {"world_size", "worker_samples_per_s", "one_worker_samples_per_s", "efficiency", "source"},
    "final": {"train_loss_mean", "eval"},
    "attempts": {
        "attempt", "world_size", "global_batch_size", "end_global_batch_size", "peak_lr", "start_samples",
        "end_samples", "ended_by", "cause", "per_worker_batch_size", "redone_samples", "redone_s", "restart_s",
        "elapsed_s",
    },
    "lr_audit": {"checked_steps", "max_abs_error", "as_planned"},
    "verdicts": {"code", "rank", "message", "evidence", "next"},
}  # fmt: skip


def test_every_documented_field_is_there(synthetic_run: SyntheticRun) -> None:
    values = as_json(replace(synthetic_run.attempt(0), state="failed").report())
    for section, names in FIELDS.items():
        part = values[section] if section else values
        rows = part if isinstance(part, list) else [part]
        assert rows
        assert all(row.keys() >= names for row in rows)
    assert values["workers"][0]["step_time_s"].keys() == {"median", "p95", "worst", "worst_step"}


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


def test_the_time_in_steps_is_the_mean_over_ranks_however_their_steps_begin(synthetic_run: SyntheticRun) -> None:
    """A rank that ends one step late begins the next one late: the slowest of each step would count that twice."""
    report = synthetic_run.attempt(0, step_time_s=lambda rank, seen: 0.25 if rank == seen // 16 % 2 else 0.125).report()
    assert report.totals.train_s == 14 * 0.1875
    assert report.totals.samples_per_s == 200 / (14 * 0.1875)
    assert report.scaling is not None
    assert report.scaling.worker_samples_per_s == 100 / (14 * 0.1875)


def test_quantiles_are_of_one_workers_steps(synthetic_run: SyntheticRun) -> None:
    slow = synthetic_run.attempt(0).altered(lambda record: record.rank == 1 and record.step == 3, step_time_s=10.0)
    first, second = slow.report().workers
    assert (first.step_time_s.median, first.step_time_s.p95) == (0.125, 0.125)
    assert second.step_time_s.median == 0.125
    assert 0.125 < second.step_time_s.p95 < 10.0
    assert (second.step_time_s.worst, second.step_time_s.worst_step) == (10.0, 3)


def test_what_of_a_workers_time_is_neither_data_nor_compute_nor_sync_is_update(synthetic_run: SyntheticRun) -> None:
    for worker in synthetic_run.attempt(0).report().workers:
        assert worker.update_s == 14 / 8 - worker.data_wait_s - worker.compute_s - worker.sync_wait_s == 14 / 64


def test_cpu_and_gpu_of_a_worker(synthetic_run: SyntheticRun) -> None:
    run = synthetic_run.attempt(0, cpu_s=lambda rank, seen: 0.25 if rank else None, gpu_pct=50.0)
    run = run.altered(lambda record: (record.rank, record.step) == (1, 0), gpu_pct=None)
    first, second = run.altered(lambda record: (record.rank, record.step) == (1, 1), gpu_pct=63.0).report().workers
    assert (first.cpu_pct, second.cpu_pct) == (None, 200.0)  # two threads; of a worker that does not say, nothing
    assert (first.gpu_pct, second.gpu_pct) == (50.0, 51.0)  # over the 13 records that have it
    assert synthetic_run.attempt(0).report().workers[0].gpu_pct is None


def test_cpu_time_is_over_the_steps_that_have_it(synthetic_run: SyntheticRun) -> None:
    run = synthetic_run.attempt(0, cpu_s=0.125).altered(lambda record: record.step == 3, cpu_s=None)
    assert run.report().workers[0].cpu_pct == 100.0


def test_a_workers_device_is_of_its_newest_attempt(synthetic_run: SyntheticRun) -> None:
    run = synthetic_run.attempt(0, stop=96).died(1)
    newest = {"node": "new", "pid": 7, "world_size": 2, "start_samples": 96, "device": "A", "memory_limit_gib": 80.0}
    run = run.attempt(1, start=96).worker_event("worker_started", 1, **newest)
    first, second = run.report().workers
    assert (second.node, second.device, second.memory_limit_gib) == ("new", "A", 80)
    assert (first.device, first.memory_limit_gib) == (None, None)


def test_evaluations_and_checkpoints_of_a_worker(synthetic_run: SyntheticRun) -> None:
    run = synthetic_run.attempt(0, evaluation_s=lambda rank, seen: 1.0 + rank if seen == 100 else 0.0)
    run = run.altered(lambda record: record.samples_seen == 100, checkpoint_s=0.25)
    run = run.worker_event("worker_ended", 1, evaluation_s=4.0, checkpoint_s=0.5)
    first, second = run.report().workers
    assert (first.evaluation_s, first.checkpoint_s) == (1.0, 0.25)
    assert (second.evaluation_s, second.checkpoint_s) == (6.0, 0.75)


def test_what_came_after_steps_that_were_done_again_is_not_counted(synthetic_run: SyntheticRun) -> None:
    run = synthetic_run.attempt(0, stop=96).worker_event("worker_ended", 0, evaluation_s=4.0, checkpoint_s=0.5)
    report = run.died(1).attempt(1, start=64).report()
    assert (report.workers[0].evaluation_s, report.workers[0].checkpoint_s) == (0.0, 0.0)


# Records that stand for several steps.


def test_records_of_several_steps_count_as_that_many(synthetic_run: SyntheticRun) -> None:
    whole = synthetic_run.attempt(0)
    every = whole.report()
    merged = thinned(whole, 2).report()
    assert merged.totals == every.totals
    assert [row.steps for row in merged.workers] == [14, 14]
    assert [row.step_time_s.median for row in merged.workers] == [0.125, 0.125]
    assert merged.workers[0].data_wait_s == every.workers[0].data_wait_s
    assert merged.budget == every.budget
    assert merged.scaling == every.scaling
    assert merged.lr_audit.max_abs_error == 0.0
    assert set(merged.series.step_time_s_max) == {0.125}
    assert set(merged.series.compute_s) == {0.0625}
    assert merged.series.samples_seen == (0, 32, 64, 96, 116, 148, 180)


def thinned(run: SyntheticRun, steps: int) -> SyntheticRun:
    """Merge each worker's records by so many, as a worker does that the collector does not keep up with."""
    merged = []
    for rank in sorted({record.rank for record in run.records}):
        mine = [record for record in run.records if record.rank == rank]
        for group in (mine[at : at + steps] for at in range(0, len(mine), steps)):
            names = ("samples", "step_time_s", "data_wait_s", "compute_s", "sync_wait_s", "steps")
            sums = {name: sum(getattr(record, name) for record in group) for name in names}
            merged.append(group[0]._replace(**sums))
    return replace(run, records=tuple(merged))


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
