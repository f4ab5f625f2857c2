"""Searches on a real embedded cluster: their trials are runs, which are found again."""

import json
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from test_experiment import JOB, RECIPE, SCALER

from scaler.metrics.events import LeaveRequested, of_type
from scaler.metrics.reader import read_events
from scaler.runs import list_runs

Scaler = Callable[..., Any]
TOTAL = 9 * 200  # samples of a trial
SEARCH: dict[str, Any] = {
    "name": "best",
    "job": "job.yaml",
    "set": {"train.epochs": 9},
    "search": {
        "space": {"reference.lr": [0.1, 0.0001, 0.0002, 0.0003], "scale.global_batch_size": [10, 20]},
        "searcher": "grid",
        "trials": 5,
        "seed": 3,
    },
    "compare": {"metric": "accuracy", "mode": "max"},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A job and its recipe, whose steps are slow unless there is a file ``fast``."""
    made = tmp_path_factory.mktemp("search")
    waiting = 'time.sleep(0 if Path(__file__).with_name("fast").exists() else 0.05)'
    recipe = RECIPE.replace("        calls += 1\n", f"        calls += 1\n        {waiting}\n")
    (made / "recipe_experiment.py").write_text(f"import time\n{recipe}")
    (made / "job.yaml").write_text(yaml.safe_dump(JOB))
    (made / "fast").touch()
    return made


def run(folder: Path, experiment: Mapping[str, Any]) -> Mapping[str, Any]:
    """Run an experiment and return its report."""
    ended = subprocess.run(
        [str(SCALER), "experiment", "run", write(folder, experiment), "--json"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    report: Mapping[str, Any] = json.loads(ended.stdout)
    return report


def write(folder: Path, experiment: Mapping[str, Any]) -> str:
    (folder / f"{experiment['name']}.yaml").write_text(yaml.safe_dump(dict(experiment)))
    return f"{experiment['name']}.yaml"


@pytest.fixture(scope="module")
def first(folder: Path) -> Mapping[str, Any]:
    """A search of five trials, of which bad ones are stopped."""
    return run(folder, SEARCH)


def test_each_trial_is_a_run_and_bad_ones_are_stopped_early(first: Mapping[str, Any], folder: Path) -> None:
    trials = first["search"]["trials"]
    runs = {run.run_id: run for run in list_runs(str(folder / "runs"))}
    assert [trial["run_id"] in runs for trial in trials] == [True] * 5
    assert len(runs) == 5
    stopped = [trial for trial in trials if trial["ended"] == "stopped"]
    assert stopped
    assert {trial["ended"] for trial in trials} == {"stopped", "finished"}
    for trial in stopped:
        found = runs[trial["run_id"]]
        assert found.state().value == "stopped"
        (asked,) = of_type(read_events(found), LeaveRequested)
        assert asked.detail in ("the search, at 200 samples", "the search, at 600 samples")
        batch = trial["overrides"]["scale.global_batch_size"]
        assert trial["samples_seen"] in (200 + batch, 600 + batch), "one step after the evaluation"
    best = trials[first["search"]["best"]]
    assert best["ended"] == "finished"
    assert best["last"] == max(trial["last"] for trial in trials)
    assert first["search"]["samples"] == sum(trial["samples_seen"] for trial in trials) < 5 * TOTAL
    assert first["answer"].startswith(f"The best of 5 trials is {best['label']}: accuracy ")


def test_what_has_run_is_used_and_more_trials_are_added(
    first: Mapping[str, Any], folder: Path, scaler_command: Scaler, monkeypatch: pytest.MonkeyPatch
) -> None:
    longer = {**SEARCH, "search": {**SEARCH["search"], "trials": 6}}
    again = run(folder, longer)
    before = [(trial["run_id"], trial["ended"], trial["samples_seen"]) for trial in first["search"]["trials"]]
    after = [(trial["run_id"], trial["ended"], trial["samples_seen"]) for trial in again["search"]["trials"]]
    assert after[:5] == before
    assert len(after) == 6
    assert len(list_runs(str(folder / "runs"))) == 6
    monkeypatch.chdir(folder)
    done = sum(trial["ended"] == "finished" for trial in again["search"]["trials"])
    line = scaler_command("experiment", "list").out
    assert line == f"best  {done} of 6 cells succeeded, {6 - done} stopped by the search\n"
    text = scaler_command("experiment", "report", "best").out
    assert " ".join(text.split()).startswith(again["answer"])
    markdown = scaler_command("experiment", "report", "best", "--markdown").out
    assert "## Trials" in markdown
    page = folder / "page.html"
    assert scaler_command("experiment", "report", "best", "--html", page) == (0, "", f"Written: {page}\n")
    assert "scaler submit" in page.read_text()


def test_an_interrupted_search_saves_its_runs_and_continues(folder: Path) -> None:
    slow = {
        **SEARCH,
        "name": "slow",
        "set": {"train.epochs": 60, "storage": "slow"},
        "search": {**SEARCH["search"], "scheduler": "none", "trials": 2},
        "max_concurrent": 2,
    }
    (folder / "fast").unlink()
    process = subprocess.Popen(
        [str(SCALER), "experiment", "run", write(folder, slow)],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    storage = folder / "slow"
    while not all((run.local_path / "progress.json").exists() for run in _two_runs(storage, process)):
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    (folder / "fast").touch()
    assert process.returncode == 130, err
    stopped = list_runs(str(storage))
    assert [run.state().value for run in stopped] == ["stopped"] * 2, "both trained at the same time"
    report = run(folder, slow)
    assert [trial["ended"] for trial in report["search"]["trials"]] == ["finished"] * 2
    assert {trial["run_id"] for trial in report["search"]["trials"]} == {run.run_id for run in stopped}
    assert "speed_not_comparable" in [finding["code"] for finding in report["verdicts"]]


def _two_runs(storage: Path, process: "subprocess.Popen[str]") -> list[Any]:
    """Wait until two runs have begun."""
    while True:
        assert process.poll() is None, process.communicate()[1]
        runs = list(list_runs(str(storage))) if storage.is_dir() else []
        if len(runs) == 2:
            return runs
        time.sleep(0.1)


def test_bad_members_of_a_population_continue_from_good_ones(folder: Path) -> None:
    report = run(
        folder,
        {
            **SEARCH,
            "name": "population",
            "set": {"train.epochs": 9, "storage": "population"},
            "search": {
                "space": {"reference.lr": {"low": 0.0001, "high": 0.1, "scale": "log"}},
                "scheduler": "pbt",
                "trials": 3,
                "interval": {"epochs": 3},
            },
        },
    )
    trials = report["search"]["trials"]
    runs = {run.run_id: run for run in list_runs(str(folder / "population"))}
    assert {trial["run_id"] for trial in trials} == set(runs)
    copies = [trial for trial in trials if trial["copied_from"] is not None]
    assert copies
    assert len(trials) - len(copies) == 3
    assert sum(trial["ended"] == "replaced" for trial in trials) == len(copies)
    assert sum(trial["ended"] == "finished" for trial in trials) == 3
    for copy in copies:
        origin = runs[copy["run_id"]].read_json("status.json")["branched_from"]
        assert origin["run_id"] == copy["copied_from"] in runs
        assert origin["samples_seen"] in (700, 1300), "one step after the evaluation"


def test_optuna_proposes_settings_from_the_results(folder: Path) -> None:
    pytest.importorskip("optuna")
    report = run(
        folder,
        {
            **SEARCH,
            "name": "optuna",
            "set": {"train.epochs": 2, "storage": "optuna"},
            "search": {
                "space": {
                    "reference.lr": {"low": 0.001, "high": 0.1, "scale": "log"},
                    "scale.rule": ["linear", "sqrt"],
                },
                "searcher": "optuna",
                "scheduler": "none",
                "trials": 3,
            },
        },
    )
    trials = report["search"]["trials"]
    assert [trial["ended"] for trial in trials] == ["finished"] * 3
    assert len({trial["overrides"]["reference.lr"] for trial in trials}) == 3
    assert all(0.001 <= trial["overrides"]["reference.lr"] <= 0.1 for trial in trials)
