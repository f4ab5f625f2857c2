"""stdout and stderr that are closed, full or broken: the command does its work, and its exit code is right."""

import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from scaler.cli import run
from scaler.cli.streams import GuardedFile
from scaler.runs import RunState, list_runs
from scaler.runs.find import NO_RUNS

RECIPE = """
import sys, torch, scaler
from torch.utils.data import TensorDataset

def build():
    print("built", flush=True)
    print("built", file=sys.stderr, flush=True)
    data = TensorDataset(torch.ones(20, 6))
    return scaler.Recipe(model=torch.nn.Linear(6, 1), train_data=data, loss=lambda m, b: m(b[0]).pow(2).mean())
"""
JOB = """
name: plain
recipe: recipe:build
reference: {global_batch_size: 8, lr: 0.05, optimizer: {name: sgd}}
scale: {per_worker_batch_size: 8}
train: {epochs: 1}
"""
COMMAND = f'"{sys.executable}" -c "from scaler.cli import main; main()"'
SUBMIT = f"{COMMAND} submit job.yaml --address none"
NO_ROOM = "Error: stdout cannot be written: No space left on device.\n"

Shell = Callable[[str], "subprocess.CompletedProcess[str]"]


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    """Run a line of bash in a folder with a job; its own exit code is that of the first command of a pipe."""
    (tmp_path / "recipe.py").write_text(RECIPE)
    (tmp_path / "job.yaml").write_text(JOB)

    def line(text: str) -> "subprocess.CompletedProcess[str]":
        done = f"{text}; exit ${{PIPESTATUS[0]}}"
        return subprocess.run(["bash", "-c", done], cwd=tmp_path, capture_output=True, text=True, timeout=120)

    return line


@pytest.mark.parametrize(
    ("where", "out", "err"),
    [
        (">&-", "", None),
        ("2>&-", None, ""),
        (">&- 2>&-", "", ""),
        ("<&- >&- 2>&-", "", ""),
        ("2>/dev/full", None, ""),
        (">/dev/full", "", None),
        (">/dev/full 2>&1", "", ""),
        ("2>&1 | grep -m1 built", "built\n", ""),  # a start of more than 5 s prints a line before it
        ("2>/dev/null | true", "", ""),
    ],
)
def test_a_run_ends_the_same_whatever_happens_to_its_output(
    shell: Shell, tmp_path: Path, where: str, out: str | None, err: str | None
) -> None:
    done = shell(f"{SUBMIT} {where}")
    assert done.returncode == 0, done.stderr
    (folder,) = list_runs(str(tmp_path / "runs"))
    assert folder.state() is RunState.SUCCEEDED
    assert {"report.json", "report.html"} <= set(folder.names(""))
    assert out is None or done.stdout == out
    assert err is None or done.stderr == err
    assert "bug" not in done.stderr
    assert "Traceback" not in done.stderr


def test_a_report_that_cannot_be_written_says_how_to_print_it_again(shell: Shell) -> None:
    done = shell(f"{SUBMIT} --quiet >/dev/full")
    assert done.returncode == 0
    assert done.stderr.endswith(f"{NO_ROOM}  scaler report RUN prints the report again.\n")


@pytest.mark.parametrize("command", ["plan job.yaml", "list", "schema", "plan job.yaml --json"])
def test_a_result_that_cannot_be_written_is_an_error(shell: Shell, command: str) -> None:
    shell(f"{SUBMIT} --quiet")
    done = shell(f"{COMMAND} {command} >/dev/full")
    assert (done.returncode, done.stderr.removeprefix("built\nbuilt\n")) == (
        2,
        f"{NO_ROOM}  Send the output to a file that can be written, or to a program that reads it.\n",
    )


@pytest.mark.parametrize("command", ["list", "schema", "--help", "plan job.yaml --set train.num_samples=20"])
@pytest.mark.parametrize("where", ["| head -c 1 >/dev/null", ">&-", "2>&-", "| true"])
def test_a_reader_that_stops_reading_is_no_error(shell: Shell, command: str, where: str) -> None:
    done = shell(f"{COMMAND} {command} {where}")
    assert (done.returncode, done.stderr.removeprefix(f"There are no runs in runs.\n  {NO_RUNS}\n")) == (0, "")


def test_a_refusal_keeps_its_exit_code_without_a_stderr(shell: Shell) -> None:
    assert shell(f"{COMMAND} plan nosuch.yaml 2>&-").returncode == 2
    assert shell(f"{COMMAND} plan nosuch.yaml 2>/dev/full").returncode == 2
    assert shell(f"{COMMAND} report last >&- 2>&-").returncode == 5


def test_no_file_of_a_run_gets_the_number_of_a_stream_that_is_closed(shell: Shell, tmp_path: Path) -> None:
    recipe = RECIPE.replace(
        '    print("built", flush=True)\n', "    import os\n    os.write(1, b'C')\n    os.write(2, b'C')\n"
    )
    (tmp_path / "recipe.py").write_text(recipe)
    assert shell(f"{SUBMIT} >&- 2>&-").returncode == 0
    (folder,) = list_runs(str(tmp_path / "runs"))
    assert folder.read_json("report.json")["state"] == "succeeded"


@pytest.mark.parametrize("name", ["stdout", "stderr"])
@pytest.mark.parametrize("is_closed", [True, False])
def test_the_command_line_runs_in_a_process_that_has_no_streams(
    monkeypatch: pytest.MonkeyPatch, digits_path: Path, name: str, is_closed: bool
) -> None:
    stream = io.StringIO() if is_closed else None
    if stream is not None:
        stream.close()
    monkeypatch.setattr(sys, name, stream)
    assert run(["plan", str(digits_path)]) == 0
    assert run(["plan", "nosuch.yaml"]) == 2
    assert getattr(sys, name) is stream


def test_text_that_a_stream_cannot_encode_is_escaped(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(JOB.replace("epochs: 1", "epochs: 1, num_samples: 20") + "storage: rüns\n")
    done = shell(f"PYTHONIOENCODING=ascii PYTHONUTF8=0 {COMMAND} schema")
    assert (done.returncode, done.stderr) == (0, "")
    done = shell(f"PYTHONIOENCODING=ascii PYTHONUTF8=0 {SUBMIT} --json --quiet")
    assert done.returncode == 0, done.stderr
    assert "Report: r\\xfcns/" in done.stderr


def test_a_full_disk_that_has_space_again_is_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    number = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT)
    full = os.open("/dev/full", os.O_WRONLY)
    kept = os.dup(number)
    os.dup2(full, number)
    file = GuardedFile(number)
    assert file.write(b"lost") == 4
    os.dup2(kept, number)
    assert file.write(b"kept") == 4
    assert (tmp_path / "log").read_bytes() == b"kept"
    assert file.refused is not None
    for each in (number, full, kept):
        os.close(each)


def test_a_full_non_blocking_pipe_is_waited_for() -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    code = "import os, sys, time\ntime.sleep(0.3)\nwhile os.read(0, 65536): pass\nsys.exit(7)"
    with subprocess.Popen([sys.executable, "-c", code], stdin=reader) as slow:
        os.close(reader)
        buffered = io.BufferedWriter(GuardedFile(writer))
        buffered.write(b"x" * 10**6)
        buffered.flush()
        os.close(writer)
        assert slow.wait(30) == 7
