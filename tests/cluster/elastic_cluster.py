"""Run jobs on one cluster whose nodes come and go, and print what happened in each as JSON.

python tests/cluster/elastic_cluster.py FOLDER
"""

import json
import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from nodes import Nodes, Step, cluster_of, outcome_of, run_through, runs_with

from scaler.metrics.events import Event

TROUBLED = Path(__file__).parent / "troubled"

Act = tuple[Callable[[Sequence[Event], Any], bool], Callable[[], None]]
"""A condition on the run's events and progress, and what to do then."""


def main(storage: Path) -> None:
    """Run every scenario and print what happened in it, or what was raised."""
    os.environ["SCALER_RESIZE_CHECK_S"] = "3"  # two nodes that join one after the other are one resize
    found = {}
    with redirect_stdout(sys.stderr), cluster_of(1) as nodes:  # Ray tells of dead nodes on stdout
        for name, scenario in SCENARIOS.items():
            try:
                found[name] = scenario(nodes, storage / name)
            except Exception:
                found[name] = {"error": traceback.format_exc()}
    print(json.dumps(found))


def resizes(nodes: Nodes, storage: Path) -> Any:
    """1 -> 3 -> 2 workers: two nodes join a cluster of one, and one of three is killed."""
    nodes.have(1)
    steps: list[Act] = [
        (runs_with(1), lambda: nodes.join(2)),
        (runs_with(3), lambda: nodes.kill()),
        (runs_with(2), lambda: None),
    ]
    return run(nodes, storage, ["train.epochs=16", "scale.num_workers={min: 1, max: 3}"], steps)


def preemption(nodes: Nodes, storage: Path) -> Any:
    """2 -> 1 workers: a node will be taken away in ten minutes, and the group leaves at once."""
    nodes.have(2)
    steps: list[Act] = [
        (runs_with(2), lambda: nodes.announce_preemption(seconds=600)),
        (runs_with(1), lambda: None),
    ]
    overrides = ["train.epochs=6", "scale.num_workers={min: 1, max: 2}", "failures.max_restarts=0"]
    try:
        return run(nodes, storage, overrides, steps)
    finally:
        nodes.kill()  # no worker can start there any more


def sharded(nodes: Nodes, storage: Path) -> Any:
    """2 -> 3 -> 1 -> 2 workers that have shards of the model: nodes join, are killed and come back."""
    nodes.have(2)
    steps: list[Act] = [
        (runs_with(2), lambda: nodes.join(1)),
        (runs_with(3), lambda: nodes.have(1)),
        (runs_with(1), lambda: nodes.join(1)),
        (runs_with(2), lambda: None),
    ]
    held = ["scale.num_workers={min: 1, max: 3}", "scale.on_resize=hold_global_batch"]
    found: dict[str, Any] = run(nodes, storage, ["train.strategy=fsdp", "train.epochs=8", *held], steps)
    return found


def too_small(nodes: Nodes, storage: Path) -> Any:
    """1 -> 0 workers: the only node is killed, and no other comes."""
    nodes.have(1)
    steps: list[Act] = [(runs_with(1), lambda: nodes.kill())]
    return run(nodes, storage, ["scale.num_workers={min: 1, max: 2}", "train.epochs=50", "resources.wait_s=3"], steps)


def run(nodes: Nodes, storage: Path, overrides: Sequence[str], steps: Sequence[Act]) -> Any:
    """Run the job; its steps take long until the last of ``steps`` is done, so that the run cannot end before that."""
    storage.mkdir()
    slow = ["recipe_args.sleep_s=0.05", f"recipe_args.sleep_until={storage}/done"]

    def act(number: int) -> None:
        steps[number][1]()
        if number == len(steps) - 1:
            (storage / "done").touch()

    acts: list[Step] = [(when, lambda _, number=number: act(number)) for number, (when, _) in enumerate(steps)]
    return outcome_of(run_through(nodes, storage, [*overrides, *slow], acts, job_folder=TROUBLED))


SCENARIOS: Mapping[str, Callable[[Nodes, Path], Any]] = {
    "resizes": resizes,
    "preemption": preemption,
    "sharded": sharded,
    "too_small": too_small,
}

if __name__ == "__main__":
    main(Path(sys.argv[1]))
