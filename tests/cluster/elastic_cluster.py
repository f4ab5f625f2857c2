"""Run a job on a cluster whose nodes come and go, and print what happened as JSON.

python tests/cluster/elastic_cluster.py FOLDER SCENARIO
"""

import json
import os
import sys
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from nodes import Step, cluster_of, outcome, run_through, runs_with

TROUBLED = Path(__file__).parent / "troubled"


def main(storage: Path, scenario: str) -> None:
    """Run a scenario and print its outcome."""
    with redirect_stdout(sys.stderr):  # Ray tells of dead nodes on stdout
        folder = SCENARIOS[scenario](storage)
    print(json.dumps(outcome(folder)))


def resizes(storage: Path) -> Any:
    """1 -> 3 -> 2 workers: two nodes join a cluster of one, and one of three is killed."""
    overrides = ["train.epochs=8", "scale.num_workers={min: 1, max: 3}", "recipe_args.sleep_s=0.02"]
    steps: list[Step] = [
        (runs_with(1), lambda nodes: nodes.join(2)),
        (runs_with(3), lambda nodes: nodes.kill()),
        (runs_with(2), lambda nodes: None),
    ]
    with cluster_of(1) as nodes:
        return run_through(nodes, storage, overrides, steps, job_folder=TROUBLED)


def preemption(storage: Path) -> Any:
    """2 -> 1 workers: a node will be taken away in ten minutes, and the group leaves at once."""
    overrides = ["train.epochs=6", "scale.num_workers={min: 1, max: 2}", "recipe_args.sleep_s=0.02"]
    steps: list[Step] = [
        (runs_with(2), lambda nodes: nodes.announce_preemption(seconds=600)),
        (runs_with(1), lambda nodes: None),
    ]
    with cluster_of(2) as nodes:
        return run_through(nodes, storage, [*overrides, "failures.max_restarts=0"], steps, job_folder=TROUBLED)


def no_capacity(storage: Path) -> Any:
    """1 -> 0 workers: the only node is killed, and no other comes."""
    os.environ["SCALER_WAIT_FOR_NODES_S"] = "8"
    steps: list[Step] = [(runs_with(1), lambda nodes: nodes.kill())]
    with cluster_of(1) as nodes:
        overrides = ["scale.num_workers={min: 1, max: 2}", "train.epochs=50", "recipe_args.sleep_s=0.02"]
        return run_through(nodes, storage, overrides, steps, job_folder=TROUBLED)


SCENARIOS: Mapping[str, Callable[[Path], Any]] = {
    "scale_with_batch": resizes,
    "preemption": preemption,
    "no_capacity": no_capacity,
}

if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
