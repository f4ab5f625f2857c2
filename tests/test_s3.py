"""Runs on s3://, on a server that speaks its protocol."""

from collections.abc import Iterator

import pytest
from synthetic import SyntheticRun

from scaler.job import dump_job
from scaler.metrics.reader import read_events, read_records
from scaler.metrics.writer import MetricsWriter
from scaler.report.compare.read import read_comparison
from scaler.report.write import write_report
from scaler.runs import RunFolder, RunState
from scaler.runs.find import find_run, list_runs

pytest.importorskip("s3fs", reason="pip install scaler[s3]")
moto_server = pytest.importorskip("moto.server", reason="pip install scaler[dev]")
pytestmark = pytest.mark.filterwarnings("default")  # its dependencies' deprecations are not ours

BUCKET = "runs"


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
    s3fs.S3FileSystem().mkdir(BUCKET)
    yield f"s3://{BUCKET}/team"
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


def test_a_run_there_is_written_found_read_and_reported_as_any_other(storage: str, synthetic_run: SyntheticRun) -> None:
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
