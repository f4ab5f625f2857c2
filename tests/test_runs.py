"""The run folder, on a local disk and on an object store: fsspec's ``memory://``."""

import pickle
import re
from datetime import datetime
from pathlib import Path
from secrets import token_hex
from typing import Any

import pytest

from scaler.errors import RunError
from scaler.runs import RunFolder, RunState, find_run, list_runs, new_run_id

NOON = datetime(2026, 1, 2, 12, 0, 5)


@pytest.fixture(params=["local", "memory"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where runs go; nothing is there yet."""
    return str(tmp_path / "runs") if request.param == "local" else f"memory://{token_hex(8)}/runs"


@pytest.fixture
def folder(storage: str) -> RunFolder:
    return RunFolder.create(storage, name="digits", now=NOON)


def test_a_run_id_says_name_time_and_four_hex_digits() -> None:
    ids = {new_run_id("my.job", NOON) for _ in range(20)}
    assert len(ids) > 1
    assert all(re.fullmatch(r"my\.job-20260102-120005-[0-9a-f]{4}", run_id) for run_id in ids)


@pytest.mark.parametrize(
    ("state", "is_end"),
    [
        (RunState.STARTING, False),
        (RunState.RUNNING, False),
        (RunState.SUCCEEDED, True),
        (RunState.FAILED, True),
        (RunState.STOPPED, True),
    ],
)
def test_three_states_are_ends(state: RunState, is_end: bool) -> None:
    assert state.is_end is is_end


def test_a_new_folder_lies_below_the_storage_and_is_empty(folder: RunFolder, storage: str) -> None:
    assert folder.exists()
    assert folder.names("") == []
    assert folder.uri == f"{storage}/{folder.run_id}"
    assert folder.run_id.startswith("digits-20260102-120005-")


def test_a_slash_at_the_end_of_the_storage_changes_nothing(storage: str) -> None:
    folder = RunFolder.create(f"{storage}/", name="digits", now=NOON)
    assert folder.uri == f"{storage}/{folder.run_id}"


def test_only_a_local_folder_has_a_local_path(folder: RunFolder, storage: str) -> None:
    assert folder.local_path == (None if storage.startswith("memory://") else Path(folder.uri))


def test_a_document_is_read_as_it_was_written(folder: RunFolder) -> None:
    folder.write("checkpoints/00000001.bin", b"\x00\xff")
    folder.write("report.md", "héllo\n")
    assert folder.read("checkpoints/00000001.bin") == b"\x00\xff"
    assert folder.read("report.md") == "héllo\n".encode()
    assert folder.names("checkpoints") == ["00000001.bin"]
    assert folder.exists("report.md")
    assert not folder.exists("report.html")


def test_a_document_is_replaced_and_leaves_nothing_beside_it(folder: RunFolder) -> None:
    for content in ("first", "second", "third"):
        folder.write("report.md", content)
    assert folder.read("report.md") == b"third"
    assert folder.names("") == ["report.md"]


def test_a_write_that_is_cut_off_leaves_the_old_document(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.write_json("status.json", {"state": "running"})
    filesystem, _ = folder.filesystem("")

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    for move in ("mv", "cp_file"):
        monkeypatch.setattr(type(filesystem), move, killed)
    with pytest.raises(KeyboardInterrupt):
        folder.write_json("status.json", {"state": "succeeded"})
    assert folder.read_json("status.json") == {"state": "running"}


def test_a_document_that_is_not_there_is_an_error(folder: RunFolder) -> None:
    with pytest.raises(RunError) as caught:
        folder.read("plan.json")
    assert str(caught.value) == (
        f"run {folder.run_id} has no plan.json in {folder.path('')}.\n"
        "  It is written when the run starts; scaler list shows the runs that there are."
    )


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("{", "is not JSON: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)."),
        ("", "is not JSON: Expecting value: line 1 column 1 (char 0)."),
        ("[1]", "holds no keys and values."),
    ],
)
def test_a_document_that_was_altered_is_an_error(folder: RunFolder, content: str, problem: str) -> None:
    folder.write("plan.json", content)
    with pytest.raises(RunError) as caught:
        folder.read_json("plan.json")
    assert str(caught.value) == f"run {folder.run_id}: plan.json {problem}\n  The file was altered."


def test_a_document_never_holds_what_json_has_no_word_for(folder: RunFolder) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        folder.write_json("plan.json", {"lr": float("nan")})
    assert not folder.exists("plan.json")


def test_removing_a_file_that_is_gone_is_no_error(folder: RunFolder) -> None:
    folder.write("a", "1")
    folder.remove("a")
    folder.remove("a")
    assert not folder.exists("a")


def test_the_names_in_a_folder_that_is_not_there_are_none(folder: RunFolder) -> None:
    assert folder.names("checkpoints") == []


# Logs.


def test_a_log_keeps_its_rows_in_order(folder: RunFolder) -> None:
    folder.append_json("events.jsonl", [{"n": 1}, {"n": 2, "text": "a\nb"}])
    folder.append_json("events.jsonl", [])
    folder.append_json("events.jsonl", [{"n": 3}])
    assert list(folder.rows("events.jsonl")) == [{"n": 1}, {"n": 2, "text": "a\nb"}, {"n": 3}]


def test_a_log_that_is_not_there_has_no_rows(folder: RunFolder) -> None:
    assert list(folder.rows("events.jsonl")) == []


def cut_off(folder: RunFolder, name: str, piece: bytes) -> None:
    """What a kill in the middle of an append leaves."""
    filesystem, path = folder.filesystem(name)
    with filesystem.open(path, "ab") as file:
        file.write(piece)


@pytest.mark.parametrize("piece", [b'{"n": 2', b'{"n": 2}', b"{", b"\xff"])
def test_a_last_line_that_was_cut_off_is_passed_over(folder: RunFolder, piece: bytes) -> None:
    folder.append_json("events.jsonl", [{"n": 1}])
    cut_off(folder, "events.jsonl", piece)
    assert list(folder.rows("events.jsonl")) == [{"n": 1}]


def test_a_log_that_goes_on_after_a_cut_keeps_what_is_whole(folder: RunFolder) -> None:
    folder.append_json("events.jsonl", [{"n": 1}])
    cut_off(folder, "events.jsonl", b'{"n": 2, "te')
    folder.append_json("events.jsonl", [{"n": 3}])
    folder.append_json("events.jsonl", [{"n": 4}])
    rows = list(folder.rows("events.jsonl"))
    assert rows[0] == {"n": 1}
    assert rows[-1] == {"n": 4}
    assert {"n": 2} not in rows


# Status.


def test_a_state_keeps_what_was_known(folder: RunFolder) -> None:
    folder.set_state(RunState.STARTING, started_at=1.0, note="a")
    folder.set_state(RunState.SUCCEEDED, ended_at=2.0, note="b")
    assert folder.state() is RunState.SUCCEEDED
    assert folder.read_json("status.json") == {
        "schema_version": 1,
        "run_id": folder.run_id,
        "started_at": 1.0,
        "ended_at": 2.0,
        "note": "b",
        "state": "succeeded",
    }


@pytest.mark.parametrize(("content", "shown"), [('{"state": "asleep"}', "asleep"), ("{}", "None")])
def test_a_state_that_is_none_is_an_error(folder: RunFolder, content: str, shown: str) -> None:
    folder.write("status.json", content)
    with pytest.raises(RunError) as caught:
        folder.state()
    states = "starting, running, succeeded, failed, stopped"
    assert str(caught.value) == (
        f"run {folder.run_id}: status.json has the state {shown}, not one of {states}.\n  The file was altered."
    )


# Finding runs.


def make_run(storage: str, name: str = "digits", second: int = 0) -> RunFolder:
    folder = RunFolder.create(storage, name=name, now=NOON.replace(second=second))
    folder.set_state(RunState.SUCCEEDED)
    return folder


def test_runs_are_listed_oldest_first_whatever_their_names(storage: str) -> None:
    made = [make_run(storage, "zeta-1", 1), make_run(storage, "alpha", 2), make_run(storage, "mid-20990101", 3)]
    assert [run.run_id for run in list_runs(storage)] == [run.run_id for run in made]


def test_what_is_no_run_is_not_listed(storage: str) -> None:
    run = make_run(storage)
    RunFolder.create(storage, name="unborn", now=NOON)
    RunFolder(f"{storage}/notes").write("readme.txt", "hello")
    assert list_runs(storage) == [run]


def test_a_storage_that_is_not_there_has_no_runs(storage: str) -> None:
    assert list_runs(storage) == []


def test_a_run_is_found_by_id_by_place_and_as_the_last(storage: str) -> None:
    first, second = make_run(storage, second=1), make_run(storage, second=2)
    assert find_run(first.run_id, storage=storage) == first
    assert find_run(first.uri) == first
    assert find_run(f"{first.uri}/").run_id == first.run_id
    assert find_run("last", storage=storage) == second


def test_a_run_that_is_not_there_is_an_error_that_names_the_newest(storage: str) -> None:
    with pytest.raises(RunError) as caught:
        find_run("nosuch", storage=storage)
    assert str(caught.value) == f"there is no run nosuch here, nor in {storage}.\n  scaler submit JOB makes one."
    ids = [make_run(storage, second=second).run_id for second in range(4)]
    with pytest.raises(RunError) as caught:
        find_run("nosuch", storage=storage)
    assert str(caught.value) == (
        f"there is no run nosuch here, nor in {storage}.\n  The newest there: {ids[3]}, {ids[2]}, {ids[1]}."
    )


def test_there_is_no_last_run_without_runs(storage: str) -> None:
    with pytest.raises(RunError) as caught:
        find_run("last", storage=storage)
    assert str(caught.value) == f"there are no runs in {storage}.\n  scaler submit JOB makes one."


def test_a_folder_crosses_processes(folder: RunFolder) -> None:
    folder.write("a", "1")
    copy = pickle.loads(pickle.dumps(folder))
    assert copy == folder
    assert copy.read("a") == b"1"


@pytest.mark.parametrize("name", ["a b", "ü", "x'y", "a#b", "a%20b", "[1]", "a*b?", "$HOME", "-rf"])
def test_a_hostile_storage_name_is_only_a_name(tmp_path: Path, name: str) -> None:
    for storage in (str(tmp_path / name), f"memory://{token_hex(8)}/{name}"):
        run = make_run(storage)
        run.append_json("events.jsonl", [{"n": 1}])
        run.set_state(RunState.FAILED)
        assert list_runs(storage) == [run]
        assert run.state() is RunState.FAILED
        assert run.names("") == ["events.jsonl", "status.json"]


def test_a_path_is_shown_from_here_where_it_can_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_run(str(tmp_path / "runs"))
    assert folder.path("report.html") == str(tmp_path / "runs" / folder.run_id / "report.html")
    monkeypatch.chdir(tmp_path)
    assert folder.path("report.html") == f"runs/{folder.run_id}/report.html"
    assert folder.path("") == f"runs/{folder.run_id}"
    remote = make_run(f"memory://{token_hex(8)}")
    assert remote.path("report.html") == f"{remote.uri}/report.html"


def test_a_storage_that_is_a_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("")
    with pytest.raises(RunError) as caught:
        make_run(str(tmp_path / "runs"))
    assert caught.value.problem.startswith(f"storage = {tmp_path / 'runs'}: no run can be made there: ")
    assert caught.value.remedy == "Set storage to a folder that can be written."


@pytest.mark.parametrize("use", [make_run, list_runs, find_run], ids=["create", "list", "find"])
def test_a_storage_that_nothing_here_can_reach_is_an_error(use: Any) -> None:
    with pytest.raises(RunError) as caught:
        use("nosuch://bucket/runs")
    assert str(caught.value) == (
        "nosuch://bucket/runs: cannot be reached: Protocol not known: nosuch.\n"
        "  Use a folder or a URI of a kind that fsspec knows, and install what it asks for."
    )
