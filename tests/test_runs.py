"""The run folder, on a local disk and on an object store: fsspec's ``memory://``."""

import os
import pickle
import re
import subprocess
import sys
from datetime import datetime, timedelta, timezone
from io import BytesIO
from pathlib import Path
from secrets import token_hex
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from scaler.errors import RunError
from scaler.metrics.next_attempt import next_attempt
from scaler.runs import RunFolder, RunState, find_run, list_runs, new_run_id
from scaler.runs.filesystems import has_folders, reach
from scaler.runs.find import NO_RUNS

NOON = datetime(2026, 1, 2, 12, 0, 5)


@pytest.fixture(params=["local", "memory"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where runs go; nothing is there yet."""
    return str(tmp_path / "runs") if request.param == "local" else f"memory://{token_hex(8)}/runs"


@pytest.fixture
def folder(storage: str) -> RunFolder:
    return RunFolder.create(storage, name="digits", now=NOON)


def test_a_run_id_has_name_time_and_four_hex_digits() -> None:
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
def test_three_states_are_final(state: RunState, is_end: bool) -> None:
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


def test_an_interrupted_write_leaves_the_old_document(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
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
        "  It is written when the run starts; scaler list shows the existing runs."
    )


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("{", "is not JSON: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)."),
        ("", "is not JSON: Expecting value: line 1 column 1 (char 0)."),
        ("[1]", "is not a JSON object."),
    ],
)
def test_a_document_that_was_altered_is_an_error(folder: RunFolder, content: str, problem: str) -> None:
    folder.write("plan.json", content)
    with pytest.raises(RunError) as caught:
        folder.read_json("plan.json")
    assert str(caught.value) == f"run {folder.run_id}: plan.json {problem}\n  The file was altered."


def test_a_document_never_holds_nan_or_infinity(folder: RunFolder) -> None:
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
def test_an_incomplete_last_line_is_skipped(folder: RunFolder, piece: bytes) -> None:
    folder.append_json("events.jsonl", [{"n": 1}])
    cut_off(folder, "events.jsonl", piece)
    assert list(folder.rows("events.jsonl")) == [{"n": 1}]


def test_a_log_continued_after_an_incomplete_line_keeps_its_whole_lines(folder: RunFolder) -> None:
    folder.append_json("events.jsonl", [{"n": 1}])
    cut_off(folder, "events.jsonl", b'{"n": 2, "te')
    folder.append_json("events.jsonl", [{"n": 3}])
    folder.append_json("events.jsonl", [{"n": 4}])
    rows = list(folder.rows("events.jsonl"))
    assert rows[0] == {"n": 1}
    assert rows[-1] == {"n": 4}
    assert {"n": 2} not in rows


# Status.


def test_a_new_state_keeps_the_other_values_of_the_status(folder: RunFolder) -> None:
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
def test_an_unknown_state_is_an_error(folder: RunFolder, content: str, shown: str) -> None:
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


@pytest.mark.parametrize("damage", [None, "{", "[]", '{"started_at": "soon"}', '{"started_at": NaN}'])
def test_runs_are_ordered_by_the_time_in_their_status_not_in_their_ids(storage: str, damage: str | None) -> None:
    """Ids may hold another time zone's time, the hour that comes twice in autumn, or the same second."""
    ids = ["digits-20260102-210005-0000", "digits-20260102-120006-ffff", "digits-20260102-120006-0000"]
    made = [RunFolder(f"{storage}/{run_id}") for run_id in ids]
    for number, folder in enumerate(made):
        folder.set_state(RunState.SUCCEEDED, started_at=1767355205.0 + number / 10)  # 12:00:05 in UTC
    if damage is not None:  # the id must do, and the others are listed all the same
        last = RunFolder(f"{storage}/digits-20260102-120007-0000")
        last.write("status.json", damage)
        made.append(last)
    assert list_runs(storage) == made
    assert find_run("last", storage=storage) == made[-1]


def test_a_run_id_is_in_utc() -> None:
    tokyo = datetime(2026, 1, 2, 21, 0, 5, tzinfo=timezone(timedelta(hours=9)))
    assert new_run_id("digits", tokyo).startswith("digits-20260102-120005-")


def test_a_tilde_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    run = make_run("~/runs")
    assert run.local_path == tmp_path / "home" / "runs" / run.run_id
    assert list_runs("~/runs") == [run]
    assert find_run("last", storage="~/runs") == find_run(f"~/runs/{run.run_id}") == run
    assert list((tmp_path / "here").iterdir()) == []
    named = make_run("./~")  # a folder of that name
    assert named.local_path == tmp_path / "here" / "~" / named.run_id


@pytest.mark.parametrize("use", [make_run, list_runs, find_run], ids=["create", "list", "find"])
def test_a_home_folder_that_is_not_there_is_refused(use: Any) -> None:
    with pytest.raises(RunError) as caught:
        use("~nosuchuser/runs")
    assert str(caught.value) == (
        "~nosuchuser/runs: there is no home folder ~nosuchuser.\n"
        "  To name a folder in the current folder: ./~nosuchuser/runs"
    )


def test_only_runs_are_listed(storage: str) -> None:
    run = make_run(storage)
    RunFolder.create(storage, name="unborn", now=NOON)
    RunFolder(f"{storage}/notes").write("readme.txt", "hello")
    assert list_runs(storage) == [run]


def test_a_storage_that_is_not_there_has_no_runs(storage: str) -> None:
    assert list_runs(storage) == []


def test_a_run_is_found_by_id_by_path_and_as_the_last(storage: str) -> None:
    first, second = make_run(storage, second=1), make_run(storage, second=2)
    assert find_run(first.run_id, storage=storage) == first
    assert find_run(first.uri) == first
    assert find_run(f"{first.uri}/").run_id == first.run_id
    assert find_run("last", storage=storage) == second


def test_a_run_that_is_not_there_is_an_error_that_names_the_newest(storage: str) -> None:
    with pytest.raises(RunError) as caught:
        find_run("nosuch", storage=storage)
    assert str(caught.value) == (f"there is no run nosuch, neither at this path nor in {storage}.\n  {NO_RUNS}")
    ids = [make_run(storage, second=second).run_id for second in range(4)]
    with pytest.raises(RunError) as caught:
        find_run("nosuch", storage=storage)
    assert str(caught.value) == (
        f"there is no run nosuch, neither at this path nor in {storage}.\n"
        f"  The newest there: {ids[3]}, {ids[2]}, {ids[1]}."
    )


def test_there_is_no_last_run_without_runs(storage: str) -> None:
    with pytest.raises(RunError) as caught:
        find_run("last", storage=storage)
    assert str(caught.value) == (
        f"there are no runs in {storage}.\n"
        "  scaler submit JOB makes one. For a run elsewhere, give its --storage, or its cluster's --address."
    )


def test_a_folder_can_be_sent_to_another_process(folder: RunFolder) -> None:
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


def test_a_path_is_shown_relative_to_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
def test_a_storage_of_an_unknown_kind_is_an_error(use: Any) -> None:
    with pytest.raises(RunError) as caught:
        use("nosuch://bucket/runs")
    assert str(caught.value) == (
        "nosuch://bucket/runs: cannot be reached: Protocol not known: nosuch.\n"
        "  Use a folder or a URI that fsspec knows, and install the package that it asks for."
    )


@pytest.mark.parametrize(
    ("uri", "module", "extra"), [("s3://b", "s3fs", "s3"), ("gs://b", "gcsfs", "gs"), ("abfs://b", "adlfs", "abfs")]
)
def test_a_missing_package_of_a_storage_is_named(
    uri: str, module: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheme = uri.partition(":")[0]
    monkeypatch.setitem(sys.modules, module, None)  # what Python does where a package is not installed
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, scheme, raising=False)  # type: ignore[attr-defined]
    with pytest.raises(RunError) as caught:
        list_runs(uri)
    assert str(caught.value) == (
        f"{uri}: the package for {scheme}:// is not installed.\n"
        f"  On this machine and every node of the cluster: pip install 'scaler[{extra}]'"
    )


@pytest.mark.parametrize(("uri", "module"), [("gs://bucket/team", "gcsfs"), ("abfs://container/team", "adlfs")])
def test_a_storage_s_package_is_found_and_writes_whole_objects(
    uri: str, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(module, reason="pip install 'scaler[gs,abfs]'")
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "account")
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", "a2V5")
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:9")
    filesystem, root = reach(uri)
    assert type(filesystem).__module__.startswith(module)
    assert root == uri.partition("://")[2]
    assert not has_folders(filesystem)


# Names, and what a person types.


@pytest.mark.parametrize(
    "name", ["../other/status.json", "metrics/../../x", "/etc/passwd", "..", "\\x", "a\\..\\b", "a\0b"]
)
def test_a_name_never_leads_out_of_the_folder(folder: RunFolder, name: str) -> None:
    uses: list[Any] = [
        lambda: folder.write(name, "x"),
        lambda: folder.read(name),
        lambda: folder.exists(name),
        lambda: folder.names(name),
        lambda: folder.remove(name),
        lambda: folder.remove_folder(name),
        lambda: folder.append_json(name, [{"n": 1}]),
        lambda: folder.filesystem(name),
    ]
    for use in uses:
        with pytest.raises(ValueError, match="is no name in a run's folder"):
            use()
    assert folder.names("") == []


def test_the_folder_itself_is_not_removed(folder: RunFolder) -> None:
    with pytest.raises(ValueError, match="not removed whole"):
        folder.remove_folder("")
    assert folder.exists()


@pytest.mark.parametrize(
    ("run", "named"),
    [
        ("", "''"),
        (" ", "' '"),
        ("a b", "'a b'"),
        ("it's", '"it\'s"'),
        ("a\nb", "'a\\nb'"),
        ("a\x1b[31mb", "'a\\x1b[31mb'"),
        ("a\0b", "'a\\x00b'"),
        ("../neighbour", "../neighbour"),
        ("..", ".."),
        (".", "."),
        ("/", "/"),
        ("-rf", "-rf"),
        ("a::b", "a::b"),
        ("~", "~"),
        ("x" * 5000, "x" * 5000),
    ],
)
def test_a_hostile_run_name_is_not_found(
    storage: str, run: str, named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    RunFolder(f"{storage.removesuffix('/runs')}/neighbour").write_json("status.json", {"state": "succeeded"})
    make_run(storage)  # there is a runs/, beside its neighbour
    if run == "../neighbour" and "://" not in storage:
        monkeypatch.chdir(tmp_path / "runs" / list_runs(storage)[0].run_id)  # where it is no path either
    with pytest.raises(RunError) as caught:
        find_run(run, storage=storage)
    assert caught.value.problem == f"there is no run {named}, neither at this path nor in {storage}."


def test_a_path_that_a_person_gives_may_go_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(str(tmp_path / "runs"))
    (tmp_path / "jobs").mkdir()
    monkeypatch.chdir(tmp_path / "jobs")
    assert find_run(f"../runs/{run.run_id}").state() is RunState.SUCCEEDED


@pytest.mark.parametrize("storage", ["it's", "a\nb", "a::b", "x" * 200])
def test_a_hostile_storage_is_only_a_folder(tmp_path: Path, storage: str) -> None:
    run = make_run(str(tmp_path / storage))
    assert find_run("last", storage=str(tmp_path / storage)) == run


def test_a_password_in_a_uri_is_not_shown() -> None:
    folder = RunFolder(f"memory://me:hunter2@{token_hex(8)}/runs/a")
    assert "hunter2" not in folder.path("report.html")
    assert folder.path("report.html").startswith("memory://me:***@")
    with pytest.raises(RunError) as caught:
        find_run("nosuch", storage=folder.uri)
    assert "hunter2" not in str(caught.value)
    with pytest.raises(RunError) as caught:
        RunFolder("nosuch://me:hunter2@host/a")
    assert "hunter2" not in str(caught.value)


# Storage that does not do what it should.


def refuse(monkeypatch: pytest.MonkeyPatch, folder: RunFolder, call: str, error: OSError) -> None:
    def refused(*_: object, **__: object) -> None:
        raise error

    filesystem, _ = folder.filesystem("")
    monkeypatch.setattr(type(filesystem), call, refused)


FULL = "Free space there, or check the storage."
NO_LOGIN = "Set its credentials to those of an account that may read and write there."


@pytest.mark.parametrize(
    ("error", "here", "elsewhere", "remedy_elsewhere"),
    [
        (OSError(28, "No space left on device"), "No space left on device", "No space left on device", FULL),
        (OSError(30, "Read-only file system"), "Read-only file system", "Read-only file system", FULL),
        (
            PermissionError("s3://me:hunter2@host\nrefuses"),
            "s3://me:***@host refuses",
            "its credentials are missing or not accepted (s3://me:***@host refuses)",
            NO_LOGIN,
        ),
        (TimeoutError(), "TimeoutError", "it does not answer (TimeoutError)", "Check the network, then try again."),
    ],
)
def test_a_document_that_the_storage_refuses_is_an_error(
    folder: RunFolder,
    monkeypatch: pytest.MonkeyPatch,
    error: OSError,
    here: str,
    elsewhere: str,
    remedy_elsewhere: str,
) -> None:
    folder.write("plan.json", "old")
    with monkeypatch.context() as patched:
        refuse(patched, folder, "open", error)
        with pytest.raises(RunError) as caught:
            folder.write("plan.json", "new")
    is_here = folder.local_path is not None
    assert str(caught.value) == (
        f"run {folder.run_id}: plan.json cannot be written in {folder.path('')}: {here if is_here else elsewhere}.\n"
        f"  {FULL if is_here else remedy_elsewhere}"
    )
    assert folder.read("plan.json") == b"old"
    assert folder.names("") == ["plan.json"]


def test_a_document_that_the_storage_does_not_give_is_an_error(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.write("plan.json", "x")
    call = "cat_file" if folder.local_path is None else "open"
    refuse(monkeypatch, folder, call, OSError(5, "Input/output error"))
    with pytest.raises(RunError) as caught:
        folder.read("plan.json")
    assert str(caught.value) == (
        f"run {folder.run_id}: plan.json cannot be read in {folder.path('')}: Input/output error.\n"
        "  Check the storage, then try again."
    )


def test_half_a_row_on_a_full_disk_is_removed(tmp_path: Path) -> None:
    """A disk of 64 bytes, as the process sees it: the limit of a file's size."""
    code = """
import resource, signal, sys
from scaler.errors import RunError
from scaler.metrics.next_attempt import next_attempt
from scaler.runs import RunFolder
folder = RunFolder(sys.argv[1])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
folder.append_json("events.jsonl", [{"n": 1}])
resource.setrlimit(resource.RLIMIT_FSIZE, (64, resource.RLIM_INFINITY))
try:
    folder.append_json("events.jsonl", [{"n": 2, "text": "x" * 100}])
except RunError as error:
    print(error.problem)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
folder.append_json("events.jsonl", [{"n": 2}])
"""
    folder = make_run(str(tmp_path))
    done = subprocess.run([sys.executable, "-c", code, folder.uri], capture_output=True, text=True, check=True)
    assert done.stdout == (f"run {folder.run_id}: events.jsonl cannot be written in {folder.uri}: File too large.\n")
    assert folder.read("events.jsonl") == b'{"n": 1}\n{"n": 2}\n'


def test_on_a_full_disk_the_final_status_overwrites_the_old_one(tmp_path: Path) -> None:
    """No file of more than 4 kB, and no new one: the limit of a file's size, and a folder that takes none."""
    code = """
import resource, signal, sys
from scaler.runs import RunFolder, RunState
folder = RunFolder(sys.argv[1])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
filesystem = type(folder.filesystem("")[0])
as_before = filesystem.open
def full(self, path, mode, **options):
    if mode != "rb":
        raise OSError(28, "No space left on device")
    return as_before(self, path, mode, **options)
filesystem.open = full
folder.set_state(RunState.FAILED, ended_at=2.0, failure=sys.argv[2])
"""
    for failure, kept in (("no space left", "no space left"), ("é" * 5000, "é" * 512)):
        folder = make_run(str(tmp_path))
        folder.set_state(RunState.RUNNING, started_at=1.0)
        subprocess.run([sys.executable, "-c", code, folder.uri, failure], check=True)
        status = folder.read_json("status.json")
        assert (status["state"], status["started_at"], status["ended_at"]) == ("failed", 1.0, 2.0)
        assert status["failure"] == kept
        assert folder.names("") == ["status.json"]


# Files that were made to hurt.


NESTED = "[" * 200_000
NESTED_OBJECT = '{"a":' * 200_000 + "1" + "}" * 200_000
DEEP = '{"a":' + "[" * 500 + "]" * 500 + "}"  # JSON's reader takes it; code that walks values may not


@pytest.mark.parametrize("content", [NESTED, NESTED_OBJECT, DEEP])
def test_a_document_nested_too_deep_is_not_read(folder: RunFolder, content: str) -> None:
    folder.write("status.json", content)
    with pytest.raises(RunError) as caught:
        folder.read_json("status.json")
    assert str(caught.value) == (
        f"run {folder.run_id}: status.json is not JSON: it is nested too deep.\n  The file was altered."
    )
    folder.write("events.jsonl", f'{{"n": 1}}\n{content}\n{{"n": 2}}\n')
    assert list(folder.rows("events.jsonl")) == [{"n": 1}, {"n": 2}]


@pytest.mark.parametrize("kind", ["pipe", "folder"])
def test_only_files_are_read_and_appended_to(tmp_path: Path, kind: str) -> None:
    folder = RunFolder.create(str(tmp_path), name="digits", now=NOON)
    for name in ("status.json", "events.jsonl", "driver.json"):
        (os.mkfifo if kind == "pipe" else os.mkdir)(f"{folder.uri}/{name}")
    uses: list[tuple[str, Any]] = [
        ("status.json", lambda: folder.read("status.json")),
        ("status.json", folder.state),
        ("events.jsonl", lambda: list(folder.rows("events.jsonl"))),
        ("events.jsonl", lambda: folder.append_json("events.jsonl", [{"n": 1}])),
        ("events.jsonl", lambda: folder.end_line("events.jsonl")),
        ("driver.json", lambda: folder.read_if_there("driver.json")),
    ]
    for name, use in uses:
        with pytest.raises(RunError) as caught:
            use()
        assert str(caught.value) == (
            f"run {folder.run_id}: {name} is not a file, but a folder, a pipe or a device.\n"
            f"  Look at {folder.path(name)}: scaler did not put it there."
        )


def test_a_file_that_is_too_large_is_not_read(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scaler.runs.files.LOG_BYTES", 30)
    folder.write("plan.json", "x" * 31)
    folder.append_json("events.jsonl", [{"text": "x" * 31}])
    text = (
        f"run {folder.run_id}: plan.json has 31 bytes, and at most 30 are read.\n  Look at {folder.path('plan.json')}: "
    )
    with pytest.raises(RunError) as caught:
        folder.read("plan.json", most=30)
    assert str(caught.value) == f"{text}scaler does not write files of that size."
    with pytest.raises(RunError, match=r"events\.jsonl has 44 bytes, and at most 30 are read\."):
        list(folder.rows("events.jsonl"))
    assert folder.read("plan.json", most=None) == b"x" * 31


def test_a_storage_that_cannot_be_listed_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("")
    with pytest.raises(RunError) as caught:
        find_run("last", storage=f"{tmp_path}/runs/below")
    assert str(caught.value) == f"there are no runs in {tmp_path}/runs/below.\n  {NO_RUNS}"


def test_a_new_run_never_takes_the_folder_of_another(storage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = iter(["aaaa", "aaaa", "aaaa", "bbbb"])
    monkeypatch.setattr(
        "scaler.runs.folder.secrets.token_hex", lambda size: next(drawn) if size == 2 else token_hex(size)
    )
    first = RunFolder.create(storage, name="digits", now=NOON)
    first.write("job.yaml", "")
    second = RunFolder.create(storage, name="digits", now=NOON)
    assert (first.run_id[-4:], second.run_id[-4:]) == ("aaaa", "bbbb")


def test_too_many_runs_in_one_second_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scaler.runs.folder.secrets.token_hex", lambda size: "aaaa")
    RunFolder.create(str(tmp_path), name="digits", now=NOON)
    with pytest.raises(RunError) as caught:
        RunFolder.create(str(tmp_path), name="digits", now=NOON)
    assert str(caught.value) == (
        f"storage = {tmp_path}: no run can be made there: 100 runs of this second exist already.\n"
        "  Set storage to a folder that can be written."
    )


# A run that resumes.


def test_a_value_of_none_removes_a_key_of_the_status(folder: RunFolder) -> None:
    folder.set_state(RunState.FAILED, failure="boom", ended_at=2.0, started_at=1.0)
    folder.set_state(RunState.STARTING, failure=None, ended_at=None)
    assert set(folder.read_json("status.json")) == {"schema_version", "run_id", "started_at", "state"}


def test_the_job_files_of_a_run_by_their_first_attempt(folder: RunFolder) -> None:
    for name in ("job-10.yaml", "job.yaml", "job-2.yaml", "job-x.yaml", "job-3.yaml.bad", "other-4.yaml"):
        folder.write(name, "")
    assert list(folder.job_names().items()) == [(0, "job.yaml"), (2, "job-2.yaml"), (10, "job-10.yaml")]


def test_the_next_attempt_is_one_above_the_highest(folder: RunFolder) -> None:
    assert next_attempt(folder) == 0
    rows = [{"attempt": 0}, {"attempt": 3}, {"attempt": None}, {"kind": "resumed"}, {"attempt": "9"}, {"attempt": 2}]
    folder.append_json("events.jsonl", rows)
    assert next_attempt(folder) == 4


@pytest.mark.parametrize(
    ("name", "content", "attempt"),
    [
        ("checkpoints/000000000000300.json", '{"attempt": 3}', 4),
        ("checkpoints/000000000000300.json", '{"attempt": ', 0),
        ("checkpoints/000000000000300.json.bad", '{"attempt": 3}', 0),
        ("job-3.yaml", "", 3),  # a job for attempts from 3 on, which left nothing else
        ("events.jsonl", '{"kind": "checkpoint_passed_over", "attempt": 3}\n', 0),  # of the attempt that will start
    ],
)
def test_the_next_attempt_is_above_any_that_left_a_file(
    folder: RunFolder, name: str, content: str, attempt: int
) -> None:
    folder.write(name, content)
    assert next_attempt(folder) == attempt


def test_the_next_attempt_is_above_those_of_the_records(folder: RunFolder) -> None:
    for number, attempts in enumerate([[0, 2], [1, 1], []]):
        buffer = BytesIO()
        pq.write_table(pa.table({"step": attempts, "attempt": pa.array(attempts, type=pa.int32())}), buffer)
        folder.write(f"metrics/{number:08d}-{number:08d}.parquet", buffer.getvalue())
    assert next_attempt(folder) == 3
    folder.write("metrics/00000003-00000003.parquet", "PAR1")
    with pytest.raises(RunError) as caught:
        next_attempt(folder)
    assert caught.value.problem.startswith(f"run {folder.run_id}: metrics/00000003-00000003.parquet holds no records: ")
    assert caught.value.remedy == (
        f"Move {folder.path('metrics/00000003-00000003.parquet')} out of that folder to continue without its records."
    )


def test_a_copy_has_its_own_name_and_place(folder: RunFolder) -> None:
    folder.set_state(RunState.STOPPED, place=folder.place)
    copy = RunFolder(f"{folder.uri}-copy")
    copy.write("status.json", folder.read("status.json"))
    assert copy.read_json("status.json")["place"] != copy.place
    copy.set_state(RunState.RUNNING)
    assert copy.read_json("status.json")["run_id"] == copy.run_id == f"{folder.run_id}-copy"


def test_a_place_is_the_same_through_links_and_shows_no_password(tmp_path: Path) -> None:
    folder = make_run(str(tmp_path / "runs"))
    (tmp_path / "link").symlink_to(tmp_path / "runs")
    assert RunFolder(str(tmp_path / "link" / folder.run_id)).place == folder.place
    assert "hunter2" not in RunFolder(f"memory://me:hunter2@{token_hex(8)}/runs/a").place


def test_a_missing_document_is_none_where_it_is_optional(folder: RunFolder) -> None:
    assert folder.read_if_there("driver.json") is None
    folder.write("driver.json", "{}")
    assert folder.read_if_there("driver.json") == b"{}"


def test_a_link_that_leads_out_of_the_folder_is_never_followed(tmp_path: Path) -> None:
    folder = RunFolder(str(tmp_path / "run"))
    folder.write("status.json", "{}")
    (tmp_path / "run-other").mkdir()
    (tmp_path / "run-other" / "secret").write_text("mine")
    (tmp_path / "run" / "events.jsonl").symlink_to(tmp_path / "run-other" / "secret")
    (tmp_path / "run" / "metrics").symlink_to(tmp_path / "run-other")
    for attempt in (
        lambda: folder.read("events.jsonl"),
        lambda: folder.append_json("events.jsonl", [{"a": 1}]),
        lambda: folder.write("metrics/a.parquet", b""),
        lambda: folder.remove("metrics/secret"),
    ):
        with pytest.raises(RunError, match=r"is a link that leads out of the run's folder\."):
            attempt()
    assert (tmp_path / "run-other" / "secret").read_text() == "mine"
