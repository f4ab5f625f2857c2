"""Memory of a worker with a copy of the model (ddp) and with a part of it (fsdp), and what a checkpoint costs.

Both train a transformer of about 100 million parameters with AdamW on two workers of an embedded Ray cluster, on CPUs
with gloo. Memory is the largest resident set of a worker above that of its process before the model is built: the
checks at the start count, and the first steps, and in the last column a checkpoint that is written while the training
continues. Linux only.

Run: python benchmarks/sharded_memory.py [--write docs/measured/sharded-memory.md]
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from time import sleep
from typing import Any

import numpy as np
import torch.distributed as dist
from table import table
from torch import Tensor, nn

from scaler.cluster.connection import Connection
from scaler.cluster.embedded import embedded_cluster
from scaler.cluster.ray_run import run_on_ray
from scaler.job import Job
from scaler.metrics.events import Checkpointed
from scaler.metrics.reader import read_events, read_records
from scaler.plan import make_plan
from scaler.runs import RunFolder, RunState
from scaler.training.recipe import Recipe
from scaler.training.recipe.load import load_recipe

HERE = Path(__file__).resolve().parent
WORKERS, STEPS, SAVED_AFTER = 2, 8, 4
SIZE = {"width": 768, "heads": 12, "blocks": 14, "tokens": 16, "num_samples": 64}
STRATEGIES = ("ddp", "fsdp")
MOST_RATIO = 0.6  # the goal: fsdp's memory of ddp's
INTRO = """# Memory and checkpoints of a sharded model

From `python benchmarks/sharded_memory.py --write docs/measured/sharded-memory.md`: a transformer of {parameters:,}
parameters (float32) with AdamW on two CPU workers with gloo, on a virtual machine of two cores. Memory is the largest
resident set of a worker above that of its process before the model was built: mean over the workers. Weights,
gradients and AdamW's two averages alone take {whole:,.0f} MiB on a worker that has a copy, and half of it on one of two
that share a copy. With ddp, rank 0 alone copies the state for a checkpoint; with fsdp, each worker copies its part.

Sharded training on CPUs fixes the size from which on glibc's malloc returns freed memory to the system (4 MiB; see
[decision 75](../decisions/0075-workers-of-a-sharded-model-run-the-same-forwards.md)).

