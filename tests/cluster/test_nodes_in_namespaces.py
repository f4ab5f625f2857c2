"""Runs on a cluster whose nodes are machines of their own: other addresses, host names and folders.

One cluster for the module; tests that end or add nodes leave two good ones.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import distribution
from pathlib import Path

import pytest
from machine_cluster import MachineCluster, wait_until, why_no_machines
from machines import pid_of
from nodes import outcome_of

from scaler.metrics.events import AttemptStarted, LeaveRequested, of_type
from scaler.metrics.reader import read_events
from scaler.runs import RunFolder, RunState
from scaler.training.checkpoints.files import complete_checkpoints

pytestmark = pytest.mark.skipif(why_no_machines() is not None, reason=str(why_no_machines()))

TROUBLED = Path(__file__).parent / "troubled"
PATIENCE_S = 180.0  # on a busy machine; an idle one needs a tenth


@pytest.fixture(scope="module")
def cluster() -> Iterator[MachineCluster]:
    with MachineCluster(nodes=2) as found:
        found.add("desk", networks=("office",))  # sees the shared folder; the laptop does not
        yield found


class Run:
    """A run of the troubled job, with slow steps until ``speed_up``."""

    def __init__(self, cluster: MachineCluster, run_id: str, *changes: str, epochs: int = 10) -> None:
        self._cluster, self._run_id = cluster, run_id
        self._marker = cluster.shared / f"{run_id}-fast"
        self.storage = str(cluster.shared / "runs")
        self.folder = RunFolder(f"{self.storage}/{run_id}")
        slow = ["recipe_args.sleep_s=0.1", f"recipe_args.sleep_until={self._marker}", "checkpoint.every={samples: 100}"]
        self._changes = [*slow, f"train.epochs={epochs}", f"storage={self.storage}", *changes]

    def command(self, address: str, *options: str, job: Path = TROUBLED) -> list[str]:
        """Return the command that starts or resumes the run."""
        sets = [part for change in self._changes for part in ("--set", change)]
        return ["scaler", "submit", str(job), "--address", address, "--run-id", self._run_id, *options, *sets]

    def speed_up(self) -> None:
        """Let the steps take no longer than they need."""
        self._marker.touch()

    def starts(self) -> Sequence[AttemptStarted]:
        """Return the attempts so far."""
        return of_type(read_events(self.folder), AttemptStarted) if self.folder.exists("events.jsonl") else []

    def wait_for_checkpoint(self, *, sizes: Sequence[int] | None = None) -> None:
        """Wait for a new checkpoint, after the attempts had these numbers of workers."""
        if sizes is not None:
            self._wait(lambda: [start.world_size for start in self.starts()] == list(sizes), f"attempts of {sizes}")
        before = complete_checkpoints(self.folder)[-1:]
        self._wait(lambda: complete_checkpoints(self.folder)[-1:] != before, "a checkpoint")

    def _wait(self, condition: object, what: str) -> None:
        wait_until(condition, within_s=PATIENCE_S, what=f"{what} of {self._run_id}")


def start(cluster: MachineCluster, name: str, command: Sequence[str]) -> "subprocess.Popen[str]":
    """Start a command on a machine, with its output in a file of the shared folder."""
    number = len(list(cluster.shared.glob("*.log")))
    with (cluster.shared / f"{number}.log").open("w") as log:
        return cluster.start(name, command, stdout=log, stderr=subprocess.STDOUT)


def test_a_run_outlives_the_laptop_and_is_stopped_and_resumed_from_elsewhere(cluster: MachineCluster) -> None:
    run = Run(cluster, "mine")
    cluster.run("laptop", ["cp", "-r", str(TROUBLED), "job"])
    client = start(cluster, "laptop", run.command(cluster.jobs_address, job=cluster.own / "job"))
    run.wait_for_checkpoint(sizes=[2])
    os.kill(pid_of(client), signal.SIGKILL)
    client.wait(30)
    run.wait_for_checkpoint()

    status = cluster.run("desk", ["scaler", "status", "mine", "--storage", run.storage])
    assert (status.returncode, "running" in status.stdout) == (0, True), status
    stopped = cluster.run("desk", ["scaler", "stop", "mine", "--wait", "--storage", run.storage], timeout_s=PATIENCE_S)
    assert stopped.returncode == 0, stopped
    assert run.folder.state() is RunState.STOPPED
    reached = complete_checkpoints(run.folder)[-1]
    workers = run.folder.read_json("report.json")["workers"]
    assert sorted(worker["node"] for worker in workers) == cluster.nodes
    assert run.folder.read_json("report.json")["totals"]["samples_seen"] == reached

    run.speed_up()
    resumed = cluster.run("desk", run.command(cluster.jobs_address), timeout_s=PATIENCE_S)
    assert resumed.returncode == 0, resumed
    assert resumed.stdout.startswith("mine  succeeded\n")
    found = outcome_of(run.folder)
    assert (found["starts"], found["samples"], found["every_sample_once"]) == ([0, reached], 10_000, True)


def test_a_lost_node_one_that_joins_and_a_killed_driver_cost_no_sample(cluster: MachineCluster) -> None:
    run = Run(cluster, "faults", "scale.num_workers={min: 1, max: 2}")
    driver = start(cluster, "head", run.command("auto"))
    run.wait_for_checkpoint(sizes=[2])
    cluster.kill(cluster.nodes[-1])
    run.wait_for_checkpoint(sizes=[2, 1])
    cluster.join("node-3")
    run.wait_for_checkpoint(sizes=[2, 1, 2])
    os.kill(pid_of(driver), signal.SIGKILL)
    driver.wait(30)
    run.speed_up()
    again = cluster.run("head", run.command("auto"), timeout_s=PATIENCE_S)
    assert again.returncode == 0, again
    found = outcome_of(run.folder)
    assert found["sizes"] == [2, 1, 2, 2]
    assert [attempt["ended_by"] for attempt in found["attempts"]] == ["lost", "resized", "driver_lost", "finished"]
    assert found["lost_samples"][0] <= 200
    assert (found["lost_samples"][1], found["lost_samples"][3]) == (0, 0)
    assert (found["samples"], found["every_sample_once"]) == (10_000, True)
    asked = of_type(read_events(run.folder), LeaveRequested)
    assert [(event.why, event.detail) for event in asked] == [("resize", "1 -> 2 workers")]


def test_two_runs_at_once_share_the_nodes(cluster: MachineCluster) -> None:
    runs = [Run(cluster, name, "resources.cpus_per_worker=0.5", epochs=3) for name in ("first", "second")]
    clients = [
        start(cluster, "head", runs[0].command("auto")),
        start(cluster, "desk", runs[1].command(cluster.jobs_address)),
    ]
    for run in runs:
        run.wait_for_checkpoint(sizes=[2])
        assert run.folder.state() is RunState.RUNNING
    for run in runs:
        run.speed_up()
    assert [client.wait(PATIENCE_S) for client in clients] == [0, 0]
    for run in runs:
        found = outcome_of(run.folder)
        assert (found["sizes"], found["samples"], found["every_sample_once"]) == ([2], 3000, True)
        assert found["lr_audit"]["max_abs_error"] == 0


def test_a_storage_that_only_the_head_sees_is_refused(cluster: MachineCluster) -> None:
    run = Run(cluster, "unseen", f"storage={cluster.own}/runs")
    refused = cluster.run("head", run.command("auto", "--quiet"), timeout_s=PATIENCE_S)
    assert refused.returncode == 3, refused
    problem, remedy = refused.stderr.splitlines()[-2:]
    assert problem.startswith(f"Error: the run's folder {cluster.own}/runs/unseen does not exist on the node node-")
    assert remedy == "  Set storage to a folder that every node shares, or to a URI such as s3://bucket/prefix."


def test_a_node_with_another_torch_is_refused_by_name(cluster: MachineCluster, tmp_path: Path) -> None:
    torch = distribution("torch")
    metadata = Path(str(torch.locate_file(f"torch-{torch.version}.dist-info/METADATA")))
    older = tmp_path / "METADATA"
    older.write_text(metadata.read_text().replace(f"\nVersion: {torch.version}\n", "\nVersion: 2.1.0\n"))
    cluster.join("node-old", replaced={metadata: older})
    try:
        run = Run(cluster, "torches", "scale.num_workers=3")
        refused = cluster.run("head", run.command("auto", "--quiet"), timeout_s=PATIENCE_S)
    finally:
        cluster.kill("node-old")
    assert refused.returncode == 3, refused
    assert "two releases of torch compute different gradients" in refused.stderr
    assert "the node node-old" in refused.stderr
    assert "2.1.0" in refused.stderr
    assert torch.version in refused.stderr


def test_no_process_of_a_run_is_left(cluster: MachineCluster) -> None:
    def left() -> list[str]:
        found = [
            (name, command)
            for name in ("head", "desk", "laptop", *cluster.nodes)
            for command in cluster.processes(name).values()
        ]
        return [f"{name}: {command}" for name, command in found if is_of_a_run(command)]

    def is_of_a_run(command: str) -> bool:
        rays = ("ray::IDLE", "ray::DashboardAgent", "ray::RuntimeEnvAgent", "ray::_Autoscaling", "ray::_StatsActor")
        return (
            f"{Path(sys.executable).parent}/scaler" in command
            or "scaler submit" in command
            or (command.startswith("ray::") and not command.startswith(rays))
        )

    wait_until(lambda: not left(), within_s=30, what="the end of every process of the runs")
