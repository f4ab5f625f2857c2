"""What ``scaler plan`` and a dry run show of finished runs and experiments."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from made_estimates import difference, put_experiment, put_run
from rich.console import Console

from scaler.experiment.estimate import Knowledge
from scaler.job import Job, load_job
from scaler.plan import make_plan
from scaler.report.plan.text import plan_text

Scaler = Callable[..., Any]
BATCH = ["--set", "scale.global_batch_size=1024", "--set", "scale.per_worker_batch_size=4096"]
BATCH += ["--set", "scale.grad_accum_steps=null", "--set", "resources.price_per_worker_hour=30"]


@pytest.fixture
def made(digits_path: Path, tmp_path: Path, scaler_command: Scaler) -> Callable[..., Any]:
    """A command on a job with two runs and an experiment that lost accuracy at batch 1,024."""
    (tmp_path / "job.yaml").write_bytes(digits_path.read_bytes())
    (tmp_path / "recipe.py").write_bytes(digits_path.with_name("recipe.py").read_bytes())
    job = load_job(tmp_path / "job.yaml", overrides=BATCH[1::2])
    runs = tmp_path / "runs"
    put_run(runs, job, day=1, slower=1.3)
    run_id = put_run(runs, job, day=2)
    worse = difference("worse", -0.031, -0.037, -0.025)
    put_experiment(runs, "digits-scaling", job, run_id, difference_to_baseline=worse)
    return scaler_command


def rows(out: str) -> list[str]:
    lines = out.splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith("  time "))
    return lines[first : lines.index("", first)]


def test_a_plan_shows_its_time_cost_and_risk(made: Scaler) -> None:
    code, out, err = made("plan", "job.yaml", *BATCH)
    assert (code, err) == (0, "")
    assert rows(out) == [
        "  time          29.2 s    26.4 s to 31.9 s; from 2 runs with 2 workers at batch 1,024",
        "  cost          0.49      0.44 to 0.53",
        "  risk          worse     batch 1,024, rule linear, peak lr 0.64 lost 0.031 of accuracy (accuracy",
        "                          -0.031, 90% interval -0.037 to -0.025, 5 seeds) in experiment",
        "                          digits-scaling",
    ]


def test_a_plan_whose_batch_grows_shows_the_time_that_it_saves(made: Scaler, tmp_path: Path) -> None:
    points = "scale.batch_schedule={name: points, points: [{at: {fraction: 0.5}, factor: 4}]}"
    small = [option.replace("1024", "256") for option in BATCH]
    put_run(tmp_path / "runs", load_job(tmp_path / "job.yaml", overrides=small[1::2]), day=3)
    code, out, err = made("plan", "job.yaml", *small, "--set", points)
    assert (code, err) == (0, "")
    time, saved, cost = rows(out)[:3]
    assert (time.split()[0], cost.split()[0]) == ("time", "cost")
    assert saved.startswith("  saved ")
    assert saved.endswith("; against the constant batch of the start")


def test_the_json_has_the_estimate_beside_the_plan(made: Scaler) -> None:
    found = json.loads(made("plan", "job.yaml", *BATCH, "--json").out)
    without = json.loads(made("plan", "job.yaml", *BATCH, "--json", "--no-estimate").out)
    estimate = found.pop("estimate")
    assert found == without
    assert 0 < estimate["time_s"]["low"] < estimate["time_s"]["value"] < estimate["time_s"]["high"]
    assert [risk["verdict"] for risk in estimate["risks"]] == ["worse"]
    assert len(estimate["runs"]) == 2
    several = json.loads(made("plan", "job.yaml", *BATCH, "--json", "--workers", "2,4").out)["plans"]
    assert [plan["estimate"]["time_s"] is not None for plan in several] == [True, False]


def test_plans_have_a_column_of_times(made: Scaler) -> None:
    out = made("plan", "job.yaml", *BATCH, "--workers", "2,4").out
    assert [line.split()[-1] for line in out.splitlines()[2:5]] == ["time", "s", "–"]
    assert "Risk digits-scaling: batch 1,024, rule linear" in out


def test_the_page_shows_the_same(made: Scaler, tmp_path: Path) -> None:
    assert made("plan", "job.yaml", *BATCH, "--html", "plan.html") == (0, "", "Written: plan.html\n")
    page = (tmp_path / "plan.html").read_text()
    assert "From finished runs" in page
    assert "26.4 s to 31.9 s; from 2 runs with 2 workers at batch 1,024" in page


def test_an_unknown_number_of_workers_says_what_to_run(made: Scaler, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scaler.experiment.estimate.local_cpus", lambda: 4.0)
    options = [*BATCH, "--set", "train.epochs=3"]
    out = made("plan", "job.yaml", *options, "--workers", "4").out
    text = " ".join(" ".join(rows(out)[:4]).split())
    assert text.startswith(
        "time unknown not known with 4 workers: finished runs have 2; a short run shows it: "
        f"scaler submit job.yaml --workers 4 {' '.join(BATCH)} --set train.epochs=1"
    )


def test_no_short_run_is_proposed_that_this_machine_cannot_run(made: Scaler, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scaler.experiment.estimate.local_cpus", lambda: 2.0)
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    options = [*BATCH, "--set", "resources.cpus_per_worker=1", "--workers", "4"]
    out = " ".join(made("plan", "job.yaml", *options).out.split())
    assert "time unknown not known with 4 workers: finished runs have 2 " in out
    assert "a short run" not in out
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert "a short run shows it: " in " ".join(made("plan", "job.yaml", *options).out.split())


@pytest.mark.parametrize("width", [60, 100])
def test_nothing_is_wider_than_the_terminal(made: Scaler, tmp_path: Path, width: int) -> None:
    job: Job = load_job(tmp_path / "job.yaml", overrides=BATCH[1::2])
    plan = make_plan(job)
    estimate = Knowledge.of(job).estimate(plan, job=job, source="job.yaml")
    console = Console(width=width)
    with console.capture() as captured:
        console.print(plan_text(plan, job=job, estimate=estimate))
    assert max(map(len, captured.get().splitlines())) <= width


def test_a_remote_storage_is_read_only_if_that_is_asked_for(
    made: Scaler, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse(job: Job, **options: Any) -> Knowledge:
        raise AssertionError("the storage was read")

    remote = ["--set", "storage=memory://runs"]
    monkeypatch.setattr(Knowledge, "of", refuse)
    assert made("plan", "job.yaml", *BATCH, *remote).code == 0
    assert made("plan", "job.yaml", *BATCH, *remote, "--estimate").code == 1
    assert made("plan", "job.yaml", *BATCH, "--no-estimate").code == 0


def test_a_storage_that_cannot_be_read_spoils_no_plan(made: Scaler) -> None:
    options = [*BATCH, "--set", "storage=~nosuchuser/runs", "--json"]
    assert "estimate" not in json.loads(made("plan", "job.yaml", *options).out)
    assert made("plan", "job.yaml", *options, "--estimate").code == 5


def test_a_dry_run_adds_the_times_of_its_cells(made: Scaler, tmp_path: Path) -> None:
    study = {
        "name": "study",
        "job": "job.yaml",
        "set": {"scale.per_worker_batch_size": 4096, "scale.grad_accum_steps": None},
        "matrix": {"scale.global_batch_size": [1024, 512], "scale.rule": ["linear", "sqrt"]},
        "include": [{"scale.global_batch_size": 1024, "scale.num_workers": 999, "scale.rule": "linear"}],
        "seeds": [1, 2],
    }
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study))
    options = ["--set", "resources.price_per_worker_hour=30", "--set", "resources.cpus_per_worker=1"]
    code, out, err = made("experiment", "run", "study.yaml", "--dry-run", *options)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[-1].startswith("10 cells: 0 have run, 8 to run in about ")
    assert ", at a cost of " in lines[-1]
    refused = lines.index("Cannot run")
    assert lines[refused + 1].startswith("batch 1024, workers 999, rule linear: 999 workers need 999 CPU, and this")
    ways = out[out.index("What can be done\n") :]
    assert "one worker with the same global batch gives the same training.\n" in ways
    assert (
        "  scaler experiment run job.yaml --batches 16,1024 \\\n    --set scale.per_worker_batch_size=4096 \\\n" in ways
    )
    assert "    --set scale.num_workers=1 --seeds 2 --metric NAME --margin X\n" in ways
    assert "--address auto" in ways
    (tmp_path / "study.yaml").write_text(yaml.safe_dump({**study, "matrix": {"scale.num_workers": [1, 2]}}))
    last = made("experiment", "run", "study.yaml", "--dry-run", *options).out.splitlines()[-1]
    assert last.endswith("The time is not known: no finished run shows it with 1 worker.")
