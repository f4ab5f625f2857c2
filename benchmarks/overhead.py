"""The cost of training with scaler: samples per second and memory, against a plain Ray Train loop without records.

Both sides train the same model on the same samples with the same optimizer, batch and number of steps, on two workers
of one embedded Ray cluster with one torch thread each. They take turns, in the order A B B A. Samples per second count
everything between the start of an early step and the start of the last one (see ``stopwatch``): on scaler's side the
records and their upload too, but neither evaluation nor checkpoints, which the plain loop does not have; both are set
to the very end. Memory is the largest resident set of a worker, the end included. Each training gets new processes.
The sharded transformer is compared with torch's ``fully_shard`` on the same blocks; both sides clip the gradient.
Ray gives its workers a niceness of 15, so other processes on the machine have priority; here it is 0, on both sides.

Run: python benchmarks/overhead.py [--pairs 5] [--only digits|transformer|sharded]
"""

import argparse
import os
import sys
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

from stopwatch import cpu_s_per_step, read_notes, samples_per_s
from table import table

from scaler.cluster.connection import Connection
from scaler.cluster.embedded import embedded_cluster
from scaler.cluster.ray_run import run_on_ray
from scaler.job import Job, load_job
from scaler.plan import Plan, make_plan
from scaler.runs import RunFolder, RunState
from scaler.training.recipe.load import load_recipe

HERE = Path(__file__).resolve().parent
WORKERS = 2


@dataclass(frozen=True, kw_only=True)
class Case:
    """A job to measure and its length."""

    name: str
    job_file: Path
    epochs: int
    warmup_steps: int
    least_ratio: float  # the goal: at least
    sharded: bool = False  # strategy: fsdp, against fully_shard


CASES = (
    Case(
        name="digits",
        job_file=HERE.parent / "jobs/digits/job.yaml",
        epochs=250,
        warmup_steps=150,
        least_ratio=1.1,
    ),
    Case(
        name="transformer",
        job_file=HERE / "transformer/job.yaml",
        epochs=4,
        warmup_steps=16,
        least_ratio=0.98,
    ),
    Case(
        name="sharded",
        job_file=HERE / "transformer/job.yaml",
        epochs=4,
        warmup_steps=16,
        least_ratio=0.95,
        sharded=True,
    ),
)
CLIP = 1.0  # of the sharded case
MOST_MEMORY_MIB = 64.0


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One training of one side."""

    samples_per_s: float  # over all workers
    cpu_s_per_step: float  # mean over workers
    peak_memory_mib: float  # mean over workers
    train_s: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=5, help="trainings of each side (default 5)")
    parser.add_argument("--only", choices=[case.name for case in CASES], help="one case")
    arguments = parser.parse_args()
    cases = [case for case in CASES if arguments.only in (None, case.name)]
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 (Ray spells it so)
    with tempfile.TemporaryDirectory(prefix="overhead-") as folder, embedded_cluster(verbose=False):
        rows = [measure(case, pairs=arguments.pairs, folder=Path(folder)) for case in cases]
    print(table(rows))


def measure(case: Case, *, pairs: int, folder: Path) -> dict[str, str]:
    """Return the table's row of a case."""
    both: dict[str, list[Measurement]] = {"scaler": [], "plain": []}
    for pair in range(pairs):
        for side in ("scaler", "plain") if pair % 2 == 0 else ("plain", "scaler"):
            began = perf_counter()
            notes = Path(tempfile.mkdtemp(prefix=f"{case.name}-{side}-", dir=folder))
            job, plan, arguments = prepared(case, notes=notes, storage=str(notes))
            (with_scaler if side == "scaler" else plainly)(job, plan, arguments)
            found = measured(notes, warmup_steps=case.warmup_steps, steps=plan.total_steps)
            both[side].append(found)
            print(
                f"{case.name} {pair + 1}/{pairs} {side:6}: {found.samples_per_s:,.0f} samples/s "
                f"over {found.train_s:.1f} s, {found.peak_memory_mib:.0f} MiB; {perf_counter() - began:.0f} s in all",
                file=sys.stderr,
            )
    return row(case, both["scaler"], both["plain"])


