"""What finished runs and experiments say of a plan."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from made_estimates import EVALUATION_S, START_S, difference, put_experiment, put_run, step_time
from run_folders import write_run
from synthetic import SyntheticRun

from scaler.experiment import known_runs
from scaler.experiment.estimate import BETWEEN_S, Knowledge
from scaler.job import Job
from scaler.plan import make_plan
from scaler.report.plan.estimate import PlanEstimate
from scaler.report.run.write import write_report

Digits = Callable[..., Job]
WARM = 0.1  # share that a speed leaves out


@pytest.fixture
def job(digits: Digits, tmp_path: Path) -> Callable[..., Job]:
    """The digits job with a global batch, in the test's storage."""

    def make(batch: int, workers: int = 2, *overrides: str) -> Job:
        sizes = [f"scale.global_batch_size={batch}", "scale.per_worker_batch_size=4096", "scale.grad_accum_steps=null"]
        return digits(*sizes, f"storage={tmp_path}", *overrides, workers=workers)

    return make


def known(job: Job, **options: Any) -> PlanEstimate | None:
    return Knowledge.of(job).estimate(make_plan(job), job=job, source="job.yaml", **options)


def some(job: Job, **options: Any) -> PlanEstimate:
    estimate = known(job, **options)
    assert estimate is not None
    return estimate


def steps(job: Job) -> float:
    plan = make_plan(job)
    return plan.total_samples / plan.global_batch_size


def test_without_runs_nothing_is_known(job: Callable[..., Job]) -> None:
    assert known(job(256)) is None


def test_the_time_of_the_same_setting_is_that_of_its_runs(job: Callable[..., Job], tmp_path: Path) -> None:
    mine = job(256, 2, "resources.price_per_worker_hour=3")
    first = put_run(tmp_path, mine, day=1)
    newer = put_run(tmp_path, job(256, 2, "name=other", "train.seed=4"), day=2, name="other", slower=1.2)
    found = some(mine)
    assert found.runs == (newer, first), "the name, the seed and the price do not change the work"
    assert found.basis == "from 2 runs with 2 workers at batch 256"
    assert found.train_s is not None
    assert found.train_s.low == pytest.approx(steps(mine) * step_time(128))
    assert found.train_s.high == pytest.approx(steps(mine) * step_time(128) * 1.2 * 1.1)
    mean = 1 + 0.1 * 0.5 / (1 - WARM)  # the second half is slower by 10 %
    assert found.train_s.value == pytest.approx(steps(mine) * step_time(128) * 1.1 * mean, rel=0.01)
    assert found.other_s is not None
    assert found.other_s.value == pytest.approx(START_S + 15 * EVALUATION_S)
    assert found.time_s is not None
    assert found.cost is not None
    assert found.time_s.value == pytest.approx(found.train_s.value + found.other_s.value)
    assert found.cost.value == pytest.approx((found.time_s.value or 0) / 3600 * 2 * 3)


@pytest.mark.parametrize(
    "change",
    ["recipe_args.hidden=64", "train.precision=bf16", "train.compile=true", "resources.cpus_per_worker=0.5"],
)
def test_other_work_for_a_sample_is_another_job(job: Callable[..., Job], tmp_path: Path, change: str) -> None:
    put_run(tmp_path, job(256))
    assert known(job(256, 2, change)) is None
    assert known(job(256, 2, "reference.lr=0.02", "train.epochs=3", "scale.rule=sqrt")) is not None


def test_between_two_batches_the_time_of_a_step_is_a_line(job: Callable[..., Job], tmp_path: Path) -> None:
    for day, batch in enumerate((64, 1024, 4096), start=1):
        put_run(tmp_path, job(batch), day=day)
    found = some(job(256))
    assert found.basis == "from 2 runs with 2 workers at batch 64, 1,024"
    assert found.train_s is not None
    assert found.train_s.low == pytest.approx(steps(job(256)) * step_time(128))


def test_one_other_batch_gives_a_range_only(job: Callable[..., Job], tmp_path: Path) -> None:
    put_run(tmp_path, job(64))
    found = some(job(256))
    assert found.time_s is not None
    assert found.train_s is not None
    assert found.time_s.value is None
    fixed_step, fixed_sample = steps(job(256)) * step_time(32), steps(job(64)) * step_time(32)
    assert found.train_s.low == pytest.approx(fixed_step)
    assert found.train_s.high == pytest.approx(fixed_sample * 1.1)


