"""``scaler status``, ``logs``, ``stop``, ``wait`` and ``list``, on runs that a folder is all that is left of."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from in_process import Scaler
from run_folders import write_run
from synthetic import SyntheticRun
from test_run_control import AT_WORK

from scaler.cli.logs_command import _event_line
from scaler.cluster.progress import MOST_WORKERS
from scaler.cluster.progress_file import progress_dict
from scaler.cluster.ray_jobs import Submission
from scaler.runs import RunFolder, RunState
from scaler.runs.control import PROGRESS, read_stop
from scaler.runs.lease import FILE as LEASE
from scaler.runs.lease import Lease

NAME = "digits-20260101-120000-aaaa"


@pytest.fixture
def made(scaler_command: Scaler, synthetic_run: SyntheticRun, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    """A run in ./runs that succeeded; the commands are typed in the folder of ./runs."""
    monkeypatch.setattr("scaler.api.status.POLL_S", 0.01)
    monkeypatch.setattr("scaler.cli.logs_command.POLL_S", 0.01)
    folder = write_run("runs", NAME, synthetic_run.attempt(0))
    folder.write_json(PROGRESS, progress_dict(AT_WORK, total_samples=192.0))
    return folder


@contextmanager
def running(folder: RunFolder, state: RunState = RunState.RUNNING) -> Iterator[None]:
    """The run is run by this process."""
    folder.set_state(state, started_at=time.time() - 100, ended_at=None)
    with Lease.claim(folder):
        yield


def end(folder: RunFolder, state: RunState, code: int, failure: str | None = None) -> None:
    """End a run as its driver does: the state, then the report, then the lease."""
    folder.set_state(state, ended_at=time.time(), exit_code=code, failure=failure)
    time.sleep(0.1)  # reading many records takes longer
    folder.write("report.md", "the last report")
    folder.remove(LEASE)


@contextmanager
def soon(act: Callable[[], None], *, after_s: float = 0.1) -> Iterator[None]:
    """Act in another thread, a moment later."""
    timer = threading.Timer(after_s, act)
    timer.start()
    yield
    timer.join()


def test_the_status_of_many_workers_fits_into_the_terminal(
    scaler_command: Scaler, made: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LINES", "24")
    workers = tuple(replace(AT_WORK.workers[0], rank=rank) for rank in range(MOST_WORKERS))
    many = replace(AT_WORK, world_size=64, workers=workers)
    made.write_json(PROGRESS, progress_dict(many, total_samples=192.0))
    with running(made):
        lines = scaler_command("status", "last").out.splitlines()
    assert len(lines) == 23, "and the prompt"
    assert lines[0].startswith(NAME)
    assert "and 50 more, faster ones" in lines


def test_the_status_of_a_running_run(scaler_command: Scaler, made: RunFolder) -> None:
    with running(made):
        code, out, err = scaler_command("status", "last")
        assert (code, err) == (0, "")
        first, *lines = out.splitlines()
        assert first.startswith(f"{NAME}  running  started ")
        assert first.endswith(" UTC, 1 min 40 s ago")
        assert lines[0].startswith("training on 2 workers")
        assert lines[0].endswith("25% 9 s left")
        assert lines[1] == "loss 2  lr 0.04  32 samples/s  accuracy 0.5"
        assert lines[-3:] == [
            f"Follow: scaler wait {NAME}",
            f"Logs:   scaler logs {NAME} -f",
            f"Stop:   scaler stop {NAME}",
        ]
        values = json.loads(scaler_command("status", NAME, "--json").out)
        assert (values["state"], values["total_samples"], values["left_s"]) == ("running", 192.0, 9.0)
        assert values["progress"]["samples_seen"] == 96
        assert values["progress"]["workers"][1]["rank"] == 1
        assert values["stop"] is None


@pytest.mark.parametrize(
    ("state", "code", "last"),
    [
        (RunState.SUCCEEDED, 0, f"Report: scaler report {NAME}"),
        (RunState.STOPPED, 0, f"Continue: scaler resume {NAME}"),
        (RunState.FAILED, 4, f"Continue: scaler resume {NAME}"),
        (RunState.RUNNING, 4, f"Continue: scaler resume {NAME}"),  # and nobody runs it: lost
    ],
)
def test_the_status_of_a_run_that_nobody_runs(
    scaler_command: Scaler, made: RunFolder, state: RunState, code: int, last: str
) -> None:
    made.set_state(state, failure="boom" if state is RunState.FAILED else None)
    outcome = scaler_command("status", "last")
    assert (outcome.code, outcome.out.splitlines()[-1]) == (code, last)
    assert ("boom" in outcome.out) == (state is RunState.FAILED)
    assert ("  lost  " in outcome.out and "No process runs it." in outcome.out) == (state is RunState.RUNNING)
    assert json.loads(scaler_command("status", "last", "--json").out)["left_s"] is None


class _Accepted:
    """A run that a cluster has accepted, and whose folder does not exist yet."""

    run_id, shown = NAME, "http://head:8265"

    def submission(self) -> Submission:
        about = {"driver_exit_code": None, "message": "", "folder_uri": "s3://b/r", "started": 0, "ended": 0}
        return Submission(run_id=NAME, submission_id=NAME, status="PENDING", **about)

    def driver_log(self) -> list[str]:
        return []


def test_a_run_that_waits_for_its_driver_is_followed_and_not_resumed(
    scaler_command: Scaler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scaler.api.find.locate_run", lambda run, storage, address: _Accepted())
    code, out, _ = scaler_command("status", NAME, "--address", "http://head:8265")
    name = f"{NAME} --address http://head:8265"
    assert code == 0
    assert out.splitlines()[:4] == [
        f"{NAME}  pending",
        f"Follow: scaler wait {name}",
        f"Logs:   scaler logs {name} -f",
        f"Stop:   scaler stop {name}",
    ]


@pytest.mark.parametrize("command", ["status", "logs", "stop", "wait"])
def test_a_run_that_does_not_exist(scaler_command: Scaler, made: RunFolder, command: str) -> None:
    code, out, err = scaler_command(command, "digits-1")
    assert (code, out) == (5, "")
    assert err == (
        "Error: there is no run digits-1, neither at this path nor in runs.\n  The newest there: " + NAME + ".\n"
    )


def test_stop_leaves_a_request_in_the_folder_and_says_how_to_wait(scaler_command: Scaler, made: RunFolder) -> None:
    with running(made):
        assert scaler_command("stop", "last") == (
            0,
            "",
            f"Run {NAME} was asked to stop. It saves a checkpoint first.\nWait for the end: scaler wait {NAME}\n",
        )
        request = read_stop(made)
        assert request is not None
        assert not request.now
        assert f"\nAsked to stop by {request.by} " in scaler_command("status", "last").out
        shown = json.loads(scaler_command("stop", "last", "--json").out)
        assert (shown["run_id"], shown["state"], shown["stop"]["now"]) == (NAME, "running", False)
        assert "It ends at once." in scaler_command("stop", "last", "--now").err
        assert (request := read_stop(made)) is not None
        assert request.now
        with soon(lambda: end(made, RunState.STOPPED, 130)):
            assert scaler_command("stop", "last", "--wait").err == (
                f"Run {NAME}: stopped. Continue with: scaler resume {NAME}\n"
            )


def test_what_has_ended_is_not_asked_to_stop(scaler_command: Scaler, made: RunFolder) -> None:
    assert scaler_command("stop", "last") == (0, "", f"Run {NAME} had ended before: succeeded.\n")
    made.set_state(RunState.RUNNING)
    assert scaler_command("stop", "last") == (
        5,
        "",
        f"Error: run {NAME} is lost: no process runs it.\n"
        "  There is nothing to stop. scaler resume continues the run.\n",
    )
    assert read_stop(made) is None


@pytest.mark.parametrize(
    ("state", "code", "failure"),
    [(RunState.SUCCEEDED, 0, None), (RunState.STOPPED, 130, None), (RunState.FAILED, 3, "the cluster was lost.")],
)
def test_wait_ends_with_the_exit_code_of_the_run(
    scaler_command: Scaler, made: RunFolder, state: RunState, code: int, failure: str | None
) -> None:
    with running(made), soon(lambda: end(made, state, code, failure)):
        outcome = scaler_command("wait", "last")
    assert outcome[:2] == (code, f"{NAME}  {state}\n")
    assert made.read("report.md") == b"the last report", "who waits finds the report"
    assert outcome.err.startswith(" 24%  loss 2  lr 0.04  32 samples/s  accuracy 0.5  (rank 1 makes the others wait: ")
    assert (failure or "") in outcome.err


def test_wait_ends_when_its_time_is_over_or_the_run_is_lost(scaler_command: Scaler, made: RunFolder) -> None:
    with running(made):
        assert scaler_command("wait", "last", "--timeout", "0.05", "--quiet") == (124, f"{NAME}  running\n", "")
    made.set_state(RunState.RUNNING)
    assert scaler_command("wait", "last", "--quiet")[:2] == (4, f"{NAME}  lost\n")


def test_wait_says_once_that_the_storage_is_away_and_that_it_is_back(
    scaler_command: Scaler, made: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scaler.api.status.SILENT_S", 0.0)
    status = made.read("status.json")
    away = Path("runs", NAME, "status.json")

    def disturb() -> None:
        away.write_text("{")
        time.sleep(0.1)
        away.write_bytes(status)

    with running(made, RunState.STARTING):
        status = made.read("status.json")
        with soon(lambda: (disturb(), end(made, RunState.SUCCEEDED, 0))[1]):
            code, _, err = scaler_command("wait", "last", "--quiet")
    assert code == 0
    assert err.count("Cannot read the run: ") == 1
    assert err.count("The run can be read again.") <= 1


@pytest.fixture
def logs(made: RunFolder) -> Path:
    folder = Path("runs", NAME, "logs")
    folder.mkdir()
    (folder / "rank-0.log").write_text("zero a\nzero b\n")
    (folder / "rank-10.log").write_text("".join(f"ten {line}\n" for line in range(60)))
    (folder / "rank-2.log").write_text("two \x1b[31mred\n")
    (folder / "rank-3.log").write_text("")
    return folder


def test_logs_of_all_workers_and_of_one(scaler_command: Scaler, logs: Path) -> None:
    code, out, err = scaler_command("logs", "last")
    assert (code, err) == (0, "")
    tens = [f"ten {line}" for line in range(10, 60)]
    red = "two \\x1b[31mred"
    assert out.splitlines() == ["==> rank 0 <==", "zero a", "zero b", "==> rank 2 <==", red, "==> rank 10 <==", *tens]
    assert len(scaler_command("logs", "last", "--rank", "10").out.splitlines()) == 60
    assert scaler_command("logs", "last", "--rank", "10", "-n", "2").out == "ten 58\nten 59\n"
    events = f"Its events, which say what happened: scaler logs {NAME} --driver"
    assert scaler_command("logs", "last", "--rank", "3") == (0, "", f"Run {NAME} has printed nothing. {events}\n")
    assert scaler_command("logs", "last", "--rank", "7").err == (
        f"Run {NAME} has no log of rank 7. The ranks with a log: 0, 2, 3, 10.\n"
    )
    assert scaler_command("logs", "last", "--rank", "0", "--driver").code == 2


def test_logs_are_followed_until_the_run_has_ended(scaler_command: Scaler, made: RunFolder, logs: Path) -> None:
    def go_on() -> None:
        with (logs / "rank-0.log").open("a") as file:
            file.write("zero c\nzero d")
        end(made, RunState.SUCCEEDED, 0)

    with running(made), soon(go_on, after_s=1.0):  # after the command has shown the ends of the logs
        out = scaler_command("logs", "last", "-f", "-n", "1").out
    assert out.splitlines() == [
        "rank 0 | zero b",
        "rank 2 | two \\x1b[31mred",
        "rank 10 | ten 59",
        "rank 0 | zero c",
        "rank 0 | zero d",
    ]


def test_the_log_of_the_driver_is_the_events(scaler_command: Scaler, made: RunFolder) -> None:
    out = scaler_command("logs", "last", "--driver").out
    lines = out.splitlines()
    assert any(line.split("  ")[1] == "attempt_started" and "world_size=2" in line for line in lines)
    dimensions = {"replicate": 2, "shard": 1, "tensor": 1}
    start = {"kind": "attempt_started", "time": 0.0, "samples_seen": 64, "start_samples": 64, "mesh": dimensions}
    line = _event_line(json.dumps({**start, "world_size": 2, "data_parallel_size": 2}))
    assert line == "1970-01-01 00:00:00  attempt_started  samples_seen=64  mesh={replicate: 2}  world_size=2"
    assert scaler_command("logs", "last").err == (
        f"Run {NAME} has no logs of workers: no worker has started, or the run uses no Ray and prints to its own "
        "terminal.\n"
    )


def test_the_list_has_the_share_done_of_what_has_not_succeeded(
    scaler_command: Scaler, made: RunFolder, synthetic_run: SyntheticRun
) -> None:
    other = write_run(
        "runs", "digits-long-name-20260101-120001-bbbb", replace(synthetic_run.attempt(0), state="failed")
    )
    other.write_json(PROGRESS, progress_dict(AT_WORK, total_samples=192.0))
    assert scaler_command("list").out.splitlines() == [
        f"{NAME}            succeeded",
        "digits-long-name-20260101-120001-bbbb  failed  25%",
    ]
    rows = json.loads(scaler_command("list", "--json").out)
    assert [row["state"] for row in rows] == ["succeeded", "failed"]
    assert rows[1]["samples_seen"] == 96
    assert rows[0]["uri"] == str(Path("runs", NAME).resolve())
