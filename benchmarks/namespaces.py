"""What happens to a run when a node, the network, the driver or the head fails, on nodes that are separate machines.

The machines are network namespaces (``machine_cluster``): a head without CPUs, and nodes of one CPU. First table: each
fault happens to a run of two workers, and the run resumes to its end. Second table: one of three nodes has a slow link,
and the report has to name the node.

Run, as root: python benchmarks/namespaces.py [--only NAME]
"""

import argparse
import os
import signal
import sys
from collections.abc import Callable, Mapping
from time import time
from typing import Any

from machine_cluster import HERE, MachineCluster, why_no_machines
from machines import pid_of
from nodes import outcome_of
from slow_run import PATIENCE_S, SlowRun, start
from table import table

from scaler.metrics.events import GroupEnded, of_type
from scaler.metrics.reader import read_events
from scaler.runs import RunFolder, RunState

SLOW_S = 900.0  # at 2 Mbit/s, sending scaler and the job to a node takes long too
DIGITS = "jobs/digits/job.yaml"
LINKS: Mapping[str, Mapping[str, float]] = {
    "as the others": {},
    "2 Mbit/s": {"mbit_per_s": 2.0},
    "50 ms each way": {"delay_s": 0.05},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", choices=[*FAULTS, "links"], help="one fault, or the slow links")
    only = parser.parse_args().only
    if (reason := why_no_machines()) is not None:
        sys.exit(f"namespaces.py: {reason}")
    names = [name for name in FAULTS if only in (None, name)]
    rows = []
    for name in names:
        with MachineCluster(nodes=2) as cluster:
            rows.append(FAULTS[name](cluster))
        print(rows[-1], file=sys.stderr)
    if rows:
        print(table(rows))
    if only in (None, "links"):
        print()
        print(table(slow_links()))
    sys.exit(0 if all(row["every sample once"] == "yes" for row in rows) else 1)


def node_killed(cluster: MachineCluster) -> dict[str, str]:
    """A node loses its power; another one joins."""
    run = SlowRun(cluster, "run")
    driver = start(cluster, "head", run.command("auto"))
    run.wait_for_checkpoint(sizes=[2])
    cluster.kill(cluster.nodes[-1])
    at = time()
    cluster.join("node-3")
    return finished(cluster, run, driver, "a node killed, another joins", at=at)


def node_cut_off(cluster: MachineCluster) -> dict[str, str]:
    """A node is cut from the network, and connected again when the run has ended; another one joins."""
    run = SlowRun(cluster, "run")
    driver = start(cluster, "head", run.command("auto"))
    run.wait_for_checkpoint(sizes=[2])
    cluster.partition("node-2")
    at = time()
    cluster.join("node-3")
    return finished(cluster, run, driver, "a node cut off, another joins", at=at)


def driver_killed(cluster: MachineCluster) -> dict[str, str]:
    """The driver is killed, and started again with the same command."""
    run = SlowRun(cluster, "run")
    driver = start(cluster, "head", run.command("auto"))
    run.wait_for_checkpoint(sizes=[2])
    os.kill(pid_of(driver), signal.SIGKILL)
    driver.wait()
    at = time()
    driver = start(cluster, "head", run.command("auto"))
    return finished(cluster, run, driver, "the driver killed and started again", at=at)


def head_killed(cluster: MachineCluster) -> dict[str, str]:
    """The head loses its power while the driver is on a node: the run ends, and resumes on a new cluster."""
    run = SlowRun(cluster, "run")
    driver = start(cluster, "node-1", run.command("auto"))
    run.wait_for_checkpoint(sizes=[2])
    cluster.kill("head")
    killed_at = time()
    code = driver.wait(PATIENCE_S)
    ended_s = time() - killed_at
    report = run.folder.read_json("report.json")
    assert (code, report["state"]) == (3, "failed"), (code, report["state"])
    cluster.replace(nodes=2)
    at = time()
    driver = start(cluster, "head", run.command("auto"))
    what = f"the head killed: exit 3 with a report after {ended_s:.0f} s; started on a new cluster"
    return finished(cluster, run, driver, what, at=at)


def head_with_driver_killed(cluster: MachineCluster) -> dict[str, str]:
    """The head loses its power, and the driver on it; the run resumes on a new cluster."""
    run = SlowRun(cluster, "run")
    start(cluster, "head", run.command("auto"))
    run.wait_for_checkpoint(sizes=[2])
    cluster.kill("head")
    cluster.replace(nodes=2)
    at = time()
    driver = start(cluster, "head", run.command("auto"))
    return finished(cluster, run, driver, "the head killed with the driver; started on a new cluster", at=at)


FAULTS: Mapping[str, Callable[[MachineCluster], dict[str, str]]] = {
    "node": node_killed,
    "partition": node_cut_off,
    "driver": driver_killed,
    "head": head_killed,
    "head-and-driver": head_with_driver_killed,
}


def finished(cluster: MachineCluster, run: SlowRun, driver: Any, what: str, *, at: float) -> dict[str, str]:
    """Wait for the end of a run after a fault; return its row.

    Args:
        cluster: its cluster.
        run: the run.
        driver: the process that runs it now.
        what: happened.
        at: when it happened, or when the run was started again.
    """
    next_step = run.wait_for_attempt(1)
    run.speed_up()
    code = driver.wait(PATIENCE_S)
    logs = "".join(path.read_text() for path in cluster.shared.glob("*.log"))
    assert code == 0, logs
    assert run.folder.state() is RunState.SUCCEEDED
    found = outcome_of(run.folder)
    noticed = [event.time for event in of_type(read_events(run.folder), GroupEnded) if event.time > at]
    return {
        "what happened": what,
        "noticed after s": f"{noticed[0] - at:.1f}" if noticed and noticed[0] < next_step else "-",
        "next step after s": f"{next_step - at:.1f}",
        "every sample once": "yes" if found["every_sample_once"] else "NO",
    }


def slow_links() -> list[dict[str, str]]:
    """Train the digits on three nodes, one of which has each of ``LINKS`` in turn."""
    with MachineCluster(nodes=2, quick=False) as cluster:  # quick health checks would take a full link for a lost node
        return [slow_link(cluster, f"node-{number}", name) for number, name in enumerate(LINKS, start=3)]


def slow_link(cluster: MachineCluster, node: str, name: str) -> dict[str, str]:
    """Train with one more node that has a link of ``LINKS``; return what the report says of it."""
    link = LINKS[name]
    cluster.join(node, delay_s=link.get("delay_s", 0.0))
    if "mbit_per_s" in link:
        cluster.limit(node, mbit_per_s=link["mbit_per_s"])
    changes = ["scale.num_workers=3", "train.epochs=16", "train.eval_every={epochs: 16}"]
    sets = [part for change in [*changes, f"storage={cluster.shared}/runs"] for part in ("--set", change)]
    command = ["scaler", "submit", DIGITS, "--address", "auto", "--run-id", node, "--quiet", *sets]
    done = cluster.run("head", command, folder=HERE.parent, timeout_s=SLOW_S)
    assert done.returncode == 0, done
    cluster.kill(node)
    report = RunFolder(f"{cluster.shared}/runs/{node}").read_json("report.json")
    bound = [verdict for verdict in report["verdicts"] if verdict["code"] == "sync_bound"]
    others = [verdict["code"] for verdict in report["verdicts"] if verdict["code"] != "sync_bound"]
    return {
        "node": node,
        "its link": name,
        "step p50 s": f"{max(worker['step_time_s']['median'] for worker in report['workers']):.3f}",
        "sync_bound says": bound[0]["evidence"] if bound else "-",
        "other verdicts": " ".join(others) or "-",
    }


if __name__ == "__main__":
    main()