def prepared(case: Case, *, notes: Path, storage: str) -> tuple[Job, Plan, dict[str, Any]]:
    """Return the case's job with a stopwatch in it, its plan, and the stopwatch's arguments."""
    job = load_job(case.job_file)
    epochs = {"epochs": float(case.epochs)}
    values = job.model_dump()
    values["train"] |= {**epochs, "eval_every": epochs}
    if case.sharded:
        values["train"] |= {"strategy": "fsdp", "clip_grad_norm": CLIP}
    values["checkpoint"]["every"] = epochs
    values["storage"] = storage
    steps = make_plan(Job.model_validate(values), WORKERS).total_steps
    arguments = {
        "folder": str(case.job_file.parent),
        "path": job.recipe,
        "arguments": job.recipe_args,
        "steps": steps,
        "notes": str(notes),
    }
    job = Job.model_validate({**values, "recipe": "stopwatch:build", "recipe_args": arguments})
    return job, make_plan(job, WORKERS), arguments


def with_scaler(job: Job, plan: Plan, arguments: dict[str, Any]) -> None:
    run = RunFolder.create(job.storage, name=job.name, now=datetime.now(UTC))
    run.set_state(RunState.RUNNING)  # workers look for it
    run_on_ray(job, plan, run, Connection.of_embedded(job, HERE), on_progress=lambda progress: None)


def plainly(job: Job, plan: Plan, arguments: dict[str, Any]) -> None:
    from plain import fit  # it imports Ray, and an embedded cluster must be the first to import it

    config = {
        "recipe": arguments,
        "optimizer": {"name": job.reference.optimizer.name, **job.reference.optimizer.options, "lr": plan.peak_lr},
        "batch_size": plan.per_worker_batch_size,
        "epochs": int(job.train.epochs or 0),
        "threads": 1,
        "report": False,
        "sharded_clip": job.train.clip_grad_norm if job.train.strategy == "fsdp" else None,
    }
    fit(config, workers=WORKERS, storage=job.storage)


def measured(folder: Path, *, warmup_steps: int, steps: int) -> Measurement:
    notes = read_notes(folder)
    if sorted(notes) != list(range(WORKERS)) or any(len(note["times"]) != steps for note in notes.values()):
        raise SystemExit(f"{len(notes)} of {WORKERS} workers took {steps} steps: the sides do not compare.")
    times = notes[0]["times"]
    return Measurement(
        samples_per_s=samples_per_s(notes, warmup_steps=warmup_steps),
        cpu_s_per_step=cpu_s_per_step(notes, warmup_steps=warmup_steps),
        peak_memory_mib=sum(note["peak_memory_mib"] for note in notes.values()) / WORKERS,
        train_s=times[-1] - times[warmup_steps],
    )


def row(case: Case, scaler: list[Measurement], other: list[Measurement]) -> dict[str, str]:
    pairs = list(zip(scaler, other, strict=True))
    ratios = [ours.samples_per_s / theirs.samples_per_s for ours, theirs in pairs]
    cpu_ratios = [ours.cpu_s_per_step / theirs.cpu_s_per_step for ours, theirs in pairs]
    extra_mib = median(ours.peak_memory_mib - theirs.peak_memory_mib for ours, theirs in pairs)
    job = load_job(case.job_file)
    model = load_recipe(job.recipe, folder=case.job_file.parent, arguments=job.recipe_args).model
    return {
        "case": case.name,
        "parameters": f"{sum(parameter.numel() for parameter in model.parameters()):,}",
        "scaler samples/s": f"{median(m.samples_per_s for m in scaler):,.0f}",
        "plain samples/s": f"{median(m.samples_per_s for m in other):,.0f}",
        "ratio (min-max)": f"{median(ratios):.3f} ({min(ratios):.3f}-{max(ratios):.3f})",
        "goal": f">= {case.least_ratio:g} {'met' if median(ratios) >= case.least_ratio else 'MISSED'}",
        "CPU of a step, ratio": f"{median(cpu_ratios):.3f} ({min(cpu_ratios):.3f}-{max(cpu_ratios):.3f})",
        "scaler MiB": f"{median(m.peak_memory_mib for m in scaler):.0f}",
        "plain MiB": f"{median(m.peak_memory_mib for m in other):.0f}",
        "more MiB": f"{extra_mib:+.1f}",
        "memory goal": f"<= {MOST_MEMORY_MIB:g} {'met' if extra_mib <= MOST_MEMORY_MIB else 'MISSED'}",
    }


if __name__ == "__main__":
    main()
