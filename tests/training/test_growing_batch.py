"""A batch that changes at planned points, in whole runs."""

from math import log
from pathlib import Path

import pytest
from small_runs import (
    SAMPLES,
    by_step,
    checkpoint,
    make_job,
    new_folder,
    plan_of,
    records_of,
    run,
)

from scaler.job import Job

CONSTANT = {"name": "constant", "warmup": {"epochs": 0}}
DOUBLING = {"name": "doubling", "every": {"samples": 200}, "max_global_batch_size": 200}  # also within epochs


def doubling(workers: int, **others: object) -> Job:
    return make_job(num_workers=workers, per_worker_batch_size=24 // workers, batch_schedule=DOUBLING, **others)


def test_a_doubling_batch_gives_the_same_weights_on_one_worker_and_on_two(tmp_path: Path) -> None:
    one, two = (run(tmp_path, workers, doubling(workers), double=True) for workers in (1, 2))
    assert two[0]["weights"] == two[1]["weights"]
    assert two[0]["weights"] == pytest.approx(one[0]["weights"], abs=1e-12)
    sizes = [[sum(record.samples for record in step) for step in by_step(way)] for way in (one, two)]
    assert sizes[0] == sizes[1]
    # The batch changes at the first step that begins at or after 200, 400 and 600: at 216, 442 and 692.
    assert sizes[0] == [24] * 9 + [34] + [48] * 4 + [58] + [96] * 2 + [58]
    assert max(two[0]["sizes"] + two[1]["sizes"]) <= 12, "no micro-batch is larger than at the start"


def test_each_sample_is_used_exactly_once_an_epoch_across_changes(tmp_path: Path) -> None:
    ranks = run(tmp_path, 2, doubling(2), counted=True)
    per_epoch: list[list[int]] = [[], [], []]
    for rank in ranks:
        position = 0
        for record in records_of([rank]):
            per_epoch[record.samples_seen // SAMPLES] += rank["asked"][position : position + record.samples]
            position += record.samples
        assert position == len(rank["asked"]), "nothing was fetched that was not counted"
    for epoch in per_epoch:
        assert sorted(epoch) == list(range(SAMPLES))


def test_the_lr_follows_the_batch_by_the_rule_and_the_schedule_by_the_samples(tmp_path: Path) -> None:
    job = doubling(2)
    plan = plan_of(job, 2)
    assert [phase.global_batch_size for phase in plan.phases] == [24, 48, 96, 192]
    for step in by_step(run(tmp_path, 2, job)):
        record = step[0]
        batch = plan.phase_at(record.samples_seen).global_batch_size
        assert sum(r.samples for r in step) == min(batch, SAMPLES - record.samples_seen % SAMPLES)
        expected = 0.05 * sum(r.samples for r in step) / 16 * plan.schedule.factor(record.samples_seen)
        assert record.lr == record.lr_planned == pytest.approx(expected, rel=1e-12)


INSTEAD = {"name": "instead_of_decay", "max_global_batch_size": 96, "growth": 1.5}


def test_instead_of_decay_gives_the_same_weights_on_one_worker_and_on_two(tmp_path: Path) -> None:
    jobs = [make_job(num_workers=n, per_worker_batch_size=24 // n, batch_schedule=INSTEAD) for n in (1, 2)]
    plan = plan_of(jobs[0])
    assert len(plan.phases) >= 4
    one, two = (run(tmp_path, n, job, double=True) for n, job in enumerate(jobs, start=1))
    assert two[0]["weights"] == two[1]["weights"]
    assert two[0]["weights"] == pytest.approx(one[0]["weights"], abs=1e-12)
    for way in (one, two):
        for step in by_step(way):
            record, size = step[0], sum(part.samples for part in step)
            assert size == plan.step_size(record.samples_seen)
            expected = 0.05 * size / 16 * plan.schedule.factor(record.samples_seen)
            assert record.lr == record.lr_planned == pytest.approx(expected, rel=1e-12)
    assert len(by_step(one)) == plan.total_steps < (plan.steps_at_first_batch or 0)


def test_instead_of_decay_resumes_with_another_number_of_workers(tmp_path: Path) -> None:
    """The batch is a function of the samples and the first batch, which here is the same with one worker and two."""

    def job(workers: int) -> Job:
        return make_job(num_workers=workers, global_batch_size=24, per_worker_batch_size=24, batch_schedule=INSTEAD)

    folder = new_folder(tmp_path)
    whole = run(tmp_path, 1, job(1), double=True)
    before = run(tmp_path, 1, job(1), folder=folder, stop_after=len(whole[0]["records"]) - 8, double=True)
    after = run(tmp_path, 2, job(2), folder=folder, double=True)
    sizes = [[sum(record.samples for record in step) for step in by_step(way)] for way in (whole, before, after)]
    assert sizes[0] == sizes[1] + sizes[2]
    assert len(set(sizes[2])) > 1, "the batch grows after the resume, too"
    assert after[0]["weights"] == pytest.approx(whole[0]["weights"], abs=1e-12)


def test_instead_of_decay_an_elastic_run_follows_the_plan_of_its_present_size(tmp_path: Path) -> None:
    """Two workers have twice the first batch, so twice the batch at every place, up to the largest."""
    job = make_job(num_workers={"min": 1, "max": 2}, per_worker_batch_size=12, batch_schedule=INSTEAD, rewarmup=None)
    folder = new_folder(tmp_path)
    before = run(tmp_path, 1, job, folder=folder, stop_after=35)
    after = run(tmp_path, 2, job, folder=folder)
    for workers, ranks in ((1, before), (2, after)):
        plan = plan_of(job, workers)
        for step in by_step(ranks):
            seen = step[0].samples_seen
            assert sum(record.samples for record in step) == plan.step_size(seen)
            assert step[0].lr == step[0].lr_planned == plan.lr_at(seen)
    starts = [record.samples_seen for record in records_of(after)]
    assert min(starts) == sum(record.samples for record in records_of(before))
    assert len({plan_of(job, 2).phase_at(seen).global_batch_size for seen in starts}) > 1


def test_adam_s_constants_and_its_count_of_steps_change_with_the_batch(tmp_path: Path) -> None:
    """``beta_new ** new = beta_old ** old``: the averages have forgotten the same share of their start."""
    points = {"name": "points", "points": [{"at": {"epochs": 1}, "factor": 4}]}
    job = make_job(
        per_worker_batch_size=16,
        rule="adam_sde",
        reference={"lr": 0.002, "optimizer": {"name": "adam", "eps": 1e-7}},
        batch_schedule=points,
        schedule=CONSTANT,
        checkpoint={"every": {"samples": 250}, "keep": 9},
        train={"epochs": 2},
    )
    folder = new_folder(tmp_path)
    (rank,) = run(tmp_path, 1, job, folder=folder)
    saved = checkpoint(folder)["optimizer"]
    (group,) = saved["param_groups"]
    assert group["betas"] == (pytest.approx(0.6), pytest.approx(0.996))
    assert group["eps"] == pytest.approx(5e-8)
    assert group["lr"] == pytest.approx(0.002 * (58 / 16) ** 0.5), "of the last step, which has 58 samples"
    assert len(rank["records"]) == 16 + 4
    before, after = 250 / 16, 250 / 64  # in steps of whole batches
    rescaled = before * log(0.999) / log(0.996)
    for state in saved["state"].values():
        assert float(state["step"]) == pytest.approx(rescaled + after, rel=1e-4)
        assert 0.996 ** (float(state["step"]) - after) == pytest.approx(0.999**before, rel=1e-6)


def test_a_change_to_the_same_batch_changes_no_bit(tmp_path: Path) -> None:
    points = {"name": "points", "points": [{"at": {"samples": 100}, "factor": 1}]}
    plain, changed = (
        run(tmp_path, 1, make_job(per_worker_batch_size=32, batch_schedule=schedule))[0]["weights"]
        for schedule in (None, points)
    )
    assert changed == plain


def test_a_batch_that_shrinks_again_is_that_of_the_reference_to_the_last_bit(tmp_path: Path) -> None:
    points = {
        "name": "points",
        "points": [{"at": {"samples": 64}, "factor": 4}, {"at": {"epochs": 1}, "factor": 1}],
    }
    job = make_job(per_worker_batch_size=16, batch_schedule=points, schedule=CONSTANT, train={"epochs": 2})
    (rank,) = run(tmp_path, 1, job)
    lrs = {record.samples_seen // SAMPLES: record.lr for record in records_of([rank])}
    assert lrs[1] == 0.05 * 10 / 16, "the last step has 10 samples"
    assert {record.lr for record in records_of([rank]) if 250 <= record.samples_seen < 490} == {0.05}
    assert max(record.lr for record in records_of([rank])) == pytest.approx(0.2)
