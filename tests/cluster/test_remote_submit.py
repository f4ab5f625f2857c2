"""Runs on a cluster that another process started, reached over HTTP; one cluster for the module."""

import json
import os
import pty
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import pytest
from process_tree import descendants

from scaler.cli import run as command_line
from scaler.cluster.ray_jobs import RemoteRun, remote_runs
from scaler.errors import ClusterError, RunError
from scaler.metrics.events import Resumed, of_type
from scaler.metrics.reader import read_events
from scaler.runs import RunFolder, RunState
from scaler.training.checkpoints.files import complete_checkpoints

TROUBLED = Path(__file__).parent / "troubled"
BIN = Path(sys.executable).parent
ONE_WORKER = ["scale.num_workers=1", "scale.per_worker_batch_size=10"]


def free_port() -> int:
    """A port above those of Ray's workers."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
    return port


def outside() -> dict[str, str]:
    """An environment that knows nothing of another cluster."""
    return {
        name: value for name, value in os.environ.items() if not name.startswith(("RAY_AUTH", "RAY_ADDRESS", "RAY_API"))
    }


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A head of its own, as ``ray start`` starts it, with its files in a folder of its own.

    The ``python`` on its PATH is another one than Ray's, and has no packages.
    """
    files = Path(f"/tmp/scaler-head-{os.getpid()}")  # short, because of the paths of Ray's sockets
    bare = tmp_path_factory.mktemp("bin")
    (bare / "python").symlink_to(Path(sys.executable).resolve())
    path = [str(bare), *(each for each in os.environ["PATH"].split(":") if Path(each) != BIN)]
    port = free_port()
    ports = [
        *("--port=0", f"--dashboard-port={port}", f"--dashboard-agent-listen-port={free_port()}"),
        *(f"--ray-client-server-port={free_port()}", "--min-worker-port=20000", "--max-worker-port=29999"),
    ]
    options = ["--num-cpus=2", "--disable-usage-stats", "--include-dashboard=true", f"--temp-dir={files}"]
    head = subprocess.Popen(
        [str(BIN / "ray"), "start", "--head", "--block", *options, *ports],
        env={**outside(), "RAY_TMPDIR": str(files), "PATH": ":".join(path)},
        cwd="/",
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    url = f"http://127.0.0.1:{port}"
    until = time.monotonic() + 120
    while not answers(url):
        assert head.poll() is None
        assert time.monotonic() < until
        time.sleep(0.2)
    yield url
    for pid in [*descendants(head.pid), head.pid]:  # on SIGTERM, ray takes half a minute
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    head.wait(60)
    shutil.rmtree(files, ignore_errors=True)


def answers(url: str) -> bool:
    with suppress(OSError), urllib.request.urlopen(f"{url}/api/version", timeout=5):
        return True
    return False


class Place(NamedTuple):
    """A person's folder with a job, and the storage that the cluster writes to."""

    job: Path
    storage: Path
    marker: Path  # steps are slow until this file is there
    started: "list[subprocess.Popen[str]]"

    def command(self, *options: str) -> list[str]:
        changes = [*ONE_WORKER, "recipe_args.sleep_s=0.05", f"recipe_args.sleep_until={self.marker}"]
        given = [part for change in (*changes, f"storage={self.storage}") for part in ("--set", change)]
        return [str(BIN / "scaler"), "submit", "job.yaml", *options, *given]

    def start(
        self, *options: str, stdin: int | None = None, stderr: int = subprocess.PIPE, **environment: str
    ) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            self.command(*options),
            cwd=self.job,
            env={**outside(), **environment},
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )
        self.started.append(process)
        return process


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    job = tmp_path / "job"
    shutil.copytree(TROUBLED, job, ignore=shutil.ignore_patterns("__pycache__"))
    for folder in ("data", "runs"):
        (job / folder).mkdir()
        (job / folder / "file").write_text("not for the cluster")
    place = Place(job, tmp_path / "store", tmp_path / "fast", [])
    yield place
    for process in place.started:  # a test that failed left it
        process.kill()
        process.wait()


