"""The lease of a run, on a local disk and on an object store: fsspec's ``memory://``."""

import json
import multiprocessing
import os
import pickle
import shutil
import socket
import subprocess
import sys
import threading
import time
from datetime import datetime
from pathlib import Path
from secrets import token_hex
from typing import Any

import pytest

from scaler.errors import RunError
from scaler.runs import RunFolder, RunState, lease, processes
from scaler.runs.lease import FILE, Lease, read_lease, require_free

NOON = datetime(2026, 1, 2, 12, 0, 5)


@pytest.fixture(params=["local", "memory"])
def folder(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    monkeypatch.setattr(lease, "SETTLE_S", 0.05)
    storage = str(tmp_path) if request.param == "local" else f"memory://{token_hex(8)}/runs"
    return RunFolder.create(storage, name="digits", now=NOON)


def leave(folder: RunFolder, **values: Any) -> None:
    """What a driver that is gone, or elsewhere, has left."""
    here = {"host": socket.gethostname(), "namespace": processes._namespace()}
    folder.write_json(FILE, {"token": "0123", **here, "pid": 4242, "beat": time.time(), **values})


def gone() -> int:
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_claim_names_the_driver_and_is_released(folder: RunFolder) -> None:
    with Lease.claim(folder) as held:
        found = read_lease(folder)
        assert found is not None
        assert (found["host"], found["pid"]) == (socket.gethostname(), os.getpid())
        assert abs(found["beat"] - time.time()) < 5
        held.require_held()
    assert not folder.exists(FILE)
    assert folder.names("") == []


def test_a_lease_is_released_after_an_error_too(folder: RunFolder) -> None:
    with pytest.raises(ZeroDivisionError), Lease.claim(folder):
        raise ZeroDivisionError
    assert not folder.exists(FILE)


def test_a_run_that_another_process_runs_is_not_claimed(folder: RunFolder) -> None:
    with Lease.claim(folder):
        with pytest.raises(RunError) as caught:
            Lease.claim(folder)
        assert str(caught.value) == (
            f"run {folder.run_id} is being run by process {os.getpid()} on {socket.gethostname()}, seen 0 s ago.\n"
            "  Stop it first (Ctrl-C there), or wait 60 s after it has ended."
        )
    Lease.claim(folder).release()


def test_a_driver_elsewhere_counts_for_a_minute(folder: RunFolder) -> None:
    leave(folder, host="elsewhere", beat=time.time() - 40)
    with pytest.raises(RunError) as caught:
        require_free(folder)
    assert caught.value.problem == (f"run {folder.run_id} is being run by process 4242 on elsewhere, seen 40 s ago.")
    leave(folder, host="elsewhere", beat=time.time() - 61)
    with Lease.claim(folder) as held:
        assert held.before is not None
        assert held.before["host"] == "elsewhere"


@pytest.mark.parametrize(
    ("values", "free"),
    [
        ({}, True),  # this machine, and its process is gone
        ({"host": "elsewhere"}, False),
        ({"namespace": "pid:[1]"}, False),  # another container of this host name
        ({"pid": 1}, False),  # another user's, or ours
    ],
)
def test_on_this_machine_the_end_of_a_process_is_noticed_at_once(
    folder: RunFolder, values: dict[str, Any], free: bool
) -> None:
    leave(folder, **{"pid": gone(), **values})
    if free:
        require_free(folder)
    else:
        with pytest.raises(RunError, match="is being run by process"):
            require_free(folder)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"token": 1}',
        '{"token": "a", "host": "b", "pid": "7", "beat": 0}',
        '{"token": "a", "host": "b", "pid": -1, "beat": 4e9}',
    ],
)
def test_an_unreadable_lease_blocks_no_claim(folder: RunFolder, content: str) -> None:
    folder.write(FILE, content)
    with Lease.claim(folder) as held:
        held.require_held()


def test_a_heartbeat_hours_ahead_blocks_no_claim(folder: RunFolder) -> None:
    leave(folder, host="elsewhere", beat=time.time() + 7200)
    Lease.claim(folder).release()


