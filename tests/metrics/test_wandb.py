"""W&B, offline: the file that ``wandb sync`` would send."""

from pathlib import Path
from secrets import token_hex
from time import monotonic, sleep

import pytest
from synthetic import SyntheticRun

from scaler.job.tracking import Tracking, Wandb
from scaler.metrics import trackers
from scaler.metrics.writer import MetricsWriter
from scaler.runs import RunFolder, RunState

pytest.importorskip("wandb", reason="pip install scaler[wandb]")
pytestmark = pytest.mark.filterwarnings("default")


@pytest.mark.parametrize("where", ["local", "memory"])
def test_an_offline_run_lies_in_the_runs_folder(
    where: str, tmp_path: Path, synthetic_run: SyntheticRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trackers, "CLOSE_S", 60.0)
    folder = RunFolder(str(tmp_path / "digits-1") if where == "local" else f"memory://{token_hex(8)}/digits-1")
    folder.write_json("plan.json", synthetic_run.plan.to_dict())
    run = synthetic_run.attempt(0).evaluated(200, loss=0.25)
    writer = MetricsWriter(folder, Tracking(wandb=Wandb(project="p")))
    for event in run.events:
        writer.add_event(event)
    for rank in (0, 1):
        writer.add([record for record in run.records if record.rank == rank])
    writer.close(RunState.SUCCEEDED)
    assert not [event for event in folder.rows("events.jsonl") if event["kind"] == "tracking_failed"]
    (place,) = [name for name in folder.names("wandb") if name.startswith("offline-run-")]
    expected = (b"train/loss_mean", b"train/samples_per_s", b"eval/loss", b"samples_seen", b"peak_lr", b"digits-1")
    until = monotonic() + 60.0  # wandb's process still writes a local file after the run was finished
    while missing := [text for text in expected if text not in folder.read(f"wandb/{place}/run-digits-1.wandb")]:
        assert where == "local", missing
        assert monotonic() < until, missing
        sleep(0.1)


def test_its_server_is_not_asked_without_a_key(
    tmp_path: Path, synthetic_run: SyntheticRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setattr(trackers, "CLOSE_S", 60.0)
    folder = RunFolder(str(tmp_path / "digits-1"))
    folder.write_json("plan.json", synthetic_run.plan.to_dict())
    writer = MetricsWriter(folder, Tracking(wandb=Wandb(project="p", mode="online")))
    writer.close(RunState.SUCCEEDED)
    (failed,) = [event for event in folder.rows("events.jsonl") if event["kind"] == "tracking_failed"]
    assert (failed["sink"], failed["reason"]) == ("wandb", "RuntimeError: WANDB_API_KEY is not set")
