"""``scaler check``: each limit kept and missed, and limits that cannot be checked."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from in_process import Scaler
from run_folders import write_run
from synthetic import SYNTHETIC_JOB, SyntheticRun

from scaler.job import Job
from scaler.metrics.files import EVENTS, file_name
from scaler.plan import make_plan
from scaler.report.run.checks import ANY
from scaler.report.run.verdicts import GRAVEST_FIRST

RUN = "digits-20260101-120000-7f3a"
FIXED_BATCH = ["scale.per_worker_batch_size=null", "scale.grad_accum_steps=null", "scale.global_batch_size=16"]


@pytest.fixture
def made(tmp_path: Path, digits: Callable[..., Job]) -> Callable[..., SyntheticRun]:
    """Write a run of 2 workers, 200 samples in 14 steps of 0.125 s, and return it."""

    def make(*overrides: str, run_id: str = RUN, workers: int = 2, state: str = "succeeded") -> SyntheticRun:
        job = digits(*SYNTHETIC_JOB, *overrides, workers=workers)
        run = SyntheticRun(job=job, plan=make_plan(job, workers), state=state).attempt(0, world_size=workers)
        run = run.evaluated(200, loss=0.5, accuracy=0.96, **{"a=b": 3.0})
        write_run(str(tmp_path / "runs"), run_id, run)
        return run

    return make


@pytest.mark.parametrize(
    ("kept", "broken"),
    [
        ("--max-loss 0.5", "--max-loss 0.49"),
        ("--min-accuracy 0.96", "--min-accuracy 0.97"),
        ("--min-eval a=b=3", "--min-eval a=b=3.1"),
        ("--max-eval a=b=3", "--max-eval a=b=2.9"),
        ("--min-samples-per-s 114", "--min-samples-per-s 115"),  # 200 / (14 x 0.125) = 114.3
        ("--max-wall-s 10.5", "--max-wall-s 10.4"),
        ("--max-cost 0.1", "--max-cost 0.0001"),
        ("--min-efficiency 0.57", "--min-efficiency 0.58"),  # 114.3 / 2 of 100
    ],
)
def test_each_limit_is_kept_on_one_side_and_missed_on_the_other(
    scaler_command: Scaler, made: Callable[..., SyntheticRun], kept: str, broken: str
) -> None:
    made("reference.samples_per_s=100", "resources.price_per_worker_hour=10")
    code, out, err = scaler_command("check", RUN, *kept.split())
    assert (code, err) == (0, "")
    assert out.startswith(f"{RUN}  every check passed\n")
    code, out, err = scaler_command("check", RUN, *broken.split())
    assert (code, err) == (4, "")
    assert out.startswith(f"{RUN}  1 of 2 checks failed\n")


def test_a_forbidden_verdict_fails(scaler_command: Scaler, made: Callable[..., SyntheticRun], tmp_path: Path) -> None:
    run = made()
    changed = run.altered(lambda record: record.rank == 1 and record.step == 3, lr=0.5)
    write_run(str(tmp_path / "runs"), "changed", changed)
    for code in ("lr_differs_from_plan", ANY):
        outcome = scaler_command("check", "changed", "--no-verdict", code, "--json")
        (state, verdict) = json.loads(outcome.out)["checks"]
        assert (outcome.code, state["is_ok"], verdict["is_ok"]) == (4, True, False)
    assert scaler_command("check", "changed", "--no-verdict", "diverged").code == 0


def test_the_table(scaler_command: Scaler, made: Callable[..., SyntheticRun]) -> None:
    made()
    code, out, err = scaler_command("check", RUN, "--max-loss", "0.4", "--min-accuracy", "0.9", "--max-wall-s", "60")
    assert (code, err) == (4, "")
    assert out == (
        f"{RUN}  1 of 4 checks failed\n"
        "\n"
        "check          wanted             is         ok\n"
        "state          is succeeded       succeeded  ok\n"
        "eval loss      at most 0.4        0.5        failed\n"
        "eval accuracy  at least 0.9       0.96       ok\n"
        "wall clock     at most 1 min 0 s  10.5 s     ok\n"
    )


def test_efficiency_is_against_the_baseline(scaler_command: Scaler, made: Callable[..., SyntheticRun]) -> None:
    made()
    made(run_id="alone", workers=1)  # 200 samples in 26 steps: 61.5 a second
    code, out, _ = scaler_command("check", RUN, "--min-efficiency", "0.9", "--baseline", "alone", "--json")
    (_, check) = json.loads(out)["checks"]
    assert code == 0
    assert check["value"] == pytest.approx(200 / (14 * 0.125) / 2 / (200 / (26 * 0.125)), rel=1e-6)
    assert scaler_command("check", RUN, "--min-efficiency", "0.95", "--baseline", "alone").code == 4
    code, out, err = scaler_command("check", RUN, "--min-efficiency", "0.9", "--baseline", RUN)
    assert (code, out) == (5, "")
    assert err.startswith(f"Error: baseline = {RUN} trained with 2 workers")


def test_a_run_that_has_not_succeeded_fails_unless_that_is_allowed(
    scaler_command: Scaler, made: Callable[..., SyntheticRun], tmp_path: Path
) -> None:
    made(state="stopped")
    assert scaler_command("check", RUN, "--max-loss", "1").code == 4
    assert scaler_command("check", RUN, "--max-loss", "1", "--allow-unfinished").code == 0
    job = made(run_id="other").job
    failed = SyntheticRun(job=job, plan=make_plan(job), state="failed").attempt(0, stop=0)
    write_run(str(tmp_path / "runs"), "failed", failed)
    code, out, err = scaler_command("check", "failed", "--max-loss", "1", "--min-accuracy", "0.5")
    assert (code, err) == (4, "")  # it has no loss, and fails for that too
    assert out.startswith("failed  3 of 3 checks failed\n")


def test_a_loss_that_is_not_finite_keeps_no_limit(
    scaler_command: Scaler, digits: Callable[..., Job], tmp_path: Path
) -> None:
    job = digits(*SYNTHETIC_JOB)
    run = SyntheticRun(job=job, plan=make_plan(job)).attempt(0).evaluated(200, loss=None)
    write_run(str(tmp_path / "runs"), RUN, run)
    assert scaler_command("check", RUN, "--max-loss", "1e30").code == 4


def test_without_an_evaluation_the_loss_is_that_of_training(
    scaler_command: Scaler, digits: Callable[..., Job], tmp_path: Path
) -> None:
    job = digits(*SYNTHETIC_JOB)
    write_run(str(tmp_path / "runs"), RUN, SyntheticRun(job=job, plan=make_plan(job)).attempt(0))
    code, out, _ = scaler_command("check", RUN, "--max-loss", "2")
    assert code == 0
    assert "train loss  at most 2" in out


def damaged(storage: Path, run: SyntheticRun, *, junk: bool = True, events: bool = True) -> None:
    """Write a run of which half the records are junk, or whose events were emptied."""
    half = replace(run, records=run.records[: len(run.records) // 2]) if junk else run
    folder = write_run(str(storage), RUN, half)
    if junk:
        folder.write(file_name(1, 1), b"junk")
    if not events:
        folder.write(EVENTS, "")


def test_a_run_with_damaged_files_fails_unless_that_is_allowed(
    scaler_command: Scaler, made: Callable[..., SyntheticRun], tmp_path: Path
) -> None:
    run = made()
    assert scaler_command("check", RUN, "--min-samples-per-s", "100").code == 0
    damaged(tmp_path / "runs", run)
    code, out, err = scaler_command("check", RUN, "--min-samples-per-s", "100", "--json")
    (state, speed, verdict) = json.loads(out)["checks"]
    assert (code, err) == (4, "")
    assert (state["is_ok"], speed["is_ok"], verdict["is_ok"]) == (True, True, False)
    assert (verdict["bound"], verdict["limit"]) == ("absent", "records_unreadable")
    assert verdict["value"] == "1 file of records cannot be read, and was skipped."
    assert scaler_command("check", RUN, "--min-samples-per-s", "100", "--allow-damaged").code == 0
    assert scaler_command("check", RUN, "--min-samples-per-s", "200", "--allow-damaged").code == 4


def test_a_run_without_its_events_fails_for_that_reason(
    scaler_command: Scaler, made: Callable[..., SyntheticRun], tmp_path: Path
) -> None:
    damaged(tmp_path / "runs", made(), junk=False, events=False)
    code, out, err = scaler_command("check", RUN, "--min-samples-per-s", "100")
    assert (code, err) == (4, "")
    assert "absent events_missing" in out
    assert scaler_command("check", RUN, "--min-samples-per-s", "100", "--allow-damaged").code == 2


def test_a_damaged_baseline_is_refused(
    scaler_command: Scaler, made: Callable[..., SyntheticRun], tmp_path: Path
) -> None:
    damaged(tmp_path / "runs", made(workers=1))
    made(run_id="two")
    code, out, err = scaler_command("check", "two", "--min-efficiency", "0.1", "--baseline", RUN)
    assert (code, out) == (5, "")
    assert err == (
        f"Error: baseline = {RUN}: 1 file of records cannot be read, and was skipped.\n"
        "  Restore the file from a copy, or give another run.\n"
    )


@pytest.mark.parametrize(
    ("job", "alone", "change"),
    [
        ([], ["scale.per_worker_batch_size=4"], "scale.per_worker_batch_size is 4 there and 8 here"),
        ([], ["reference.lr=0.5"], "reference.lr is 0.5 there and 0.01 here"),
        (
            ["train.clip_grad_norm=1"],
            ["train.precision=bf16"],
            "train.precision is bf16 there and fp32 here; train.clip_grad_norm is null there and 1 here",
        ),
        (FIXED_BATCH, [*FIXED_BATCH, "scale.global_batch_size=32"], "scale.global_batch_size is 32 there and 16 here"),
        # What one worker may have otherwise: seed, length, context; of a fixed batch how it is split.
        ([], ["train.seed=3", "train.epochs=1", "name=alone", "resources.cpus_per_worker=2", "failures.max_restarts=7"],
         None),
        (FIXED_BATCH, [*FIXED_BATCH, "scale.per_worker_batch_size=4"], None),
    ],
)  # fmt: skip
def test_a_baseline_of_another_job_is_refused(
    scaler_command: Scaler, made: Callable[..., SyntheticRun], job: list[str], alone: list[str], change: str | None
) -> None:
    made(*job)
    made(*alone, run_id="alone", workers=1)
    code, out, err = scaler_command("check", RUN, "--min-efficiency", "0.01", "--baseline", "alone")
    if change is None:
        assert (code, err) == (0, "")
        return
    assert (code, out) == (2, "")
    assert err == (
        f"Error: baseline = alone is a run of another job: {change}.\n"
        "  Give a run of the same job with one worker: scaler submit JOB --workers 1.\n"
    )


REFUSED = [
    (
        [],
        f"scaler check {RUN} has no limit to check.\n"
        "  Give one or more of --min-efficiency, --max-loss, --min-accuracy, --min-eval, --max-eval, "
        "--min-samples-per-s, --max-wall-s, --max-cost, --no-verdict.",
    ),
    (
        ["--min-efficiency", "0.8"],
        f"run {RUN}: efficiency cannot be checked: one worker alone was not measured.\n"
        "  Add --baseline RUN, a run of the same job with one worker (scaler submit JOB --workers 1), or set "
        "reference.samples_per_s in the job of later runs.",
    ),
    (["--min-efficiency", "80"], "--min-efficiency 80 is not in (0, 10].\n  Give a share: 0.8 is 80 %."),
    (["--max-loss", "nan"], "--max-loss: nan and inf are not allowed.\n  Give a number."),
    (["--min-eval", "x=inf"], "--min-eval: nan and inf are not allowed.\n  Give a number."),
    (
        ["--min-eval", "acuracy=0.9"],
        f"run {RUN}: eval acuracy cannot be checked: no evaluation has this value.\n  Its values: a=b, accuracy, loss.",
    ),
    (
        ["--min-eval", "accuracy"],
        "--min-eval accuracy is not NAME=X with a number X.\n  Such as --min-eval accuracy=0.95.",
    ),
    (
        ["--max-eval", "x=1", "--max-eval", "x=2"],
        "--max-eval x is given twice.\n  Give each name once.",
    ),
    (
        ["--max-cost", "5"],
        f"run {RUN}: cost cannot be checked: its job has no price.\n"
        "  Set resources.price_per_worker_hour in the job of later runs.",
    ),
    (
        ["--no-verdict", "straggle"],
        "--no-verdict straggle is not the code of a verdict.\n"
        f"  Did you mean straggler? Codes: any, {', '.join(GRAVEST_FIRST)}.",
    ),
    (
        ["--baseline", RUN, "--max-loss", "1"],
        f"--baseline {RUN} is used by --min-efficiency only.\n  Give --min-efficiency X with it.",
    ),
]


@pytest.mark.parametrize(("options", "text"), REFUSED, ids=lambda part: " ".join(part) if type(part) is list else "")
def test_a_limit_that_cannot_be_checked_is_a_usage_error(
    scaler_command: Scaler, made: Callable[..., SyntheticRun], options: list[str], text: str
) -> None:
    made()
    assert scaler_command("check", RUN, *options) == (2, "", f"Error: {text}\n")


def test_a_run_that_is_not_there(scaler_command: Scaler) -> None:
    assert scaler_command("check", "nothing", "--max-loss", "1").code == 5
