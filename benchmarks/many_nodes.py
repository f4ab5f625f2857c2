"""Let many nodes join and die at random moments under one elastic run: does each sample count once?

The nodes are one cluster on this machine, with one CPU each by name; they share its cores. Every few seconds one joins,
or one is killed without notice. The run must finish, its records must have each sample once, and every learning rate
that was used must be the plan's.

Run: python benchmarks/many_nodes.py [--nodes 6] [--changes 12] [--seed 0]
"""

import argparse
import os
import random
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from time import monotonic
from typing import Any

from kill_workers import environment_of_workers, write_job
from nodes import Nodes, cluster_of, outcome_of, run_through
from table import table

PAUSE_S = (2.0, 20.0)  # between two changes: within a start of the group, and long after it


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--nodes", type=int, default=6, help="the most nodes at a time (default 6)")
    parser.add_argument("--changes", type=int, default=12, help="nodes that join or die (default 12)")
    parser.add_argument("--seed", type=int, default=0, help="of moments and nodes (default 0)")
    arguments = parser.parse_args()
    os.environ.update(environment_of_workers())
    changes = Changes(random.Random(arguments.seed), most=arguments.nodes)
    with tempfile.TemporaryDirectory(prefix="nodes-") as name:
        folder = Path(name)
        job = write_job(folder, epochs=1, overrides={})
        overrides = [
            f"scale.num_workers={{min: 1, max: {arguments.nodes}}}",
            "failures.max_restarts=1000",
            "train.epochs=40",
            "recipe_args.sleep_s=0.3",  # until the last change, so that the run does not end before it
            f"recipe_args.sleep_until={folder}/changed",
        ]
        with redirect_stdout(sys.stderr), cluster_of(2) as nodes:  # Ray tells of dead nodes on stdout
            steps = [(changes.is_time, changes.make)] * arguments.changes
            steps.append((changes.is_time, lambda _: (folder / "changed").touch()))
            found = outcome_of(run_through(nodes, folder / "runs", overrides, steps, job_folder=job.parent))
    print(
        table(
            [
                {
                    "changes": " ".join(changes.made),
                    "sizes": " -> ".join(map(str, found["sizes"])),
                    "every sample once": "yes" if found["every_sample_once"] else "NO",
                    "LR audit error": f"{found['lr_audit']['max_abs_error']:g}",
                }
            ]
        )
    )
    sys.exit(0 if found["every_sample_once"] and found["lr_audit"]["max_abs_error"] == 0.0 else 1)


class Changes:
    """What happens to the nodes.

    Args:
        rng: says when, and what.
        most: nodes at a time.
    """

    def __init__(self, rng: random.Random, *, most: int) -> None:
        self._rng, self._most = rng, most
        self._next_at = monotonic() + PAUSE_S[1]
        self.made: list[str] = []

    def is_time(self, events: Sequence[Mapping[str, Any]], progress: Any) -> bool:
        """Whether training has begun, and the pause is over."""
        return progress.attempt is not None and monotonic() >= self._next_at

    def make(self, nodes: Nodes) -> None:
        """Have a node join, or kill one; the last one stays."""
        number = nodes.number
        joins = number == 1 or (number < self._most and self._rng.random() < 0.5)
        if joins:
            nodes.join(1)
        else:
            nodes.kill()
        self.made.append("+1" if joins else "-1")
        self._next_at = monotonic() + self._rng.uniform(*PAUSE_S)


if __name__ == "__main__":
    main()
