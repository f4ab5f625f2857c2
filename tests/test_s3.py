"""Runs on s3://, on a server that speaks its protocol."""

import os
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from synthetic import SyntheticRun

import scaler
from scaler.job import dump_job
from scaler.metrics.reader import read_events, read_records
from scaler.metrics.writer import MetricsWriter
from scaler.report.compare.read import read_comparison
from scaler.report.run.write import write_report
from scaler.runs import RunFolder, RunState
from scaler.runs.find import find_run, list_runs
from scaler.training.checkpoints.state import write_checkpoint

pytest.importorskip("s3fs", reason="pip install scaler[s3]")
moto_server = pytest.importorskip("moto.server", reason="pip install scaler[dev]")
pytestmark = pytest.mark.filterwarnings("default")  # its dependencies' deprecations are not ours

BUCKET = "runs"


def ask_server(url: str, what: str, data: bytes = b"") -> None:
    headers = {"Content-Type": "text/plain"}
    urllib.request.urlopen(urllib.request.Request(f"{url}/moto-api/{what}", data=data, headers=headers)).close()


@pytest.fixture
def storage(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URI of an empty bucket."""
    import s3fs

    server = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    s3fs.S3FileSystem.clear_instance_cache()
    ask_server(f"http://{host}:{port}", "reset")  # servers of one process share what they hold
    s3fs.S3FileSystem().mkdir(BUCKET)
    yield f"s3://{BUCKET}/team"
    ask_server(f"http://{host}:{port}", "reset-auth", b"inf")
    s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


def written(storage: str, name: str, run: SyntheticRun) -> RunFolder:
    """A run, written as submit and the collector write it."""
    folder = RunFolder(f"{storage}/{name}")
    folder.write("job.yaml", dump_job(run.job))
    folder.write_json("plan.json", run.plan.to_dict())
    folder.set_state(RunState.RUNNING, started_at=999.0)
    writer = MetricsWriter(folder)
    for event in run.events:
        writer.add_event(event)
    for first in range(0, len(run.records), 3):  # many flushes: files are merged and removed there, too
        writer.add(run.records[first : first + 3])
        writer.flush()
    writer.close(RunState.SUCCEEDED)
    folder.set_state(RunState.SUCCEEDED, ended_at=1020.0)
    return folder


def test_the_weights_of_a_run_on_s3(storage: str, synthetic_run: SyntheticRun, tmp_path: Path) -> None:
    folder = written(storage, "digits-20260101-120000-aaaa", synthetic_run.attempt(0))
    state = {"model": {"weight": torch.eye(2), "bias": torch.ones(2)}, "average": None}
    about = {"samples_seen": 200, "plan": synthetic_run.plan.to_dict(), "values": None}
    write_checkpoint(folder, {**state, "optimizer": {"param_groups": []}}, about)
    model = scaler.load_model("last", storage=storage, recipe=torch.nn.Linear(2, 2))
    scaler.export_model(folder.uri, tmp_path / "model.pt")
    saved = torch.load(tmp_path / "model.pt", weights_only=True)
    assert all(torch.equal(value, saved[name]) for name, value in model.state_dict().items())
    assert torch.equal(model.weight, torch.eye(2))
    assert "digits-20260101-120000-aaaa" in (tmp_path / "model.md").read_text()


def test_a_run_on_s3_is_written_found_read_and_reported(storage: str, synthetic_run: SyntheticRun) -> None:
    run = synthetic_run.attempt(0).evaluated(200, loss=0.25)
    assert list_runs(storage) == []
    names = ["digits-20260101-120000-aaaa", "digits-20260101-120001-bbbb"]
    for name in names:
        written(storage, name, run)
    assert [folder.run_id for folder in list_runs(storage)] == names
    folder = find_run("last", storage=storage)
    assert folder.run_id == names[-1]
    assert find_run(names[0], storage=storage).uri == f"{storage}/{names[0]}"
    assert find_run(f"{storage}/{names[0]}").state() is RunState.SUCCEEDED
    assert read_records(folder).num_rows == len(run.records)
    assert read_events(folder) == list(run.events)
    report = write_report(folder)
    assert (report.totals.steps, report.totals.samples_seen) == (14, 200)
    assert folder.read_json("report.json")["run_id"] == names[-1]
    assert b"</html>" in folder.read("report.html")
    assert len(folder.names("tensorboard")) == 1
    assert len(folder.names("metrics")) < len(run.records) / 3, "merged"
    assert not [name for name in folder.names("metrics") if name.endswith(".part")]
    found = read_comparison(list_runs(storage))
    assert [arm.run_ids for arm in found.arms] == [tuple(names)]
    assert found.measures[0].arms[0].values == (2.0, 2.0)


def test_listings_are_not_cached(storage: str, synthetic_run: SyntheticRun) -> None:
    """A driver lists the records before training; a collector merges and removes them; the driver reports."""
    import s3fs

    folder = written(storage, "digits-20260101-120000-aaaa", synthetic_run.attempt(0))
    before = folder.names("metrics")
    other = s3fs.S3FileSystem(skip_instance_cache=True)
    root = f"{folder.uri.removeprefix('s3://')}/metrics"
    for name in before:
        first = int(name[:8])
        other.copy(f"{root}/{name}", f"{root}/{first:08d}-{first + 100:08d}.parquet")
        other.rm_file(f"{root}/{name}")
    assert not set(folder.names("metrics")) & set(before)
    assert read_records(folder).num_rows > 0
    other.pipe_file(f"{folder.uri.removeprefix('s3://')}/report.html", b"x")
    assert folder.exists("report.html")


LOGIN = (
    "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, to those of an account that may read and write "
    "there."
)
COMMANDS = [["list"], ["report", "last"], ["resume", "last", "--address", "none"], ["compare", "a", "b"]]


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What a command line that ends with 5 says."""
    from scaler.cli import run

    assert run(list(arguments)) == 5
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err


def commands(digits_path: Path, storage: str) -> list[list[str]]:
    there = [[*command, "--storage", storage] for command in COMMANDS]
    return [
        *there,
        ["submit", str(digits_path), "--quiet", "--workers", "1", "--address", "none", "--set", f"storage={storage}"],
    ]


@pytest.fixture
def clean(storage: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """For other credentials and endpoints: no connection of before is used again."""
    import s3fs

    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    s3fs.S3FileSystem.clear_instance_cache()
    yield monkeypatch
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.mark.parametrize("fault", ["missing", "partial", "wrong", "no profile"])
def test_refused_credentials_are_the_same_error_in_every_command(
    clean: pytest.MonkeyPatch, storage: str, digits_path: Path, capsys: pytest.CaptureFixture[str], fault: str
) -> None:
    if fault == "wrong":  # the server asks for those of its own users from now on
        ask_server(os.environ["AWS_ENDPOINT_URL"], "reset-auth", b"0")
    elif fault == "no profile":
        clean.setenv("AWS_PROFILE", "nosuch")
    else:
        clean.delenv("AWS_SECRET_ACCESS_KEY")
        if fault == "missing":
            clean.delenv("AWS_ACCESS_KEY_ID")
    for command in commands(digits_path, storage):
        text = refused(capsys, *command)
        assert "its credentials are missing or not accepted (" in text, command
        assert text.endswith(f").\n  {LOGIN}\n"), command
        assert "a bug in scaler" not in text


def test_a_missing_bucket_is_an_error_and_is_not_made(
    clean: pytest.MonkeyPatch, digits_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import s3fs

    for command in commands(digits_path, "s3://typo/team"):
        text = refused(capsys, *command)
        assert text.endswith(": there is no such bucket.\n  Make the bucket, or correct its name.\n"), command
    assert s3fs.S3FileSystem().ls("") == [BUCKET]


def test_an_endpoint_that_does_not_answer_is_an_error(
    clean: pytest.MonkeyPatch, storage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    clean.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    clean.setenv("AWS_MAX_ATTEMPTS", "1")
    clean.setattr("s3fs.core.S3FileSystem.retries", 1)
    text = refused(capsys, "list", "--storage", storage)
    assert text.startswith(f"Error: storage = {storage}: cannot be listed: it does not answer (Could not connect")
    assert text.endswith(").\n  Check the network and AWS_ENDPOINT_URL, then try again.\n")
