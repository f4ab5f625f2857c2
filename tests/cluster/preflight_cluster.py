"""Run jobs on one cluster with nodes that do not fit, and print what happened in each as JSON.

python tests/cluster/preflight_cluster.py FOLDER
"""

import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from importlib.metadata import version
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


def with_torch(number: str, folder: Path) -> Mapping[str, str]:
    """Return the environment of a node on which torch seems to have another version."""
    about = folder / f"torch-{number}.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: torch\nVersion: {number}\n")
    return {"PYTHONPATH": str(folder)}


def outcome(
    nodes: Nodes, storage: Path, *overrides: str, on_notice: Callable[[str], Any] = lambda notice: None
) -> dict[str, Any]:
    """Run the job; return its error, its notices, and the versions that its workers report."""
    notices: list[str] = []
    storage.mkdir(exist_ok=True, parents=True)
    error, began = "", time.time()

    def take(notice: str) -> None:
        notices.append(notice)
        on_notice(notice)

    try:
        run_through(nodes, storage, [*SHORT, *overrides], [], job_folder=TROUBLED, on_notice=take)
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


def only_here(nodes: Nodes, storage: Path) -> Any:
    """The Python processes of the node see an empty folder where the storage is; needs root."""
    if os.geteuid() != 0:
        return None
    (storage / "site").mkdir(parents=True)
    (storage / "runs").mkdir()
    (storage / "site" / "sitecustomize.py").write_text(HIDE.format(path=str(storage / "runs")))
    with node(nodes, env_vars={"PYTHONPATH": str(storage / "site")}):
        return outcome(nodes, storage / "runs", "scale.num_workers=1")


HIDE = """
import ctypes
libc, new_namespace, private = ctypes.CDLL(None, use_errno=True), 0x20000, 0x44000
failed = libc.unshare(new_namespace) or libc.mount(b"none", b"/", None, private, None)
if failed or libc.mount(b"none", {path!r}.encode(), b"tmpfs", 0, None):
    raise OSError(ctypes.get_errno(), "the storage cannot be hidden")
"""


def no_module(nodes: Nodes, storage: Path) -> Any:
    """The recipe imports a module that the node does not have."""
    storage.mkdir()
    (storage / "needs_more.py").write_text("import PIL_of_nobody.Image\n\ndef build(**options): ...\n")
    with node(nodes):
        return outcome(nodes, storage / "runs", "scale.num_workers=1", f"recipe={storage}/needs_more.py:build")


def in_use(nodes: Nodes, storage: Path) -> Any:
    """Another program uses one of two CPUs, and frees it when the run says that it waits.

    The two nodes have other patches of one release of torch, with which the run trains.
    """
    import ray

    @ray.remote(num_cpus=1)
    class Other:
        def is_there(self) -> bool:
            return True

    release = ".".join(version("torch").split(".")[:2])
    with node(nodes), node(nodes, env_vars=with_torch(f"{release}.99", storage / "site")):
        other = Other.remote()
        assert ray.get(other.is_there.remote())
        late = outcome(nodes, storage / "late", "resources.wait_s=2")
        freed = outcome(nodes, storage / "freed", on_notice=lambda notice: ray.kill(other, no_restart=True))
    return {"late": late, "freed": freed}


SCENARIOS: Mapping[str, Callable[[Nodes, Path], Any]] = {
    "another_release": another_release,
    "only_here": only_here,
    "no_module": no_module,
    "in_use": in_use,
}

if __name__ == "__main__":
    main(Path(sys.argv[1]))
