"""MLflow: a real store, in a database file."""

from pathlib import Path
from typing import Any

import pytest
from synthetic import SyntheticRun

from scaler.job.tracking import Mlflow, Tracking
from scaler.metrics.writer import MetricsWriter
from scaler.runs import RunFolder, RunState

pytest.importorskip("mlflow", reason="pip install scaler[mlflow]")
pytestmark = pytest.mark.filterwarnings("default")  # its dependencies' deprecations are not ours


@pytest.fixture
def tracking(tmp_path: Path) -> Tracking:
    return Tracking(mlflow=Mlflow(uri=f"sqlite:///{tmp_path}/mlflow.db", experiment="digits"))


@pytest.fixture
def folder(tmp_path: Path, synthetic_run: SyntheticRun) -> RunFolder:
    made = RunFolder(str(tmp_path / "digits-1"))
    made.write_json("plan.json", synthetic_run.plan.to_dict())
    return made


def write(folder: RunFolder, tracking: Tracking, run: SyntheticRun, *, attempt: int, state: RunState) -> None:
    writer = MetricsWriter(folder, tracking)
    for event in run.events:
        if event.attempt == attempt:
            writer.add_event(event)
    for rank in (0, 1):
        writer.add([record for record in run.records if (record.attempt, record.rank) == (attempt, rank)])
    writer.close(state)


def stored(tracking: Tracking) -> tuple[Any, Any]:
    """The client and the one run that the store holds."""
    from mlflow.tracking import MlflowClient

    assert tracking.mlflow is not None
    client = MlflowClient(tracking_uri=tracking.mlflow.uri)
    experiment = client.get_experiment_by_name("digits")
    (run,) = client.search_runs([experiment.experiment_id])
    return client, run


def test_a_run_that_goes_on_is_one_run_there(
    folder: RunFolder, tracking: Tracking, synthetic_run: SyntheticRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    from scaler.metrics import trackers

    monkeypatch.setattr(trackers, "CLOSE_S", 60.0)  # making a database takes seconds on a machine that is busy
    run = synthetic_run.attempt(0, stop=96).evaluated(96, **{"top<5>": 0.5})
    run = run.attempt(1, start=96)
    write(folder, tracking, run, attempt=0, state=RunState.FAILED)
    client, found = stored(tracking)
    assert (found.info.status, found.info.run_name) == ("FAILED", "digits-1")
    assert found.data.tags["scaler.run_id"] == "digits-1"
    assert found.data.params["peak_lr"] == str(run.plan.peak_lr)
    assert found.data.params["world_size"] == "2"
    lrs = client.get_metric_history(found.info.run_id, "train/lr")
    seen = [record.samples_seen for record in run.records if record.rank == 0]
    assert [(lr.step, lr.value) for lr in lrs] == [(at, run.plan.lr_at(at)) for at in seen[:6]]
    assert [(m.step, m.value) for m in client.get_metric_history(found.info.run_id, "eval/top_5_")] == [(96, 0.5)]

    folder.write_json("plan.json", {**run.plan.to_dict(), "peak_lr": 0.5})
    write(folder, tracking, run, attempt=1, state=RunState.SUCCEEDED)
    client, found = stored(tracking)
    assert (found.info.status, found.data.tags["scaler.attempt"]) == ("FINISHED", "1")
    assert found.data.tags["scaler.changed_params"] == f"peak_lr: {run.plan.peak_lr} -> 0.5"
    steps = sorted(lr.step for lr in client.get_metric_history(found.info.run_id, "train/lr"))
    assert steps == seen
    assert not [event for event in folder.rows("events.jsonl") if event["kind"] == "tracking_failed"]
