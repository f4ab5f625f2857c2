"""``scaler compare`` on folders of runs."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from in_process import Scaler
from run_folders import write_run
from synthetic import SYNTHETIC_JOB, SyntheticRun

from scaler.job import Job
from scaler.metrics.files import file_name
from scaler.plan import make_plan
from scaler.runs import RunFolder


@pytest.fixture
def storage(tmp_path: Path, digits: Callable[..., Job]) -> Path:
    """Two runs of one arm and one of another, below runs/."""
    for index, lr in enumerate((0.01, 0.01, 0.02)):
        job = digits(*SYNTHETIC_JOB, f"reference.lr={lr}", f"train.seed={index}")
        run = SyntheticRun(job=job, plan=make_plan(job)).attempt(0, loss=2.0 + index / 10)
        write_run(str(tmp_path / "runs"), f"digits-20260101-12000{index}-aaaa", run.evaluated(200, loss=1.0))
    return tmp_path / "runs"


RUNS = [f"digits-20260101-12000{index}-aaaa" for index in range(3)]


def test_runs_are_compared_in_every_form(scaler_command: Scaler, storage: Path, tmp_path: Path) -> None:
    code, out, err = scaler_command("compare", *RUNS)
    assert (code, err) == (0, "")
    assert "arm A  the base, 2 runs\n" in out
    assert "  reference.lr: 0.01 -> 0.02\n" in out
    code, out, err = scaler_command("compare", *RUNS, "--markdown", "--html", "page.html")
    assert (code, err) == (0, "Written: page.html\n")
    assert out.startswith("# 3 runs, 2 arms\n")
    assert (tmp_path / "page.html").read_text().startswith("<!DOCTYPE html>")
    code, out, _ = scaler_command("compare", *RUNS, "--json")
    values = json.loads(out)
    assert (code, [arm["run_ids"] for arm in values["arms"]]) == (0, [RUNS[:2], RUNS[2:]])


def test_runs_can_be_in_another_storage(scaler_command: Scaler, storage: Path) -> None:
    places = [f"file://{storage / RUNS[0]}", str(storage / RUNS[1]), "last"]
    code, out, _ = scaler_command("compare", *places, "--json")
    assert code == 0
    assert [run["run_id"] for run in json.loads(out)["runs"]] == RUNS


def test_runs_that_a_resume_changed_are_compared_by_their_newest_job(
    scaler_command: Scaler, storage: Path, digits: Callable[..., Job]
) -> None:
    job, later = digits(*SYNTHETIC_JOB), digits(*SYNTHETIC_JOB, "reference.lr=0.005")
    run = SyntheticRun(job=job, plan=make_plan(job)).attempt(0, stop=96)
    run = replace(run, state="stopped").resumed(64, idle_s=5.0).attempt(1, start=96, job=later)
    write_run(str(storage), "changed", replace(run, plan=make_plan(later), state="succeeded"))
    code, out, _ = scaler_command("compare", RUNS[0], "changed", "--json")
    values = json.loads(out)
    assert (code, len(values["arms"])) == (0, 2)
    assert values["arms"][1]["changes"] == [{"key": "reference.lr", "base": "0.01", "value": "0.005"}]


def test_one_run_and_a_run_twice_are_refused(scaler_command: Scaler, storage: Path) -> None:
    code, out, err = scaler_command("compare", RUNS[0])
    assert (code, out) == (2, "")
    assert err == (
        "Error: there is 1 run to compare, but a comparison needs two or more.\n"
        "  Type scaler compare RUN RUN; scaler list shows all runs.\n"
    )
    code, _, err = scaler_command("compare", RUNS[0], RUNS[1], RUNS[0])
    assert code == 2
    assert err == (f"Error: run {RUNS[0]} is given twice.\n  Give each run once; rename the folder of a copy.\n")


def test_runs_with_damaged_records_are_named_and_their_numbers_are_not_known(
    scaler_command: Scaler, storage: Path
) -> None:
    before = json.loads(scaler_command("compare", RUNS[0], RUNS[2], "--json").out)
    metrics = RunFolder(str(storage / RUNS[1]))
    metrics.write(file_name(0, 0), b"junk")
    code, out, err = scaler_command("compare", *RUNS, "--json")
    values = json.loads(out)
    assert (code, err, values["notes"][0]["code"]) == (0, "", "records_missing")
    assert RUNS[1] in values["notes"][0]["message"]
    for key in ("common_samples", "common_elapsed_s", "speedups"):
        assert values[key] == before[key]
    losses = [next(m for m in each["measures"] if m["name"] == "train_loss") for each in (before, values)]
    assert losses[0]["arms"][0]["mean"] == losses[1]["arms"][0]["mean"]
    assert losses[1]["arms"][0]["values"] == [2.0, None]


def test_runs_on_another_filesystem(
    scaler_command: Scaler, digits: Callable[..., Job], request: pytest.FixtureRequest
) -> None:
    place = f"memory://{request.node.name}"
    for index in range(2):
        job = digits(*SYNTHETIC_JOB, f"train.seed={index}")
        write_run(place, f"r{index}", SyntheticRun(job=job, plan=make_plan(job)).attempt(0, loss=2.0 + index))
    code, out, err = scaler_command("compare", f"{place}/r0", "r1", "--storage", place, "--json")
    values = json.loads(out)
    assert (code, err) == (0, "")
    assert values["measures"][0]["arms"][0]["values"] == [2.0, 3.0]


def test_a_damaged_run_is_named(scaler_command: Scaler, storage: Path) -> None:
    (storage / RUNS[1] / "plan.json").write_text("{")
    code, out, err = scaler_command("compare", *RUNS)
    assert (code, out) == (5, "")
    assert err.startswith(f"Error: run {RUNS[1]}: plan.json is not JSON")
    (storage / RUNS[1] / "job.yaml").write_text("name: [")
    code, _, err = scaler_command("compare", *RUNS)
    assert code == 5
    assert RUNS[1] in err.splitlines()[0]
