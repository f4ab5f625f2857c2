"""The finished runs of a job in a storage, under any name, with any batch and any number of workers.

Only what is needed is read: the job's text of the newest runs, the plans of those of this job, and the reports of a few
of each batch. Records are not read.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from scaler.core.intervals import Estimate
from scaler.core.step_time import speeds
from scaler.errors import ScalerError
from scaler.job import Job, dump_job
from scaler.job.stored import stored_lines
from scaler.runs import RunFolder
from scaler.runs.filesystems import inside, located, names_in
from scaler.runs.parsing import parse_json

MOST_RUNS = 200  # newest runs of a storage whose job is read
MOST_REPORTS = 24  # reports that are read for one plan
REPEATS = 4  # of one batch and number of workers
PARTS = 10  # parts of a run whose speeds give the range
_MADE = re.compile(r"-(\d{8}-\d{6})-[0-9a-f]{4}$")

# Keys of the job that change the work for a sample, or the machine that does it.
WORK = (
    "recipe",
    "recipe_args",
    "groups",
    "layer_decay",
    "reference.optimizer.name",
    "scale.mesh",
    "train.activation_checkpointing",
    "train.channels_last",
    "train.compile",
    "train.data_workers",
    "train.ema",
    "train.fsdp",
    "train.pin_memory",
    "train.precision",
    "train.strategy",
    "train.tf32",
    "resources.accelerator_type",
    "resources.cpus_per_worker",
    "resources.gpus_per_worker",
)
_WORK = tuple(f"{name}." for name in WORK)


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedRun:
    """A run of the job, by its plan.

    Args:
        folder: of the run.
        world_size: workers.
        global_batch_size: samples a step.
        rule: of ``scale.rule``.
        peak_lr: peak learning rate.
        total_samples: of the training.
    """

    folder: RunFolder
    world_size: int
    global_batch_size: int
    rule: str
    peak_lr: float
    total_samples: int


@dataclass(frozen=True, kw_only=True, slots=True)
class KnownRun:
    """A run of the job, by its report. Seconds; None: not known.

    Args:
        plan: of the run.
        device: ``cpu``, or the name of its GPU.
        step_s: time of an optimizer step, with the range over the tenths of the run.
        evaluation_s: of one evaluation.
        checkpoint_s: stops for checkpoints, for a sample.
        around_s: start-up, and the end of the run.
        is_diverged: whether the training diverged.
    """

    plan: PlannedRun
    device: str | None
    step_s: Estimate | None
    evaluation_s: float
    checkpoint_s: float
    around_s: float | None
    is_diverged: bool


def work_text(dumped: str) -> str:
    """Return the lines of a dumped job that two jobs share if a sample takes the same work in both."""
    return stored_lines(dumped, keep=lambda key: f"{key}.".startswith(_WORK))


def planned_runs(job: Job, *, storage: str) -> Sequence[PlannedRun]:
    """Return the newest runs with the work of a job, the newest first.

    Raises:
        RunError: the storage cannot be listed.
    """
    base, text = located(storage), dump_job(job)
    work, recipe = work_text(text), next(line for line in text.splitlines() if line.startswith("recipe:")).encode()
    names = sorted(names_in(base, what=f"storage = {storage}"), key=_made, reverse=True)
    return list(_planned(base, names[:MOST_RUNS], work, recipe))


def _made(name: str) -> str:
    """Return the time in a run's id; a run with an id of its own comes last."""
    found = _MADE.search(name)
    return found[1] if found else ""


def _planned(base: str, names: Sequence[str], work: str, recipe: bytes) -> Iterator[PlannedRun]:
    for name in names:
        folder = RunFolder(inside(base, name))
        with suppress(ScalerError, ValueError, KeyError, TypeError):  # no run, or a file of it was altered
            raw = folder.read_if_there("job.yaml")
            if raw is None or recipe not in raw or work_text(raw.decode()) != work:
                continue
            plan = parse_json(folder.read("plan.json"))
            if plan["purpose"] == "train":
                yield PlannedRun(
                    folder=folder,
                    world_size=int(plan["world_size"]),
                    global_batch_size=int(plan["global_batch_size"]),
                    rule=str(plan["rule"]),
                    peak_lr=float(plan["peak_lr"]),
                    total_samples=int(plan["total_samples"]),
                )


def known_run(run: PlannedRun) -> KnownRun | None:
    """Return what a run's report says; None: it has none, or was resumed or resized."""
    with suppress(ScalerError, ValueError, KeyError, TypeError, AttributeError):
        raw = run.folder.read_if_there("report.json")
        if raw is not None:
            return _known(run, json.loads(raw))
    return None


def _known(run: PlannedRun, report: Mapping[str, Any]) -> KnownRun | None:
    is_diverged = any(verdict["code"] == "diverged" for verdict in report["verdicts"])
    totals, series, budget = report["totals"], report["series"], report["budget"]
    if len(report["attempts"]) != 1 and not is_diverged:
        return None
    is_whole = report["state"] == "succeeded" and not is_diverged and len(set(series["global_batch_size"])) == 1
    samples = totals["samples_seen"]
    evaluations = len(series["eval_samples_seen"])
    return KnownRun(
        plan=run,
        device=report["workers"][0]["device"] if report["workers"] else None,
        step_s=_step_time(run.global_batch_size, totals, series) if is_whole else None,
        evaluation_s=budget["evaluation_s"] / evaluations if budget and evaluations else 0.0,
        checkpoint_s=budget["checkpoint_s"] / samples if budget and samples else 0.0,
        around_s=budget["startup_s"] + max(0.0, budget["other_s"]) if budget else None,
        is_diverged=is_diverged,
    )


def _step_time(batch: int, totals: Mapping[str, Any], series: Mapping[str, Any]) -> Estimate | None:
    arguments = series["samples_seen"], totals["samples_seen"], series["samples_per_s"]
    whole = speeds(*arguments) or ((totals["samples_per_s"],) if totals["samples_per_s"] else ())
    if not whole:
        return None
    parts = speeds(*arguments, parts=PARTS) or whole
    return Estimate(value=batch / whole[0], low=batch / max(parts), high=batch / min(parts))


def merged(runs: Sequence[KnownRun]) -> Estimate:
    """Return the mean time of a step over runs of one batch, with the range over all of them."""
    found = [run.step_s for run in runs if run.step_s is not None]
    return Estimate(
        value=fmean(each.value or 0.0 for each in found),
        low=min(each.low or 0.0 for each in found),
        high=max(each.high or 0.0 for each in found),
    )
