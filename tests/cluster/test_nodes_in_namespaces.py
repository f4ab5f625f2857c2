"""Runs on a cluster whose nodes are machines of their own: other addresses, host names and folders.

One cluster for the module; tests that end or add nodes leave two good ones.
"""

import os
import signal
import time
from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path

import pytest
from machine_cluster import MachineCluster, why_no_machines
from machines import pid_of
from nodes import outcome_of
from slow_run import PATIENCE_S, TROUBLED, SlowRun, start

from scaler.metrics.events import LeaveRequested, of_type
from scaler.metrics.reader import read_events
from scaler.runs import RunState
from scaler.training.checkpoints.files import complete_checkpoints

pytestmark = pytest.mark.skipif(why_no_machines() is not None, reason=str(why_no_machines()))


@pytest.fixture(scope="module")
def cluster() -> Iterator[MachineCluster]:
    with MachineCluster(nodes=2) as found:
        found.add("desk", networks=("office",))  # sees the shared folder; the laptop does not
        yield found


def test_a_run_outlives_the_laptop_and_is_stopped_and_resumed_from_elsewhere(cluster: MachineCluster) -> None:
    run = SlowRun(cluster, "mine")
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
    run = SlowRun(cluster, "faults", "scale.num_workers={min: 1, max: 2}")
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
    assert [attempt["ended_by"] for attempt in found["attempts"]] == ["lost", "resized", "killed", "finished"]
    assert found["lost_samples"][0] <= 200
    assert (found["lost_samples"][1], found["lost_samples"][3]) == (0, 0)
    assert (found["samples"], found["every_sample_once"]) == (10_000, True)
    asked = of_type(read_events(run.folder), LeaveRequested)
    assert [(event.why, event.detail) for event in asked] == [("resize", "1 -> 2 workers")]


def test_two_runs_at_once_share_the_nodes(cluster: MachineCluster) -> None:
    runs = [SlowRun(cluster, name, "resources.cpus_per_worker=0.5", epochs=3) for name in ("first", "second")]
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
    run = SlowRun(cluster, "unseen", f"storage={cluster.own}/runs")
    refused = cluster.run("head", run.command("auto", "--quiet"), timeout_s=PATIENCE_S)
    assert refused.returncode == 3, refused
    problem = f"Error: the run's folder {cluster.own}/runs/unseen does not exist on the node node-"
    assert problem in refused.stderr
    assert (
        "\n  Set storage to a folder that every node shares, or to a URI such as s3://bucket/prefix.\n"
        in refused.stderr
    )


def test_a_node_with_another_torch_is_refused_by_name(cluster: MachineCluster, tmp_path: Path) -> None:
    torch = distribution("torch")
    metadata = Path(str(torch.locate_file(f"torch-{torch.version}.dist-info/METADATA")))
    older = tmp_path / "METADATA"
    older.write_text(metadata.read_text().replace(f"\nVersion: {torch.version}\n", "\nVersion: 2.1.0\n"))
    cluster.join("node-old", replaced={metadata: older})
    try:
        run = SlowRun(cluster, "torches", "scale.num_workers=3")
        refused = cluster.run("head", run.command("auto", "--quiet"), timeout_s=PATIENCE_S)
    finally:
        cluster.kill("node-old")
    assert refused.returncode == 3, refused
    assert "two releases of torch compute different gradients" in refused.stderr
    assert "the node node-old" in refused.stderr
    assert "2.1.0" in refused.stderr
    assert torch.version in refused.stderr


def test_no_process_of_a_run_is_left(cluster: MachineCluster) -> None:
    until = time.monotonic() + 60
    while (left := processes_of_runs(cluster)) and time.monotonic() < until:
        time.sleep(0.5)
    assert left == []


def processes_of_runs(cluster: MachineCluster) -> list[str]:
    """Return the processes of all machines that are no part of a cluster without runs."""
    rays = ("ray::IDLE", "ray::DashboardAgent", "ray::RuntimeEnvAgent", "ray::_AutoscalingCoordinatorActor")
    return [
        f"{name}: {command}"
        for name in ("head", "desk", "laptop", *cluster.nodes)
        for command in cluster.processes(name).values()
        if "scaler submit" in command or (command.startswith("ray::") and not command.startswith(rays))
    ]