"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", type=Path, help="write the report here")
    parser.add_argument("--measure", choices=STRATEGIES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 (Ray spells it so)
        with tempfile.TemporaryDirectory(prefix="sharded-memory-") as folder, embedded_cluster(verbose=False):
            found_here = measured(arguments.measure, Path(folder))
        print(json.dumps(found_here))
        return
    found = [measured_apart(strategy) for strategy in STRATEGIES]
    rows = [row(one, strategy) for strategy, one in zip(STRATEGIES, found, strict=True)]
    text = f"{table(rows)}\n\n{verdict(*found)}\n"
    print(text)
    if arguments.write:
        model = load_recipe("recipe:build", folder=HERE / "transformer", arguments=SIZE).model
        parameters = sum(parameter.numel() for parameter in model.parameters())
        arguments.write.write_text(INTRO.format(parameters=parameters, whole=16 * parameters / 2**20) + text)


def measured_apart(strategy: str) -> dict[str, float]:
    """Return what ``measured`` returns in a process of its own, with a cluster of its own."""
    command = [sys.executable, __file__, "--measure", strategy]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def measured(strategy: str, storage: Path) -> dict[str, float]:
    """Train with a strategy; return a worker's memory in MiB, a step's seconds, and the first checkpoint's cost."""
    notes = storage / "notes"
    notes.mkdir(parents=True)
    job = Job.model_validate(
        {
            "name": strategy,
            "recipe": "sharded_memory:build",
            "recipe_args": {"notes": str(notes)},
            "reference": {"global_batch_size": 4, "lr": 0.0005, "optimizer": {"name": "adamw"}},
            "scale": {"num_workers": WORKERS, "per_worker_batch_size": 2},
            "schedule": {"name": "constant", "warmup": {"steps": 0}},
            "train": {"steps": STEPS, "num_samples": SIZE["num_samples"], "strategy": strategy},
            "checkpoint": {"every": {"steps": SAVED_AFTER}},
            "resources": {"cpus_per_worker": 1},
            "storage": str(storage),
        }
    )
    run = RunFolder.create(job.storage, name=job.name, now=datetime.now(UTC))
    run.set_state(RunState.RUNNING)  # workers look for it
    plan = make_plan(job, WORKERS)
    run_on_ray(job, plan, run, Connection.of_embedded(job, HERE), on_progress=lambda progress: None)
    saved = next(event for event in read_events(run) if isinstance(event, Checkpointed))
    workers = [json.loads(file.read_text()) for file in sorted(notes.glob("*.json"))]
    assert len(workers) == WORKERS
    peaks = [worker["peaks_mib"][-STEPS:] for worker in workers]  # the checks at the start call the loss too
    saving = [worker["last_mib"] - worker["before_mib"] for worker in workers]
    return {
        "checks": sum(worker["peaks_mib"][-STEPS] - worker["before_mib"] for worker in workers) / WORKERS,
        "steps": sum(p[SAVED_AFTER - 1] - w["before_mib"] for p, w in zip(peaks, workers, strict=True)) / WORKERS,
        "all": sum(saving) / WORKERS,
        "least": min(saving),
        "most": max(saving),
        "step_s": float(np.median(read_records(run)["step_time_s"].to_numpy()[1:SAVED_AFTER])),
        "bytes": saved.bytes,
        "stall_s": saved.stall_s,
        "seconds": saved.seconds,
    }


def row(found: Mapping[str, float], strategy: str) -> dict[str, str]:
    """Return the row of a strategy."""
    return {
        "strategy": strategy,
        "until the first step, MiB": f"{found['checks']:,.0f}",
        "steps, MiB": f"{found['steps']:,.0f}",
        "with a checkpoint, MiB": f"{found['all']:,.0f} ({found['least']:,.0f} to {found['most']:,.0f})",
        "step, s": f"{found['step_s']:.2f}",
        "checkpoint, MB": f"{found['bytes'] / 1e6:,.0f}",
        "stall, s": f"{found['stall_s']:.2f}",
        "until it is complete, s": f"{found['seconds']:.1f}",
    }


def verdict(copy: Mapping[str, float], part: Mapping[str, float]) -> str:
    """Return how the memory of a part compares with that of a copy."""
    ratios = [part[key] / copy[key] for key in ("steps", "all")]
    met = "met" if max(ratios) <= MOST_RATIO else "missed"
    found = f"fsdp has {ratios[0]:.2f} of ddp's memory, and {ratios[1]:.2f} with a checkpoint."
    return f"{found} The goal is {MOST_RATIO:g}: {met}."


class Watched:
    """A loss that notes its worker's largest resident set at each call, and until the worker ends.

    Args:
        loss: the recipe's.
        notes: the folder to write to.
        before_mib: the resident set before the model was built.
    """

    def __init__(self, loss: Any, notes: Path, before_mib: float) -> None:
        self._loss, self._notes = loss, notes
        self._found: dict[str, Any] = {"before_mib": before_mib, "peaks_mib": []}

    def __call__(self, model: nn.Module, batch: tuple[Tensor]) -> Tensor:
        """Return the recipe's loss."""
        self._found["peaks_mib"].append(memory_mib("VmHWM"))
        if len(self._found["peaks_mib"]) == STEPS:
            threading.Thread(target=self._write, args=(dist.get_rank(),), daemon=True).start()
        found: Tensor = self._loss(model, batch)
        return found

    def _write(self, rank: int) -> None:
        while True:
            beside = self._notes / f"{rank}.part"
            beside.write_text(json.dumps({**self._found, "last_mib": memory_mib("VmHWM")}))
            beside.rename(self._notes / f"{rank}.json")
            sleep(0.02)


def memory_mib(key: str) -> float:
    """Return ``VmRSS`` or ``VmHWM`` of this process: its resident set, and the largest so far."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:")) / 1024


def build(notes: str) -> Recipe:
    """Return the transformer, with a loss that notes the memory."""
    Path("/proc/self/clear_refs").write_text("5")  # the largest resident set starts anew
    before_mib = memory_mib("VmRSS")
    recipe = load_recipe("recipe:build", folder=HERE / "transformer", arguments=SIZE)
    return replace(recipe, loss=Watched(recipe.loss, Path(notes), before_mib))


if __name__ == "__main__":
    main()