def test_a_batch_that_grows_takes_the_time_of_its_phases(job: Callable[..., Job], tmp_path: Path) -> None:
    for day, batch in enumerate((64, 256), start=1):
        put_run(tmp_path, job(batch), day=day)
    grows = job(64, 2, "scale.batch_schedule={name: points, points: [{at: {epochs: 5}, factor: 4}]}")
    assert [phase.global_batch_size for phase in make_plan(grows).phases] == [64, 256]
    found = some(grows)
    assert found.train_s is not None
    whole = 1437 * 5 / 64 * step_time(32) + 1437 * 10 / 256 * step_time(128)
    assert found.train_s.low == pytest.approx(whole)


def test_steps_that_are_measured_give_a_range_only(job: Callable[..., Job], tmp_path: Path) -> None:
    put_run(tmp_path, job(256))
    fixed, measured = some(job(256)).train_s, some(job(256, 2, "scale.rule=adascale")).train_s
    assert fixed is not None
    assert fixed.high is not None
    assert measured is not None
    assert (measured.value, measured.low) == (None, fixed.low)
    assert measured.high == pytest.approx(16 * fixed.high), "at most the steps of the reference"


def test_other_numbers_of_workers_are_unknown_until_there_are_enough(
    job: Callable[..., Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scaler.experiment.estimate.local_cpus", lambda: 8.0)
    put_run(tmp_path, job(256, 1), day=1)
    put_run(tmp_path, job(256, 2), day=2)
    found = some(job(256, 4))
    assert (found.time_s, found.runs) == (None, ())
    assert found.basis == "not known with 4 workers: finished runs have 1, 2"
    assert found.next == "scaler submit job.yaml --workers 4 --set train.epochs=1"
    put_run(tmp_path, job(256, 3), day=3)
    found = some(job(256, 4))
    assert found.basis == "by the law of Amdahl from 3 runs with 1, 2, 3 workers"
    assert found.train_s is not None
    true = steps(job(256)) * step_time(64)
    mean = 1 + 0.1 * 0.5 / (1 - WARM)
    assert found.train_s.value == pytest.approx(true * mean, rel=0.05)
    assert some(job(256, 8)).time_s is None, "more than twice the workers that were run"


def test_cells_start_faster_than_runs_alone(job: Callable[..., Job], tmp_path: Path) -> None:
    mine = job(256)
    alone = put_run(tmp_path, mine, day=1)
    cell = some(mine, in_experiment=True)
    assert cell.other_s is not None
    assert cell.other_s.value == pytest.approx(BETWEEN_S + 15 * EVALUATION_S)
    put_experiment(tmp_path, "study", mine, put_run(tmp_path, job(256, 2, "train.seed=1"), day=2))
    found = some(mine)
    assert alone in found.runs
    assert found.other_s is not None
    assert found.other_s.value == pytest.approx(START_S + 15 * EVALUATION_S)


@pytest.mark.parametrize(
    ("group", "verdict", "text"),
    [
        (
            {"difference_to_baseline": difference("worse", -0.031, -0.037, -0.025)},
            "worse",
            "lost 0.031 of accuracy (accuracy -0.031, 90% interval -0.037 to -0.025, 5 seeds) in experiment study",
        ),
        (
            {"difference_to_baseline": difference("equivalent", 0.001, -0.004, 0.006), "failed": 2},
            "equivalent",
            "was as good as the baseline (accuracy +0.001, 90% interval -0.004 to +0.006, 5 seeds) "
            "in experiment study; 2 runs failed",
        ),
        (
            {"difference_to_baseline": difference("undecided", -0.01, None, None)},
            "undecided",
            "is not shown to be as good as the baseline (accuracy -0.01, 5 seeds) in experiment study",
        ),
        ({"is_baseline": True}, "baseline", "is the baseline (accuracy 0.91) in experiment study"),
    ],
)
def test_an_experiment_says_how_good_the_batch_was(
    job: Callable[..., Job], tmp_path: Path, group: dict[str, Any], verdict: str, text: str
) -> None:
    mine = job(1024)
    put_experiment(tmp_path, "study", mine, put_run(tmp_path, mine), **group)
    (risk,) = some(mine).risks
    assert (risk.source, risk.verdict) == ("study", verdict)
    assert risk.message == f"batch 1,024, rule linear, peak lr 0.64 {text}"
    assert some(job(1024, 2, "scale.rule=sqrt")).risks == ()
    assert some(job(1024, 2, "reference.lr=0.02")).risks == ()
    longer = some(job(1024, 2, "train.epochs=30")).risks[0].message
    assert "in experiment study, after 21,555 samples instead of 43,110" in longer


def test_an_experiment_of_another_job_says_nothing(job: Callable[..., Job], tmp_path: Path) -> None:
    put_run(tmp_path, job(1024))
    other = job(1024, 2, "recipe_args.hidden=64")
    put_experiment(tmp_path, "study", other, put_run(tmp_path, other, day=2), is_baseline=True)
    assert some(job(1024)).risks == ()


def test_runs_that_diverged_are_the_first_risk(job: Callable[..., Job], tmp_path: Path) -> None:
    mine = job(1024)
    put_run(tmp_path, mine, day=1)
    bad = put_run(tmp_path, job(1024, 2, "train.seed=1"), day=2, diverged=True)
    (risk,) = some(mine).risks
    assert risk.message == f"1 of 2 runs with batch 1,024, rule linear, peak lr 0.64 diverged, such as {bad}"
    assert some(mine).basis == "from 1 run with 2 workers at batch 1,024", "its speed is left out"


def test_a_run_that_was_resumed_or_used_another_device_is_left_out(job: Callable[..., Job], tmp_path: Path) -> None:
    put_run(tmp_path, job(256, 2, "train.seed=1"), day=1, device="NVIDIA H100")
    put_run(tmp_path, job(256, 2, "train.seed=2"), day=2, attempts=2)
    newest = put_run(tmp_path, job(256), day=3)
    assert some(job(256)).runs == (newest,)


def test_the_newest_runs_are_read_and_damaged_ones_are_passed_over(
    job: Callable[..., Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(known_runs, "MOST_RUNS", 3)
    put_run(tmp_path, job(256), day=1)
    newer = put_run(tmp_path, job(256), day=2)
    for day, damage in ((3, "report.json"), (4, "plan.json")):
        (tmp_path / put_run(tmp_path, job(256), day=day) / damage).write_text("[")
    assert some(job(256)).runs == (newer,)
    (tmp_path / "experiments/study").mkdir(parents=True)
    (tmp_path / "experiments/study/cells.json").write_text("{}")
    (tmp_path / "experiments/study/experiment.json").write_text("[]")
    assert some(job(256)).runs == (newer,)


def test_the_report_of_a_real_run_has_what_an_estimate_reads(synthetic_run: SyntheticRun, tmp_path: Path) -> None:
    run = synthetic_run.attempt(0)
    write_report(write_run(str(tmp_path), "digits-20260101-120000-0000", run))
    job = run.job
    plan = make_plan(job)
    found = Knowledge.of(job, storage=str(tmp_path)).estimate(plan, job=job, source="job.yaml")
    assert found is not None
    assert found.runs == ("digits-20260101-120000-0000",)
    assert found.train_s is not None
    assert found.train_s.value is not None
    assert found.train_s.value > 0


def test_a_batch_that_grows_says_what_time_it_saves(job: Callable[..., Job], tmp_path: Path) -> None:
    points = "scale.batch_schedule={name: points, points: [{at: {epochs: 5}, factor: 4}]}"
    put_run(tmp_path, job(64), day=1)
    assert some(job(64, 2, points)).saved_s is None, "the time of a step is known at one batch only"
    put_run(tmp_path, job(256), day=2)
    assert some(job(64)).saved_s is None, "nothing changes"
    grows, constant = some(job(64, 2, points)), some(job(64))
    assert grows.saved_s is not None
    assert grows.train_s is not None
    assert constant.train_s is not None
    ends = [(each.value, each.low, each.high) for each in (grows.saved_s, constant.train_s, grows.train_s)]
    (saved, least, most), (before, *ends_before), (now, *ends_now) = ends
    assert saved == pytest.approx((before or 0) - (now or 0))
    assert least == pytest.approx((ends_before[0] or 0) - (ends_now[1] or 0))
    assert most == pytest.approx((ends_before[1] or 0) - (ends_now[0] or 0))
    whole = 1437 * 10 * (step_time(32) / 64 - step_time(128) / 256)  # of the last 10 epochs
    assert saved == pytest.approx(whole * 1.1, rel=0.05), "the second half of the runs is 10 % slower"
