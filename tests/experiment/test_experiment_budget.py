"""Where an experiment stops: its budget of runs and costs."""

import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from scaler.cli.experiment_progress import ExperimentProgress
from scaler.cluster.search.spec import TrialNews
from scaler.errors import JobFileError
from scaler.experiment import run, search
from scaler.experiment.file import parse_experiment
from scaler.experiment.folder import About, ExperimentFolder
from scaler.experiment.matrix import Matrix, make_matrix
from scaler.runs import RunFolder

DIGITS = Path(__file__).parents[2] / "jobs/digits"
PRICE = {"resources.price_per_worker_hour": 1.5}


@pytest.fixture
def folder(tmp_path: Path) -> ExperimentFolder:
    return ExperimentFolder.make_named("study", storage=str(tmp_path))


def matrix(tmp_path: Path, **about: Any) -> Matrix:
    values = {"name": "study", "job": "job.yaml", "set": {**PRICE, "storage": str(tmp_path)}, **about}
    return make_matrix(parse_experiment(values, source="study"), folder=DIGITS, source="study")


def about(tmp_path: Path) -> About:
    return About(storage=str(tmp_path), job="job.yaml", overrides=[], environment={})


@pytest.mark.parametrize(
    ("budget", "started"), [({}, 4), ({"cost": 4.0}, 2), ({"cost": 4.5}, 3), ({"runs": 3}, 3), ({"cost": 0.1}, 1)]
)
def test_no_cell_starts_once_the_runs_have_cost_the_budget(
    folder: ExperimentFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, budget: dict[str, Any], started: int
) -> None:
    ran: list[int] = []

    def run_cell(cell: Any, *rest: Any, **options: Any) -> tuple[RunFolder, None]:
        ran.append(cell.number)
        return RunFolder(f"{tmp_path}/run-{cell.number}"), None

    monkeypatch.setattr(run, "connect", lambda *rest, **options: nullcontext())
    monkeypatch.setattr(run, "_with_group", lambda *rest, **options: nullcontext())
    monkeypatch.setattr(run, "_run_cell", run_cell)
    monkeypatch.setattr(run, "cost_of", lambda run_id, *, storage: 2.0)
    found = matrix(tmp_path, matrix={"scale.num_workers": [1, 2], "scale.rule": ["none", "linear"]}, budget=budget)
    run.run_cells(found, run.find_work(found), folder, about(tmp_path))
    assert len(ran) == started


def test_what_is_waited_for_before_a_cell_is_reported(
    folder: ExperimentFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Eight workers may take minutes to start, and no line of progress comes before the first cell."""
    monkeypatch.setattr(run, "connect", lambda *rest, **options: nullcontext())
    monkeypatch.setattr(run, "_with_group", lambda *rest, **options: nullcontext())
    monkeypatch.setattr(run, "_run_cell", lambda *rest, **options: (None, None))
    cells = {"scale.num_workers": [8], "scale.rule": ["none", "linear"]}
    found = matrix(tmp_path, matrix=cells, set={"resources.cpus_per_worker": 0.01, "storage": str(tmp_path)})
    heard: list[str] = []
    watcher = run.Watcher(on_wait=heard.append, on_start=lambda cell, *rest: heard.append(f"cell {cell.number}"))
    run.run_cells(found, run.find_work(found), folder, about(tmp_path), watcher=watcher)
    assert heard[:2] == ["starting an embedded Ray", "starting 8 workers"]
    assert sorted(heard[2:]) == ["cell 0", "cell 1"], "both cells share the workers"
    monkeypatch.setattr("scaler.cli.slow.SLOW_S", 0.0)
    with ExperimentProgress(found, quiet=False) as progress:
        progress.watcher.on_wait("starting 8 workers")
        time.sleep(0.2)
    assert capsys.readouterr().err == "starting 8 workers\n"
    with ExperimentProgress(found, quiet=True) as progress:
        progress.watcher.on_wait("starting 8 workers")
        time.sleep(0.2)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("budget", "started"), [({}, 4), ({"cost": 4.0}, 2), ({"cost": 4.5}, 3), ({"runs": 3}, 3), ({"hours": 1e-9}, 0)]
)
def test_no_trial_starts_once_the_runs_have_cost_the_budget(
    folder: ExperimentFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, budget: dict[str, Any], started: int
) -> None:
    monkeypatch.setattr(search, "cost_of", lambda run_id, *, storage: 2.0)
    section = {"space": {"reference.lr": [0.01, 0.1]}, "trials": 4}
    found = matrix(tmp_path, search=section, compare={"metric": "accuracy", "mode": "max"}, budget=budget)
    heard: list[TrialNews] = []
    book = search._Book(found, folder, about(tmp_path), heard.append, [])
    number = 0
    while number < 4 and book.may_start():
        news = {"number": number, "values": {"reference.lr": number}, "run_id": f"run-{number}"}
        book.take(TrialNews(**news))
        book.take(TrialNews(**news, ended="stopped", samples_seen=100))
        number += 1
    assert number == started
    _, rows, _ = folder.read_cells() if started else (None, [], None)
    assert [(row.run_id, row.ended, row.stopped_at) for row in rows] == [
        (f"run-{each}", "stopped", 100) for each in range(started)
    ]
    assert len(heard) == 2 * started


def test_a_budget_of_costs_needs_a_price(tmp_path: Path) -> None:
    found = matrix(tmp_path, set={"storage": str(tmp_path)}, matrix={"scale.rule": ["none"]}, budget={"cost": 1.0})
    with pytest.raises(JobFileError, match=r"budget\.cost = 1, and the job has no price\."):
        run.find_work(found)
