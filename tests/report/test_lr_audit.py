"""The audit of the learning rate: what it finds, and what it tolerates."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
from synthetic import SYNTHETIC_JOB, SyntheticRun, as_json, codes

from scaler.job import Job
from scaler.plan import make_plan

LRS = ("lr", "lr_planned")


@pytest.mark.parametrize("where", [(0, 0), (1, 6), (0, 13)])
def test_the_audit_finds_one_altered_record(synthetic_run: SyntheticRun, where: tuple[int, int]) -> None:
    honest = synthetic_run.attempt(0)
    record = next(record for record in honest.records if (record.rank, record.step) == where)
    run = honest.altered(lambda r: (r.rank, r.step) == where, lr=record.lr + 1e-6)
    assert run.report().lr_audit.max_abs_error == pytest.approx(1e-6)
    assert codes(run.report()) == [("lr_differs_from_plan", None)]


def test_the_audit_tolerates_the_last_digit_of_a_float(synthetic_run: SyntheticRun) -> None:
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
def test_an_lr_is_as_planned_but_for_its_last_digits(
    synthetic_run: SyntheticRun, error: float, as_planned: bool
) -> None:
    honest = synthetic_run.attempt(0)
    run = honest.altered(lambda record: record.step == 5, lr=honest.plan.lr_at(80) + error)
    report = run.report()
    assert report.lr_audit.as_planned is as_planned
    assert (codes(report) == []) is as_planned
    assert (report.all_clear is not None) is as_planned


def test_an_lr_that_is_no_number_differs(synthetic_run: SyntheticRun) -> None:
    run = synthetic_run.attempt(0).altered(lambda record: record.step == 5, lr=float("nan"))
    report = run.report()
    as_json(report)
    assert (report.lr_audit.max_abs_error, report.lr_audit.as_planned) == (None, False)
    assert codes(report) == [("lr_differs_from_plan", None)]


def test_what_the_controllers_made_of_the_plan_is_planned(
    synthetic_run: SyntheticRun, digits: Callable[..., Job]
) -> None:
    job = digits(*SYNTHETIC_JOB, "schedule.plateau={metric: loss}")
    run = replace(synthetic_run, job=job, plan=make_plan(job))
    assert run.plan.reacts == ("plateau",)
    halved = {name: lambda rank, seen: run.plan.lr_at(seen) * (0.5 if seen >= 100 else 1.0) for name in LRS}
    cut = {"by": "plateau", "reason": "loss 2 is no better"}
    report = run.attempt(0, **halved).event("lr_lowered", 100, factor=0.5, **cut).report()
    assert (report.lr_audit.max_abs_error, report.lr_audit.as_planned) == (0.0, True)
    assert report.series.lr_planned[-1] == report.series.lr[-1] == run.plan.lr_at(196) * 0.5
    # One that the optimizer did not follow is still found.
    stubborn = run.attempt(0, lr_planned=halved["lr_planned"]).event("lr_lowered", 100, factor=0.5, **cut).report()
    assert stubborn.lr_audit.max_abs_error == pytest.approx(run.plan.lr_at(100) * 0.5)
    assert codes(stubborn) == [("lr_differs_from_plan", None)]
    # So is a loop that lowered its learning rate by another factor than its event has, or without an event.
    for wrong in (
        run.attempt(0, **halved).event("lr_lowered", 100, factor=0.25, **cut),
        run.attempt(0, **halved),
    ):
        assert codes(wrong.report()) == [("lr_differs_from_plan", None)]


@pytest.mark.parametrize(("factor", "as_planned"), [(0.5, True), (0.25, False)])
def test_a_plateau_is_made_again_from_its_evaluations(
    synthetic_run: SyntheticRun, digits: Callable[..., Job], factor: float, as_planned: bool
) -> None:
    job = digits(*SYNTHETIC_JOB, "schedule.plateau={metric: loss, factor: 0.5, patience: 0}")
    run = replace(synthetic_run, job=job, plan=make_plan(job)).attempt(0, factors={100: factor})
    run = run.evaluated(48, loss=1.0).evaluated(100, loss=2.0)
    run = run.event("lr_lowered", 100, by="plateau", factor=factor, reason="loss 2 is no better")
    assert run.report().lr_audit.as_planned is as_planned, "though event and records agree"


@pytest.mark.parametrize(("factor", "as_planned"), [(0.5, True), (0.4, False), (1.0, False)])
def test_what_going_back_makes_of_the_lr_is_the_jobs(
    synthetic_run: SyntheticRun, factor: float, as_planned: bool
) -> None:
    run = synthetic_run.attempt(0, stop=96).event("diverged", 96, reason="loss is nan", goes_back=True)
    assert run.attempt(1, start=64, factors={0: factor}).report().lr_audit.as_planned is as_planned
    # New workers know of it from a checkpoint of the attempt that returned, not from the one that it returned to.
    again = run.attempt(1, start=64, stop=96, factors={0: 0.5}).died(0)
    assert again.attempt(2, start=80, factors={0: factor}).report().lr_audit.as_planned is as_planned
    assert again.attempt(2, start=64).report().lr_audit.as_planned


def test_a_batch_that_grew_has_the_lr_of_its_size(synthetic_run: SyntheticRun) -> None:
    run = synthetic_run.attempt(0, stop=132, grown={64: 32}).died(0).attempt(1, start=100, grown={64: 32, 164: 64})
    assert run.report().lr_audit.max_abs_error == 0.0
    silent = tuple(event for event in run.events if event.kind != "batch_grown")
    assert not replace(run, events=silent).report().lr_audit.as_planned


def test_an_lr_that_the_loop_planned_and_the_plan_does_not_know_differs(synthetic_run: SyntheticRun) -> None:
    assert synthetic_run.plan.reacts == ()
    both = {name: lambda rank, seen: synthetic_run.plan.lr_at(seen) + (1e-6 if seen == 96 else 0.0) for name in LRS}
    report = synthetic_run.attempt(0, **both).report()
    assert report.lr_audit.max_abs_error == pytest.approx(1e-6)
    assert codes(report) == [("lr_differs_from_plan", None)]


def test_one_worker_that_planned_another_lr_differs(synthetic_run: SyntheticRun) -> None:
    run = synthetic_run.attempt(0)
    other = run.altered(lambda record: (record.rank, record.step) == (1, 5), lr=0.5, lr_planned=0.5)
    assert codes(other.report()) == [("lr_differs_from_plan", None)]


def test_the_bound_is_of_the_highest_peak(synthetic_run: SyntheticRun, digits: Callable[..., Job]) -> None:
    # The batch grows fourfold, and by the linear rule the peak from 0.04 to 0.16: the bound is 1.6e-10.
    job = digits(*SYNTHETIC_JOB, "scale.batch_schedule={name: points, points: [{at: {epochs: 1}, factor: 4}]}")
    run = replace(synthetic_run, job=job, plan=make_plan(job)).attempt(0)
    for error, as_planned in ((1.4e-10, True), (1.8e-10, False)):
        lr = run.plan.lr_at(48) + error
        report = run.altered(lambda record: record.samples_seen == 48, lr=lr).report()
        assert report.lr_audit.as_planned is as_planned
    assert report.verdicts[0].evidence.endswith("at a peak of 0.16")


def test_each_attempt_is_audited_against_its_own_plan(synthetic_run: SyntheticRun) -> None:
    report = synthetic_run.attempt(0, stop=96).attempt(1, start=96, world_size=1).report()
    assert [row.peak_lr for row in report.attempts] == [0.04, 0.02]
    assert report.lr_audit.max_abs_error == 0.0
    stale = synthetic_run.attempt(0, stop=96).attempt(1, start=96, world_size=1, lr=lambda rank, seen: 0.04)
    assert stale.report().lr_audit.max_abs_error == pytest.approx(0.04, rel=0.2)
    assert ("lr_differs_from_plan", None) in codes(stale.report())
