"""``scaler experiment`` on a real embedded cluster, and what it refuses."""

import json
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from scaler.metrics.reader import read_records
from scaler.runs import list_runs

SCALER = Path(sys.executable).with_name("scaler")
Scaler = Callable[..., Any]

RECIPE = """
from pathlib import Path

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import TensorDataset

import scaler


def build(hidden: int = 4, broken: bool = False) -> scaler.Recipe:
    inputs = torch.randn(200, 4, generator=torch.Generator().manual_seed(0))
    data = TensorDataset(inputs, (inputs.sum(1) > 0).long())
    calls = 0

    def loss(model, batch):
        nonlocal calls
        calls += 1
        if broken and calls > 20:
            raise KeyError("boom")
        return cross_entropy(model(batch[0]), batch[1])

    def evaluate(model, batch):
        logits = model(batch[0])
        return {"accuracy": (logits.argmax(1) == batch[1]).float().mean(), "loss": cross_entropy(logits, batch[1])}

    model = nn.Sequential(nn.Linear(4, hidden), nn.ReLU(), nn.Linear(hidden, 2))
    return scaler.Recipe(model=model, train_data=data, eval_data=data, loss=loss, evaluate=evaluate,
                         loss_over="micro_batch")
"""
JOB = {
    "name": "small",
    "recipe": "recipe_experiment:build",
    "reference": {"global_batch_size": 10, "lr": 0.1, "optimizer": {"name": "sgd"}},
    "scale": {"num_workers": 1, "per_worker_batch_size": 100},
    "train": {"epochs": 5, "num_samples": 200, "eval_every": {"epochs": 1}},
    "resources": {"cpus_per_worker": 0.5},
    "failures": {"max_restarts": 0, "divergence": None},
}
STUDY: dict[str, Any] = {
    "name": "study",
    "job": "job.yaml",
    "matrix": {"scale.global_batch_size": [10, 40]},
    "seeds": [0, 1],
    "include": [
        {"scale.global_batch_size": 10, "recipe_args.broken": True},
        {"scale.global_batch_size": 10, "scale.num_workers": 999},
    ],
    "compare": {
        "baseline": {"scale.global_batch_size": 10},
        "metric": "accuracy",
        "mode": "max",
        "margin": 0.05,
    },
    "target": {"at_least": 0.7},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A job, its recipe and an experiment."""
    made = tmp_path_factory.mktemp("experiment")
    (made / "recipe_experiment.py").write_text(RECIPE)
    (made / "job.yaml").write_text(yaml.safe_dump(JOB))
    (made / "study.yaml").write_text(yaml.safe_dump(STUDY))
    return made


def command(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [str(SCALER), "experiment", *arguments], cwd=folder, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def first(folder: Path) -> "subprocess.CompletedProcess[str]":
    """The experiment, run once: four cells succeed, two fail, two cannot run."""
    return command(folder, "run", "study.yaml", "--json")


def test_every_cell_is_a_run_and_a_failed_one_does_not_end_the_experiment(
    first: "subprocess.CompletedProcess[str]", folder: Path
) -> None:
    assert first.returncode == 0, first.stderr
    report = json.loads(first.stdout)
    states = [(cell["cell"], cell["seed"], cell["state"]) for cell in report["cells"]]
    assert states == [
        (0, 0, "succeeded"),
        (1, 1, "succeeded"),
        (2, 0, "succeeded"),
        (3, 1, "succeeded"),
        (4, 0, "failed"),
        (5, 1, "failed"),
        (6, 0, "impossible"),
        (7, 1, "impossible"),
    ]
    assert "KeyError: 'boom'" in report["cells"][4]["problem"]
    assert len(list_runs(str(folder / "runs"))) == 6
    orders = [cell["order"] for cell in report["cells"] if cell["order"] is not None]
    assert sorted(orders) == list(range(6))
    base, other, broken, _ = report["groups"]
    assert (base["is_baseline"], base["seeds"], base["global_batch_size"]) == (True, [0, 1], 10)
    assert other["difference_to_baseline"]["pairs"] == 2
    assert (broken["failed"], broken["seeds"]) == (2, [])
    assert report["environment"]["cpus"] >= 1
    assert re.search(r"Experiment study: 6 cells to run, in random order; 2 of 8 need no run\n", first.stderr)
    assert len(re.findall(r"^\d/6  .*, seed \d  ", first.stderr, re.MULTILINE)) == 6


def test_a_cell_trains_as_its_job_does_alone(first: "subprocess.CompletedProcess[str]", folder: Path) -> None:
    report = json.loads(first.stdout)
    storage = str(folder / "runs")
    in_group = next(run for run in list_runs(storage) if run.run_id == report["cells"][2]["run_id"])
    options = ["--set", "scale.global_batch_size=40", "--set", "storage=alone", "--quiet"]
    alone = subprocess.run(
        [str(SCALER), "submit", "job.yaml", *options], cwd=folder, capture_output=True, text=True, check=False
    )
    assert alone.returncode == 0, alone.stderr
    (other,) = list_runs(str(folder / "alone"))

    def steps(run: Any) -> list[tuple[int, float, float]]:
        rows = read_records(run).to_pylist()
        return sorted((row["samples_seen"], row["lr"], row["loss"]) for row in rows)

    assert steps(in_group) == steps(other)


def test_what_has_run_is_not_run_again_and_new_cells_are(
    first: "subprocess.CompletedProcess[str]", folder: Path, scaler_command: Scaler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    longer = {**STUDY, "seeds": [0, 1, 2], "include": []}
    (folder / "longer.yaml").write_text(yaml.safe_dump(longer))
    plan = json.loads(scaler_command("experiment", "run", "longer.yaml", "--dry-run", "--json").out)
    assert [cell["is_to_run"] for cell in plan["cells"]] == [False, False, True, False, False, True]
    assert 0 < plan["time_s"]["low"] <= plan["time_s"]["value"] <= plan["time_s"]["high"] < 60
    code, out, err = scaler_command("experiment", "run", "study.yaml", "--json")
    assert code == 0, err
    again, before = json.loads(out), json.loads(first.stdout)
    assert [cell["run_id"] for cell in again["cells"]] == [cell["run_id"] for cell in before["cells"]]
    assert again["answer"] == before["answer"]


def test_the_report_status_and_list_of_an_experiment(
    first: "subprocess.CompletedProcess[str]", folder: Path, scaler_command: Scaler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    report = json.loads(first.stdout)
    answer = report["answer"]
    text = scaler_command("experiment", "report", "study").out
    assert " ".join(text.split()).startswith(answer)
    assert json.loads(scaler_command("experiment", "report", "study", "--json").out)["answer"] == answer
    assert scaler_command("experiment", "report", "study.yaml", "--markdown").out.startswith("# study\n\n")
    page = folder / "page.html"
    assert scaler_command("experiment", "report", "study", "--html", page) == (0, "", f"Written: {page}\n")
    assert page.read_text().count("<h2") >= 4
    made = folder / "runs/experiments/study"
    assert sorted(path.name for path in made.iterdir()) == [
        "cells.json",
        "experiment.html",
        "experiment.json",
        "experiment.md",
        "experiment.yaml",
        "recommended.yaml",
    ]
    recommended = report["recommendation"]
    assert recommended["file"] == "runs/experiments/study/recommended.yaml"
    plan = json.loads(scaler_command("plan", recommended["file"], "--json").out)
    assert plan["global_batch_size"] == recommended["overrides"]["scale.global_batch_size"]
    line = "study  4 of 8 cells succeeded, 2 failed, 2 impossible\n"
    assert scaler_command("experiment", "list") == (0, line, "")
    code, out, _ = scaler_command("experiment", "status", "study")
    assert (code, out.splitlines()[0] + "\n") == (0, line)
    assert json.loads(scaler_command("experiment", "status", "study", "--json").out)["states"]["failed"] == 2


def test_an_interrupted_experiment_continues_where_it_stopped(folder: Path) -> None:
    slow = {
        **STUDY,
        "name": "slow",
        "include": [],
        "seeds": [5, 6],
        "set": {"train.epochs": 400, "checkpoint.every": {"epochs": 10}, "storage": "slow"},
    }
    (folder / "slow.yaml").write_text(yaml.safe_dump(slow))
    process = subprocess.Popen(
        [str(SCALER), "experiment", "run", "slow.yaml"], cwd=folder, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("1/4"):
            break
    time.sleep(1.0)  # into the next cell
    process.send_signal(signal.SIGINT)
    _, rest = process.communicate()
    assert process.returncode == 130
    assert rest.endswith("1 of 4 cells is done; the same command continues.\nInterrupted.\n")
    stopped = [run for run in list_runs(str(folder / "slow")) if run.state().value == "stopped"]
    assert len(stopped) == 1
    again = command(folder, "run", "slow.yaml", "--json")
    assert again.returncode == 0, again.stderr
    report = json.loads(again.stdout)
    assert [cell["state"] for cell in report["cells"]] == ["succeeded"] * 4
    assert "Experiment slow: 3 cells to run, in random order; 1 of 4 need no run" in again.stderr
    assert stopped[0].run_id in [cell["run_id"] for cell in report["cells"]], "its run was resumed"
    assert len(list_runs(str(folder / "slow"))) == 4


@pytest.fixture
def two_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("scaler.experiment.dry_run", "scaler.cluster.capacity"):
        monkeypatch.setattr(f"{module}.local_cpus", lambda: 2.0)


@pytest.mark.usefixtures("two_cpus")
def test_a_dry_run_says_what_to_do_about_more_workers_than_cpus(
    folder: Path, scaler_command: Scaler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    options = ["--set", "resources.cpus_per_worker=1", "--set", "scale.grad_accum_steps=1", "--seeds", "3"]
    options += ["--metric", "accuracy", "--margin", "0.05"]
    code, out, err = scaler_command("experiment", "run", "job.yaml", "--weak", "1,8", "--dry-run", *options)
    assert (code, err) == (0, "")
    assert (
        "Cannot run\n"
        "workers 8: 8 workers need 8 CPU, and this machine has 2 CPU.\n"
        "\n"
        "What can be done\n"
        "Their quality needs no workers: one worker with the same global batch gives the same training.\n"
        "  scaler experiment run job.yaml --batches 10,800 \\\n"
        "    --set resources.cpus_per_worker=1 \\\n"
        "    --set scale.num_workers=1 \\\n"
        "    --set scale.grad_accum_steps=null --seeds 3 --metric accuracy --margin 0.05\n"
        "To run them here, let workers share CPUs: --set resources.cpus_per_worker=0.25. Their speed then\n"
        "tells nothing about a larger machine.\n"
        "Their speed needs a machine or a cluster with a CPU for each worker: --address auto, on a node of a\n"
        "cluster.\n"
    ) in out


@pytest.mark.usefixtures("two_cpus")
def test_a_dry_run_for_a_cluster_asks_the_cluster_and_not_this_machine(
    folder: Path, scaler_command: Scaler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    run = ["experiment", "run", "job.yaml", "--weak", "1,8", "--dry-run", "--set", "scale.grad_accum_steps=1"]
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        code, out, err = scaler_command(*run, "--address", address)
        assert (code, err) == (0, "")
        assert "Cannot run" not in out
    code, out, err = scaler_command(*run, "--address", address)
    assert (code, out) == (3, "")
    assert f"no Ray cluster at {address}" in err
    code, out, err = scaler_command(*run, "--address", "none")
    assert (code, out) == (2, "")
    assert "an experiment does not run at none." in err


@pytest.mark.parametrize(
    ("arguments", "code", "problem"),
    [
        (["run", "nothing.yaml"], 2, "Error: nothing.yaml: cannot be read: No such file or directory."),
        (
            ["run", "job.yaml"],
            2,
            "Error: job.yaml: is a job, not an experiment.",
        ),
        (["run", "job.yaml", "--lr", "0.1,x"], 2, "Error: --lr 0.1,x is not a list of numbers above 0."),
        (["run", "job.yaml", "--lr", "0.1", "--metric", "accuracy"], 2, "Error: --metric needs a margin."),
        (["run", "job.yaml", "--lr", "0.1", "--address", "none"], 2, "Error: an experiment does not run at none."),
        (["report", "nothing"], 5, "Error: there is no experiment nothing in runs."),
    ],
)
def test_what_cannot_be_done_says_what_to_type(
    folder: Path, scaler_command: Scaler, monkeypatch: pytest.MonkeyPatch, arguments: list[str], code: int, problem: str
) -> None:
    monkeypatch.chdir(folder)
    outcome = scaler_command("experiment", *arguments)
    assert (outcome.code, outcome.out) == (code, "")
    assert outcome.err.splitlines()[0] == problem
