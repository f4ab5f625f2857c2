"""A whole run on s3:// while the storage is slow, busy, away, or refuses the credentials."""

import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from faulty_s3 import FaultyS3
from synthetic import SyntheticRun

from scaler.metrics.events import Checkpointed, CheckpointFailed, of_type
from scaler.metrics.reader import read_events, read_records
from scaler.runs import RunFolder, RunState, find_run, list_runs

pytest.importorskip("s3fs", reason="pip install scaler[s3]")
pytest.importorskip("moto.server", reason="pip install scaler[dev]")
pytestmark = pytest.mark.filterwarnings("default")  # its dependencies' deprecations are not ours

STEPS = 60
BUCKET = "runs"
RECIPE = """
import time
import torch
import scaler
from torch.utils.data import TensorDataset

AT = {}  # step -> what to do then
STEP = [0]

def build():
    STEP[0] = 0
    def loss(model, batch):
        time.sleep(0.02)
        AT.get(STEP[0], lambda: None)()
        STEP[0] += 1
        return model(batch[0]).pow(2).mean()
    data = TensorDataset(torch.ones(64, 2))
    return scaler.Recipe(model=torch.nn.Linear(2, 1), train_data=data, loss=loss, loss_over="micro_batch")
"""
JOB = f"""
name: faults
recipe: s3_faults_recipe:build
reference: {{global_batch_size: 8, lr: 0.01, optimizer: {{name: sgd}}}}
scale: {{num_workers: 1, per_worker_batch_size: 8}}
schedule: {{name: constant}}
train: {{steps: {STEPS}, num_samples: 64}}
checkpoint: {{every: {{steps: 10}}}}
"""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyS3]:
    """A server with an empty bucket; its clients try each request once."""
    import botocore.retryhandler
    import s3fs

    from scaler.runs import filesystems

    server = FaultyS3()
    server.start()
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
    monkeypatch.setattr(botocore.retryhandler, "delay_exponential", lambda base, growth_factor, attempts: 0.01)
    monkeypatch.setattr(filesystems, "RETRY_S", 0.05)
    monkeypatch.setattr("scaler.metrics.background.RETRY_S", 0.05)
    s3fs.S3FileSystem.clear_instance_cache()
    server.make_bucket(BUCKET)
    yield server
    s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "s3_faults_recipe", raising=False)  # of another test's folder
    (tmp_path / "s3_faults_recipe.py").write_text(RECIPE)
    (tmp_path / "job.yaml").write_text(JOB)
    return tmp_path / "job.yaml"


def submit(job: Path, at: dict[int, Callable[[], object]], *more: str) -> int:
    """Run the job in this process; ``at`` says what happens in the training's steps. Returns the exit code."""
    import s3_faults_recipe

    from scaler.cli import run

    s3_faults_recipe.AT = at
    return run(["submit", str(job), "--quiet", "--address", "none", "--set", f"storage=s3://{BUCKET}", *more])


def require_whole(folder: RunFolder) -> None:
    """Everything of the run is in its folder."""
    assert folder.state() is RunState.SUCCEEDED
    records = read_records(folder).select(["attempt", "step"]).to_pylist()
    rows = {(record["attempt"], record["step"]) for record in records}
    assert len(rows) == len(records), "no record is written twice"
    assert {step for _, step in rows} == set(range(STEPS))
    assert folder.read_json("report.json")["totals"]["steps"] == STEPS
    assert b"</html>" in folder.read("report.html")
    newest = max(event.samples_seen for event in of_type(read_events(folder), Checkpointed))
    assert newest == STEPS * 8


def test_training_continues_while_the_storage_is_away(server: FaultyS3, job: Path) -> None:
    """The storage is back after 25 steps: a training that waited for it would never take them."""
    assert submit(job, {15: server.stop, 40: server.start}) == 0
    folder = find_run("last", storage=f"s3://{BUCKET}")
    require_whole(folder)
    events = read_events(folder)
    kept = {event.samples_seen for event in of_type(events, Checkpointed)}
    skipped = {event.samples_seen for event in of_type(events, CheckpointFailed)}
    assert kept | skipped == {80 * number for number in range(1, 7)}, "each is written, or an event says why not"
    assert not kept & skipped


