"""An elastic run on a cluster whose nodes come and go, in another process: a process can have only one Ray."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import scaler
from scaler.cluster.capacity import Node, count_workers

SCRIPT = Path(__file__).parent / "elastic_cluster.py"
TROUBLED = Path(__file__).parent / "troubled"


@pytest.mark.parametrize(
    ("free", "held", "workers", "why"),
    [
        ([1.0, 1.0], {}, 2, "one on each"),
        ([1.5, 0.5], {}, 1, "a worker does not stretch over two nodes"),
        ([0.0, 1.0], {"node-0": 1}, 2, "what the group has, and what is free"),
        ([0.0], {"node-0": 1, "gone": 1}, 1, "a worker of a node that is gone is gone"),
        ([8.0], {}, 3, "no more than are wanted"),
        ([], {}, 0, "no nodes"),
    ],
)
def test_workers_are_counted_by_what_each_node_has_free(
    free: list[float], held: dict[str, int], workers: int, why: str
) -> None:
    nodes = [Node(node_id=f"node-{i}", host="", port=0, free={"CPU": cpus}) for i, cpus in enumerate(free)]
    assert count_workers(nodes, {"CPU": 1.0, "GPU": 0.0}, held=held, most=3) == workers, why


def test_workers_are_counted_in_steps_that_fit_the_mesh() -> None:
    nodes = [Node(node_id=f"node-{i}", host="", port=0, free={"CPU": 3.0}) for i in range(3)]
    for most, step, workers in ((12, 1, 9), (12, 2, 8), (12, 4, 8), (4, 4, 4), (12, 6, 6), (12, 12, 0)):
        assert count_workers(nodes, {"CPU": 1.0}, held={}, most=most, step=step) == workers


def test_a_third_of_a_cpu_fits_three_times() -> None:
    nodes = [Node(node_id="a", host="", port=0, free={"CPU": 1.0})]
    assert count_workers(nodes, {"CPU": 1 / 3}, held={}, most=9) == 3


@pytest.fixture(scope="module")
def happened(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What happened in each scenario of the script."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment["RAY_worker_niceness"] = "0"  # as in tests/conftest.py
    environment["PYTHONPATH"] = str(SCRIPT.parents[2] / "benchmarks")
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(tmp_path_factory.mktemp("elastic"))],
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    values: dict[str, dict[str, Any]] = json.loads(done.stdout)
    return values


def test_nodes_join_and_die_and_every_sample_counts_once(happened: dict[str, dict[str, Any]]) -> None:
    """1 -> 3 -> 2 workers. Nodes that join may be used one by one; the node that dies costs what was not saved.

    ``hold_global_batch`` is in ``benchmarks/chaos.py``, and in groups without Ray in ``tests/training``.
    """
    found = happened["resizes"]
    assert "error" not in found, found["error"]
    sizes, lost = found["sizes"], found["lost_samples"]
    assert sizes[0] == 1
    assert sizes[-2:] == [3, 2]
    assert found["global_batch_sizes"] == [5 * size for size in sizes]
    assert lost[: sizes.index(3)] == [0] * sizes.index(3), "a group saves before it leaves"
    assert max(lost) <= 300, "a killed node costs no more than the way from the last checkpoint"
    asked = [event for event in found["events"] if event["kind"] == "leave_requested"]
    assert {event["why"] for event in asked} == {"resize"}
    ended = [event["cause"] for event in found["events"] if event["kind"] == "group_ended"]
    assert ended == [*["yielded"] * len(asked), "lost"]
    assert found["every_sample_once"]
    assert found["samples"] == found["totals"]["samples_seen"] == 16_000
    assert found["lr_audit"]["max_abs_error"] == 0


def test_a_node_that_will_be_taken_away_is_left_at_once_and_costs_no_restart(
    happened: dict[str, dict[str, Any]],
) -> None:
    found = happened["preemption"]
    assert "error" not in found, found["error"]
    assert found["sizes"] == [2, 1]
    assert found["lost_samples"] == [0, 0]
    asked = [(event["why"], event["detail"]) for event in found["events"] if event["kind"] == "leave_requested"]
    assert [why for why, _ in asked] == ["preemption"]
    assert asked[0][1] in ("the node of rank 0", "the node of rank 1")
    starts = [event["time"] for event in found["events"] if event["kind"] == "attempt_started"]
    assert starts[1] - starts[0] < 300, "and not when the ten minutes are over"
    assert found["every_sample_once"]


def test_shards_follow_the_workers_and_the_training_stays_that_of_one_worker(
    happened: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    """2 -> 3 -> 1 -> 2 workers, each with a part of the model; the global batch is held."""
    found = happened["sharded"]
    assert "error" not in found, found["error"]
    assert found["sizes"] == [2, 3, 1, 2]
    assert set(found["global_batch_sizes"]) == {15}
    assert found["every_sample_once"]
    assert found["samples"] == found["totals"]["samples_seen"] == 8000
    assert found["lr_audit"]["max_abs_error"] == 0
    held = ["scale.num_workers=1", "scale.global_batch_size=15", "train.epochs=8", "scale.per_worker_batch_size=null"]
    alone = scaler.submit(
        TROUBLED / "job.yaml", workers=1, overrides=held, address="none", storage=str(tmp_path)
    ).report
    theirs = alone.to_dict()["final"]["eval"]
    assert found["final"]["eval"] == pytest.approx(theirs, rel=1e-4)


def test_a_cluster_that_stays_too_small_ends_the_run_in_the_end(happened: dict[str, dict[str, Any]]) -> None:
    error = happened["too_small"]["error"]
    assert "ClusterError: " in error
    assert "the cluster had no capacity for a worker for too long." in error
    assert "scaler resume troubled-" in error