def read_until(process: "subprocess.Popen[str]", is_it: Callable[[str], bool]) -> str:
    assert process.stderr is not None
    lines = ""
    while not is_it(lines):
        line = process.stderr.readline()
        assert line, lines
        lines += line
    return lines


def wait_until(condition: Callable[[], bool], within_s: float = 120) -> None:
    until = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.1)


class Relay:
    """Passes connections on to a port, until it is cut."""

    def __init__(self, url: str) -> None:
        self._target = int(url.rpartition(":")[2])
        self.port = free_port()
        self.open()

    def open(self) -> None:
        self._sockets: list[socket.socket] = []
        self._server = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, args=(self._server,), daemon=True).start()

    def cut(self) -> None:
        for opened in [self._server, *self._sockets]:
            with suppress(OSError):
                opened.shutdown(socket.SHUT_RDWR)
            opened.close()

    def _accept(self, server: socket.socket) -> None:
        with suppress(OSError):
            while True:
                near, _ = server.accept()
                far = socket.create_connection(("127.0.0.1", self._target))
                self._sockets += [near, far]
                for source, sink in ((near, far), (far, near)):
                    threading.Thread(target=self._copy, args=(source, sink), daemon=True).start()

    @staticmethod
    def _copy(source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)


def test_a_run_outlives_its_client_is_stopped_resumed_elsewhere_and_stopped_by_ctrl_c(
    address: str, place: Place, tmp_path: Path
) -> None:
    # A client that is killed leaves the run alone.
    client = place.start("--address", address, "--run-id", "mine")
    begun = read_until(client, lambda lines: "samples/s" in lines)
    assert begun.startswith(
        "Not sent to the cluster: data/, runs/. To send runs, write a line !runs into .rayignore.\n"
    )
    where = f"--storage {place.storage} --address {address}"
    assert (
        f"\nRun mine: sent to the Ray at {address}\n"
        "The run continues without this terminal; from any other:\n"
        f"  scaler status mine {where}\n  scaler logs mine -f {where}\n  scaler wait mine {where}\n"
        "Plan of troubled\n"
    ) in begun
    assert f"\nRun mine: started on the Ray at {address}\n" in begun
    client.kill()
    client.communicate()
    remote = RemoteRun(address, "mine")
    assert remote.state() is RunState.RUNNING
    assert [(run.run_id, run.state) for run in remote_runs(address)] == [("mine", RunState.RUNNING)]
    assert remote.folder_uri == f"{place.storage}/mine"
    folder = RunFolder(remote.folder_uri)
    wait_until(lambda: bool(complete_checkpoints(folder)))

    # Nobody else can run it, and it can be stopped from anywhere.
    refused = place.start("--address", address, "--run-id", "mine", "--detach")
    assert refused.communicate()[1].endswith(
        f"Error: run mine is being run by the Ray cluster at {address}.\n"
        f"  Follow it: scaler logs mine -f --address {address}\n"
        f"  Or stop it first: scaler stop mine --address {address}\n"
    )
    assert refused.returncode == 5
    with pytest.raises(ClusterError, match="Ray Jobs cannot end a run at once"):
        remote.stop(now=True)
    assert remote.stop()
    wait_until(lambda: remote.state() is RunState.STOPPED)
    assert folder.state() is RunState.STOPPED
    assert any(line.startswith("mine  stopped") for line in remote.driver_log())
    stopped_at = complete_checkpoints(folder)[-1]
    assert not remote.stop()

    # Another process in another folder resumes it. It loses its connection for some time.
    shutil.move(place.job, tmp_path / "elsewhere")
    elsewhere = place._replace(job=tmp_path / "elsewhere")
    relay = Relay(address)
    relayed = f"http://127.0.0.1:{relay.port}"
    terminal, inner = pty.openpty()
    client = elsewhere.start("--run-id", "mine", stdin=inner, stderr=inner, RAY_API_SERVER_ADDRESS=relayed)
    os.close(inner)
    read_terminal(terminal, f"Resuming at {stopped_at:,} samples.")
    read_terminal(terminal, "samples/s")  # in the panel, which reads the run's folder
    relay.cut()
    read_terminal(terminal, "The run continues on the cluster; trying again.")
    relay.open()
    read_terminal(terminal, "The connection is back.")
    assert "Plan of" not in read_terminal(terminal, "samples/s"), "no line is shown twice"

    # Ctrl-C asks, and a second Ctrl-C stops the run.
    client.send_signal(signal.SIGINT)
    read_terminal(terminal, "Detach (the run continues) or stop the run? [detach/stop] ")
    client.send_signal(signal.SIGINT)
    shown = read_terminal(terminal, f"Continue with: scaler submit job.yaml --run-id mine --address {relayed}")
    assert "Stopping run mine: it saves a checkpoint first.\r\n" in shown
    assert f"Report: {folder.path('report.html')}\r\n" in shown
    out, _ = client.communicate(timeout=60)
    assert (client.returncode, out.split("\n")[0]) == (130, "mine  stopped")
    os.close(terminal)
    relay.cut()
    assert len(of_type(read_events(folder), Resumed)) == 1
    assert [job.submission_id for job in remote.submissions()] == ["mine", "mine.2"]


