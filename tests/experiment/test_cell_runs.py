"""The runs of an experiment's cells in a storage, and how an experiment that fails ends."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from made_events import make_event

from scaler.api import experiment as api
from scaler.errors import JobFileError, RunError
from scaler.experiment import cell_runs
from scaler.experiment.file import parse_experiment
from scaler.experiment.matrix import Matrix, make_matrix
from scaler.experiment.run import end_if_interrupted, find_work, require_metric
from scaler.job import Job, dump_job
from scaler.job.load import edit_job
from scaler.metrics.events import Evaluated, to_dict
from scaler.metrics.reader import read_events
from scaler.runs import RunFolder, RunState

DIGITS = Path(__file__).parents[2] / "jobs/digits"


@pytest.fixture
def matrix(tmp_path: Path) -> Matrix:
    """Two cells."""
    values = {"name": "study", "job": "job.yaml", "matrix": {"scale.rule": ["none", "sqrt"]}}
    overrides = [f"storage={tmp_path}", "resources.cpus_per_worker=0.5"]
    return make_matrix(parse_experiment(values, source="study"), folder=DIGITS, overrides=overrides, source="study")


def put(storage: Path, run_id: str, job: Job | None, state: RunState = RunState.SUCCEEDED) -> RunFolder:
    assert job is not None
    folder = RunFolder(f"{storage}/{run_id}")
    folder.write("job.yaml", dump_job(job))
    folder.set_state(state, started_at=float(run_id.rpartition("-")[2]))
    return folder


def edited(job: Job | None, *overrides: str) -> Job:
    assert job is not None
    return edit_job(job.model_dump(), overrides=overrides, source="job")


def test_a_cell_has_the_run_whose_job_trains_the_same(matrix: Matrix, tmp_path: Path) -> None:
    none, sqrt = (cell.job for cell in matrix.cells)
    put(tmp_path, "seed-1", edited(none, "train.seed=9"))
    put(tmp_path, "done-2", edited(none, "name=other", "reference.optimizer.nesterov=false"))  # its default
    put(tmp_path, "failed-3", none, RunState.FAILED)
    put(tmp_path, "failed-4", sqrt, RunState.FAILED)
    put(tmp_path, "damaged-5", sqrt).write("job.yaml", b"recipe: \xff")
    found = cell_runs.find_cell_runs(matrix.cells, storage=str(tmp_path))
    named = {number: (run.folder.run_id, run.state) for number, run in found.items()}
    assert named == {0: ("done-2", RunState.SUCCEEDED), 1: ("failed-4", RunState.FAILED)}


def test_a_run_of_an_older_scaler_whose_job_lacks_a_key_is_found(matrix: Matrix, tmp_path: Path) -> None:
    none, sqrt = (cell.job for cell in matrix.cells)
    for run_id, job in (("one-1", none), ("other-2", edited(sqrt, "train.stop_after={epochs: 1}"))):
        folder = put(tmp_path, run_id, job)
        lines = folder.read("job.yaml").decode().splitlines(keepends=True)
        kept = [line for line in lines if "channels_last" not in line and "stop_after: null" not in line]
        folder.write("job.yaml", "".join(kept))
    found = cell_runs.find_cell_runs(matrix.cells, storage=str(tmp_path))
    assert {number: run.folder.run_id for number, run in found.items()} == {0: "one-1"}


def test_what_has_run_is_found_with_one_reading_of_each_state(
    matrix: Matrix, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    none, sqrt = (cell.job for cell in matrix.cells)
    put(tmp_path, "one-1", none)
    put(tmp_path, "two-2", edited(sqrt, "reference.optimizer.nesterov=false"))  # its default
    put(tmp_path, "other-3", edited(sqrt, "train.seed=9"))
    states: Counter[str] = Counter()
    read: list[str] = []
    state, read_job = RunFolder.state, cell_runs.read_job

    def counted(folder: RunFolder) -> RunState:
        states[folder.run_id] += 1
        return state(folder)

    def noted(raw: bytes, *, source: str) -> Job:
        read.append(source)
        return read_job(raw, source=source)

    monkeypatch.setattr(RunFolder, "state", counted)
    monkeypatch.setattr(cell_runs, "read_job", noted)
    work = find_work(matrix)
    assert [row.run_id for row in work.rows] == ["one-1", "two-2"]
    assert states == {"one-1": 1, "two-2": 1}
    assert len(read) == 1, "only the YAML of a job whose optimizer is written in another way is read"


def raising(text: str) -> Callable[..., Any]:
    def function(*arguments: Any, **keywords: Any) -> Any:
        raise RunError(text, "")

    return function


def test_an_error_of_the_report_does_not_hide_why_an_experiment_ended(
    matrix: Matrix, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "run_cells", raising("the storage is away."))
    monkeypatch.setattr(api, "read_folder", raising("the report cannot be read."))
    with pytest.raises(RunError, match=r"the storage is away\."):
        api.run_experiment(matrix)
    monkeypatch.setattr(api, "run_cells", lambda *arguments, **keywords: None)
    with pytest.raises(RunError, match=r"the report cannot be read\."):
        api.run_experiment(matrix)


def test_an_experiment_ends_when_a_run_lacks_the_value_that_it_compares(tmp_path: Path) -> None:
    def matrix_of(metric: str) -> Matrix:
        compare = {"metric": metric, "mode": "max", "margin": 0.1}
        values = {"name": "study", "job": "job.yaml", "matrix": {"scale.rule": ["none", "sqrt"]}, "compare": compare}
        return make_matrix(parse_experiment(values, source="study"), folder=DIGITS, source="study")

    values = {"loss": 0.5, "accuracy": 0.9}
    event = Evaluated(time=0.0, attempt=0, samples_seen=8, values=values, seconds=0.1)
    folder = RunFolder(f"{tmp_path}/one-1")
    folder.append_json("events.jsonl", [to_dict(event)])
    for known in ("loss", "accuracy", "train_loss"):
        require_metric(matrix_of(known), folder, read_events(folder))
    with pytest.raises(JobFileError, match="run one-1 has no value acuracy, which the experiment compares") as caught:
        require_metric(matrix_of("acuracy"), folder, read_events(folder))
    assert caught.value.remedy.startswith("Did you mean accuracy?")


def test_an_interrupt_in_the_last_steps_of_a_cell_ends_the_experiment(tmp_path: Path) -> None:
    """The run trained to its end before its workers could stop, so it succeeded."""
    folder = RunFolder(f"{tmp_path}/one-1")

    def add(*events: Any) -> None:
        folder.append_json("events.jsonl", [to_dict(event) for event in events])

    add(make_event("attempt_started", attempt=0))
    end_if_interrupted(read_events(folder))
    add(make_event("leave_requested", attempt=0, why="stop", detail="Ctrl-C"))
    with pytest.raises(KeyboardInterrupt):
        end_if_interrupted(read_events(folder))
    add(make_event("attempt_started", attempt=1))  # it was resumed
    end_if_interrupted(read_events(folder))