def test_a_run_that_ends_while_the_storage_is_away_waits_for_it(server: FaultyS3, job: Path) -> None:
    left = []

    def leave() -> None:
        left.append(True)
        server.stop()
        threading.Timer(1.5, server.start).start()

    assert submit(job, {STEPS - 5: leave}) == 0
    assert left == [True]
    require_whole(find_run("last", storage=f"s3://{BUCKET}"))


def test_a_busy_storage_loses_nothing(server: FaultyS3, job: Path) -> None:
    server.busy_pct = 30
    server.delay_s = 0.02
    assert submit(job, {}) == 0
    assert server.refused > 20
    server.busy_pct = 0
    require_whole(find_run("last", storage=f"s3://{BUCKET}"))


def test_expired_credentials_end_the_run_and_a_resume_completes_it(
    server: FaultyS3, job: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from scaler.cli import run

    monkeypatch.setattr("scaler.metrics.background.STORAGE_PATIENCE_S", 0.2)

    def expire() -> None:
        server.expired = True

    at: dict[int, Callable[[], object]] = {25: expire}
    assert submit(job, at) == 5
    server.expired = False
    at.clear()
    (folder,) = list_runs(f"s3://{BUCKET}")
    message = capsys.readouterr().err
    assert "its credentials are missing or not accepted (" in message
    assert (
        "\n  Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, to those of an account that may read and "
        f"write there.\n  Then continue: scaler resume {folder.run_id}\n"
    ) in message
    folder.remove("driver.json")  # this process still exists, and could not release the run
    assert run(["resume", folder.uri, "--quiet", "--address", "none"]) == 0
    require_whole(folder)


def test_a_missing_bucket_is_refused_before_training(
    server: FaultyS3, job: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise AssertionError("training began")

    assert submit(job, {0: fail}, "--set", "storage=s3://typo/team") == 5
    assert capsys.readouterr().err == (
        "Error: storage = s3://typo/team: no run can be made there: there is no such bucket.\n"
        "  Make the bucket, or correct its name.\n"
    )


def test_status_and_list_take_few_requests(server: FaultyS3, synthetic_run: SyntheticRun) -> None:
    runs = [RunFolder(f"s3://{BUCKET}/team/run-20260101-1200{number:02d}-aaaa") for number in range(50)]
    for number, folder in enumerate(runs):
        folder.write_json("status.json", {"state": RunState.SUCCEEDED, "started_at": float(number)})

    def requests(action: Callable[[], object]) -> int:
        before = len(server.requests)
        action()
        return len(server.requests) - before

    assert requests(runs[0].state) == 1
    assert requests(lambda: runs[0].read_json("status.json")) == 1
    assert requests(lambda: runs[0].write_json("plan.json", {})) == 1
    assert requests(lambda: list_runs(f"s3://{BUCKET}/team")) <= 52
    assert [folder.run_id for folder in list_runs(f"s3://{BUCKET}/team")] == [folder.run_id for folder in runs]


def test_an_empty_file_and_the_rest_of_a_file_are_read(server: FaultyS3) -> None:
    folder = RunFolder(f"s3://{BUCKET}/team/x")
    folder.write("logs/rank-0.log", "")
    assert folder.read("logs/rank-0.log") == b""
    folder.write("logs/rank-0.log", "abcdef")
    assert folder.read_if_there("logs/rank-0.log", start=4) == b"ef"
    assert folder.read_if_there("logs/rank-0.log", start=6) == b""
    assert folder.read_if_there("logs/rank-1.log") is None
    with pytest.raises(Exception, match="has 6 bytes, and at most 3 are read"):
        folder.read("logs/rank-0.log", most=3)