def test_a_heartbeat_updates_the_lease(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "BEAT_S", 0.05)
    with Lease.claim(folder):
        first = folder.read_json(FILE)["beat"]
        until = time.monotonic() + 60
        while folder.read_json(FILE)["beat"] == first:
            assert time.monotonic() < until
            time.sleep(0.02)


def test_a_process_notices_that_its_run_was_taken_over(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "BEAT_S", 0.05)
    with Lease.claim(folder) as held:
        leave(folder, host="elsewhere")
        until = time.monotonic() + 60
        while not held.is_lost:
            assert time.monotonic() < until
            time.sleep(0.02)
        with pytest.raises(RunError) as caught:
            held.require_held()
    assert str(caught.value) == (
        f"run {folder.run_id} was taken over by process 4242 on elsewhere.\n"
        "  The run continues there; this process writes nothing more to it."
    )
    assert folder.read_json(FILE)["token"] == "0123"


GONE = "was taken over: its driver.json was removed."
ANOTHER = "was taken over: its driver.json was replaced."


@pytest.mark.parametrize(("content", "problem"), [(None, GONE), ("{", ANOTHER), ("{}", ANOTHER)])
def test_a_removed_lease_is_lost_for_good(folder: RunFolder, content: str | None, problem: str) -> None:
    """Whoever took the run over may have finished it, and given it back."""
    folder.set_state(RunState.SUCCEEDED)
    held = Lease.claim(folder)
    folder.remove(FILE)
    if content is not None:
        folder.write(FILE, content)
    for _ in range(2):
        held.beat()
        with pytest.raises(RunError) as caught:
            held.require_held()
    assert str(caught.value) == (
        f"run {folder.run_id} {problem}\n"
        "  Another process resumed the run, or the file was changed; this process writes nothing more to it."
    )
    assert not held.look()
    held.release()
    assert folder.exists(FILE) is (content is not None)


class Clocks:
    """Both clocks of the lease, in a test's hand."""

    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> Clocks:
    made = Clocks()
    monkeypatch.setattr(lease, "time", made)
    monkeypatch.setattr(lease, "monotonic", made)
    return made


def test_a_suspended_driver_writes_nothing_after_another_finished_the_run(folder: RunFolder, clocks: Clocks) -> None:
    held = Lease.claim(folder)
    writes = held.held_folder()
    writes.append_json("events.jsonl", [{"n": 1}])
    writes.write("plan.json", "old")
    clocks.now += 62  # stopped, here, and taken over from elsewhere
    leave(folder, host="elsewhere", beat=clocks.now)
    folder.write("plan.json", "new")
    folder.remove(FILE)
    for write in (
        lambda: writes.append_json("events.jsonl", [{"n": 2}]),
        lambda: writes.write("plan.json", "old"),
        lambda: writes.write_json("plan.json", {}),
        lambda: writes.remove("plan.json"),
        lambda: writes.remove_folder("checkpoints"),
        lambda: writes.set_state(RunState.FAILED),
        held.require_held,
    ):
        with pytest.raises(RunError, match=r"was taken over: its driver\.json was removed\."):
            write()
    assert list(folder.rows("events.jsonl")) == [{"n": 1}]
    assert folder.names("") == ["events.jsonl", "plan.json"]
    assert folder.read("plan.json") == b"new"


def test_a_suspended_driver_continues_if_no_other_claimed_the_run(folder: RunFolder, clocks: Clocks) -> None:
    held = Lease.claim(folder)
    clocks.now += 3600
    held.held_folder().write("plan.json", "x")
    assert folder.read_json(FILE)["beat"] == clocks.now
    held.require_held()


