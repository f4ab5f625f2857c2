"""Run jobs on one cluster with nodes that do not fit, and print what happened in each as JSON.

python tests/cluster/preflight_cluster.py FOLDER
"""

import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nodes import Nodes, cluster_of, run_through

from scaler.errors import ScalerError
from scaler.metrics.events import WorkerStarted, of_type
from scaler.metrics.reader import read_events

TROUBLED = Path(__file__).parent / "troubled"
SHORT = ["train.epochs=1", "recipe_args.sleep_s=0"]


def main(storage: Path) -> None:
    """Run every scenario and print what happened in it, or what was raised."""
    found = {}
    with redirect_stdout(sys.stderr), cluster_of(0) as nodes:
        for name, scenario in SCENARIOS.items():
            began = time.time()
            try:
                found[name] = scenario(nodes, storage / name)
            except Exception:
                found[name] = {"bug": traceback.format_exc()}
            print(name, f"{time.time() - began:.1f} s", file=sys.stderr)
    print(json.dumps(found))


@contextmanager
def node(nodes: Nodes, **options: Any) -> Iterator[None]:
    """Have one more node of one CPU."""
    nodes.join(1, **options)
    try:
        yield
    finally:
        nodes.kill()


def with_torch(version: str, folder: Path) -> Mapping[str, str]:
    """Return the environment of a node on which torch seems to have this version."""
    about = folder / f"torch-{version}.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: torch\nVersion: {version}\n")
    return {"PYTHONPATH": str(folder)}


def outcome(nodes: Nodes, storage: Path, *overrides: str) -> dict[str, Any]:
    """Run the job; return its error, its notices, and the versions that its workers report."""
    notices: list[str] = []
    storage.mkdir(exist_ok=True)
    error = ""
    began = time.time()
    try:
        run_through(nodes, storage, [*SHORT, *overrides], [], job_folder=TROUBLED, on_notice=notices.append)
    except ScalerError as caught:
        error = str(caught)
    from scaler.runs import list_runs

    (folder,) = list_runs(str(storage))
    started = of_type(read_events(folder), WorkerStarted)
    return {
        "error": error,
        "notices": notices,
        "versions": [event.versions for event in sorted(started, key=lambda event: event.rank)],
        "left": folder.names(""),
        "seconds": time.time() - began,
    }


def another_release(nodes: Nodes, storage: Path) -> Any:
    """One of two nodes has another release of torch."""
    with node(nodes), node(nodes, env_vars=with_torch("2.1.0", storage / "site")):
        return outcome(nodes, storage / "runs", "scale.num_workers=2")


def another_patch(nodes: Nodes, storage: Path) -> Any:
    """One of two nodes has another patch of torch's release."""
    from importlib.metadata import version

    release = ".".join(version("torch").split(".")[:2])
    with node(nodes), node(nodes, env_vars=with_torch(f"{release}.99", storage / "site")):
        return outcome(nodes, storage / "runs", "scale.num_workers=2")


SCENARIOS: Mapping[str, Callable[[Nodes, Path], Any]] = {
    "another_release": another_release,
    "another_patch": another_patch,
}

if __name__ == "__main__":
    main(Path(sys.argv[1]))