def read_terminal(terminal: int, text: str, within_s: float = 120) -> str:
    os.set_blocking(terminal, False)
    shown, until = "", time.monotonic() + within_s
    while text not in shown:
        assert time.monotonic() < until, shown
        try:
            shown += os.read(terminal, 65536).decode()
        except BlockingIOError:
            time.sleep(0.05)
    return shown


@pytest.fixture
def unset(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment that knows nothing of another cluster, for commands in this process."""
    for name in set(os.environ) - set(outside()):
        monkeypatch.delenv(name)


@pytest.mark.filterwarnings("ignore:ssl=None is deprecated")  # Ray's client passes it to aiohttp
def test_the_report_comes_from_the_drivers_log_where_the_folder_cannot_be_read(
    address: str, place: Place, unset: None, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("scaler.cli.follow_remote.readable_folder", lambda remote, job: None)
    monkeypatch.chdir(place.job)
    place.marker.touch()
    command = place.command("--address", address, "--run-id", "unseen", "--quiet", "--json", "--set", "train.epochs=1")
    assert command_line([*command[1:], "--set", "recipe_args.no_such=1", "--set", "train.num_samples=null"]) == 2
    out, err = capfd.readouterr()
    assert (out, err.count("Error: ")) == ("", 1)
    assert "no_such" in err
    assert command_line(command[1:]) == 0
    out, err = capfd.readouterr()
    assert (json.loads(out)["state"], err) == ("succeeded", f"Report: {place.storage}/unseen/report.html\n")
    with urllib.request.urlopen(f"{address}/api/jobs/unseen.2") as reply:
        job = json.loads(reply.read())
    assert job["metadata"].keys() >= {"run", "folder", "owner", "scaler"}
    assert job["entrypoint"].endswith(
        '; exec "$P" -m scaler submit job.yaml --address auto --run-id unseen --even-if-stopped --json --quiet'
    )
    with pytest.raises(RunError, match="does not know run other"):
        RemoteRun(address, "other").state()


@pytest.mark.usefixtures("unset")
def test_what_the_cluster_offers_is_seen_over_http(address: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert command_line(["env", "--address", address, "--json"]) == 0
    (node,) = json.loads(capfd.readouterr().out)["cluster"]["nodes"]
    assert (node["why"], node["is_head"], node["versions"]["ray"]) == ("", True, version("ray"))
    with urllib.request.urlopen(f"{address}/api/jobs/") as reply:
        assert not [job for job in json.loads(reply.read()) if "scaler env" in job["entrypoint"]], "it leaves no job"