def test_checking_the_lease_needs_no_io_between_heartbeats(
    folder: RunFolder, clocks: Clocks, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = Lease.claim(folder)
    looked: list[float] = []
    monkeypatch.setattr(held, "look", lambda: looked.append(clocks.now))
    clocks.now += 29
    held.require_held()
    assert looked == []
    clocks.now += 2
    held.require_held()
    assert looked == [clocks.now]


def test_a_lease_is_kept_while_the_storage_cannot_be_read(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    held = Lease.claim(folder)
    with monkeypatch.context() as patched:
        patched.setattr(RunFolder, "read_if_there", lambda *_: (_ for _ in ()).throw(RunError("stale handle")))
        assert held.look()
    held.beat()
    held.require_held()


def test_the_holder_s_folder_is_sent_to_other_processes_as_a_plain_one(folder: RunFolder) -> None:
    assert pickle.loads(pickle.dumps(Lease.claim(folder).held_folder())) == folder


def test_an_existing_process_of_this_machine_keeps_its_lease_however_long_it_is_silent(
    folder: RunFolder, clocks: Clocks
) -> None:
    Lease.claim(folder)
    clocks.now += 7200
    with pytest.raises(RunError) as caught:
        Lease.claim(folder)
    assert str(caught.value) == (
        f"run {folder.run_id} is held by process {os.getpid()} on {socket.gethostname()}, which has been silent for "
        "7200 s and still exists.\n"
        f"  End it first: kill -9 {os.getpid()}\n"
        f"  If that process is not scaler, remove {folder.path(FILE)}."
    )


@pytest.mark.parametrize(
    "values",
    [
        {"born": "another start of this machine 17"},  # its number went to a later process
        {"place": "/where/the/original/is"},  # a copy: the driver of the original does not run this one
        {"host": "elsewhere"},
        {"namespace": "pid:[1]"},
        {"pid": 2**70},
    ],
)
def test_a_stale_lease_of_another_machine_or_process_blocks_no_claim(folder: RunFolder, values: dict[str, Any]) -> None:
    leave(folder, **{"pid": os.getpid(), "place": folder.place, "beat": time.time() - 3600, **values})
    Lease.claim(folder).release()


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="nothing tells a process from its remains")
def test_a_killed_driver_that_is_a_zombie_has_ended(folder: RunFolder) -> None:
    process = subprocess.Popen([sys.executable, "-c", ""], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.read()
    until = time.monotonic() + 60
    while processes.born(process.pid) != "gone":
        assert time.monotonic() < until
        time.sleep(0.02)
    leave(folder, pid=process.pid, born="a b")
    require_free(folder)
    process.wait()
    process.stdout.close()


def test_a_removed_folder_is_noticed_and_not_made_again(folder: RunFolder) -> None:
    held = Lease.claim(folder)
    filesystem, root = folder.filesystem("")
    filesystem.rm(root, recursive=True)
    held.beat()
    with pytest.raises(RunError) as caught:
        held.require_held()
    assert str(caught.value) == (f"run {folder.run_id} has lost its folder.\n  Something removed {folder.path('')}.")
    assert not folder.exists()


def test_a_temporary_failure_of_the_storage_loses_no_lease(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "BEAT_S", 0.02)
    with Lease.claim(folder) as held:
        with monkeypatch.context() as patched:
            patched.setattr(RunFolder, "write", lambda *_: (_ for _ in ()).throw(RunError("full")))
            time.sleep(0.2)
        failed_until, deadline = time.time(), time.monotonic() + 60
        while folder.read_json(FILE)["beat"] < failed_until:
            assert time.monotonic() < deadline, "no beat since the storage works again"
            time.sleep(0.02)
        held.require_held()


def claim_once(uri: str, begin: Any, results: Any) -> None:
    begin.wait()
    try:
        Lease.claim(RunFolder(uri))
        results.put(os.getpid())
        time.sleep(2)  # a driver that is gone could be followed
    except RunError:
        results.put(None)


def test_of_many_processes_that_claim_at_once_one_gets_the_lease(tmp_path: Path) -> None:
    """On a local disk exactly one, however they fall together."""
    context = multiprocessing.get_context("forkserver")
    for _ in range(3):
        folder = RunFolder.create(str(tmp_path), name="contested", now=NOON)
        begin, results = context.Event(), context.Queue()
        claimers = [context.Process(target=claim_once, args=(folder.uri, begin, results)) for _ in range(6)]
        for claimer in claimers:
            claimer.start()
        begin.set()
        found = [results.get(timeout=60) for _ in claimers]
        for claimer in claimers:
            claimer.join()
        (winner,) = [pid for pid in found if pid is not None]
        assert json.loads(folder.read(FILE))["pid"] == winner


def test_of_two_claims_that_write_at_once_the_last_gets_the_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing locks: both find the run free, both write, and each looks again."""
    monkeypatch.setattr(lease, "SETTLE_S", 0.3)
    folder = RunFolder.create(f"memory://{token_hex(8)}/runs", name="contested", now=NOON)
    both_looked = threading.Barrier(2)
    looked = require_free

    def look_together(folder: RunFolder) -> None:
        looked(folder)
        both_looked.wait(timeout=10)

    monkeypatch.setattr(lease, "require_free", look_together)
    outcomes: list[object] = []

    def claim() -> None:
        try:
            outcomes.append(Lease.claim(folder)._token)
        except RunError as error:
            outcomes.append(error)

    claimers = [threading.Thread(target=claim) for _ in range(2)]
    for claimer in claimers:
        claimer.start()
    for claimer in claimers:
        claimer.join()
    (winner,) = [outcome for outcome in outcomes if isinstance(outcome, str)]
    (loser,) = [outcome for outcome in outcomes if isinstance(outcome, RunError)]
    assert folder.read_json(FILE)["token"] == winner
    assert loser.problem.startswith(f"run {folder.run_id} is being run by process {os.getpid()} on ")


def test_a_folder_that_was_copied_while_it_ran_is_free_when_the_lease_is_stale(folder: RunFolder) -> None:
    with Lease.claim(folder):
        copied = json.loads(folder.read(FILE))
    copy = RunFolder(f"{folder.uri}-copy")
    copy.write_json(FILE, {**copied, "host": "elsewhere", "beat": time.time() - 3600})
    with Lease.claim(copy) as held:
        held.require_held()


def test_a_folder_that_was_removed_and_written_to_again_is_not_one_that_was_taken_over(tmp_path: Path) -> None:
    folder = RunFolder.create(str(tmp_path), name="digits", now=datetime(2026, 1, 2, 12, 0, 5))
    held = Lease.claim(folder)
    shutil.rmtree(folder.uri)
    folder.append_json("events.jsonl", [{"kind": "evaluated"}])  # a writer that has not noticed
    held.beat()
    with pytest.raises(RunError) as caught:
        held.require_held()
    assert str(caught.value) == f"run {folder.run_id} has lost its folder.\n  Something removed {folder.path('')}."
    held.release()


# What a reader says of a run.


def test_a_run_with_a_driver_has_the_state_that_was_written(folder: RunFolder) -> None:
    with Lease.claim(folder):
        for state in (RunState.STARTING, RunState.RUNNING):
            folder.set_state(state)
            assert lease.present_state(folder) == (state, None)


@pytest.mark.parametrize("state", [RunState.SUCCEEDED, RunState.FAILED, RunState.STOPPED])
def test_a_final_state_needs_no_driver(folder: RunFolder, state: RunState) -> None:
    folder.set_state(state)
    assert lease.present_state(folder) == (state, None)


def test_a_run_without_a_final_state_and_a_driver_is_lost(folder: RunFolder) -> None:
    folder.set_state(RunState.RUNNING)
    assert lease.present_state(folder) == (RunState.LOST, None)
    assert folder.state() is RunState.RUNNING, "a reader writes nothing"


@pytest.mark.parametrize(
    ("values", "is_lost"),
    [
        ({"pid": 2**22 + 1}, True),  # this machine has no such process
        ({"host": "elsewhere", "ago": 5}, False),
        ({"host": "elsewhere", "ago": 300}, True),
        ({"pid": os.getpid(), "ago": 300}, False),  # asleep, and still there
        ({"pid": os.getpid(), "place": "/elsewhere/run"}, True),  # a copy of a run that has a driver
    ],
)
def test_a_driver_has_ended_if_its_process_has_or_if_its_lease_is_stale(
    folder: RunFolder, values: dict[str, Any], is_lost: bool
) -> None:
    values = dict(values)
    folder.set_state(RunState.RUNNING)
    leave(folder, **{"beat": time.time() - values.pop("ago", 0), **values})
    state, gone = lease.present_state(folder)
    assert (state is RunState.LOST) == is_lost
    assert (gone is not None) == is_lost
