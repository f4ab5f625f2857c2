"""Finished runs and experiments in a storage, with known speeds and verdicts, for estimates."""

import json
from pathlib import Path
from typing import Any

from scaler.job import Job, dump_job
from scaler.plan import make_plan

START_S, EVALUATION_S = 6.0, 0.5
SERIES = ("samples_seen", "samples_per_s", "eval_samples_seen", "global_batch_size")


def step_time(samples: float) -> float:
    """Return the seconds of a step with so many samples on each worker: a + b * samples."""
    return 0.1 + 0.001 * samples


def put_run(
    storage: Path,
    job: Job,
    *,
    day: int = 1,
    name: str = "digits",
    slower: float = 1.0,
    workers_slow: float = 0.0,
    diverged: bool = False,
    attempts: int = 1,
    device: str = "cpu",
) -> str:
    """Write a run of a job whose step takes ``step_time`` of its samples on a worker, and return its id.

    The second half of the run is slower by 10 %.
    """
    plan = make_plan(job)
    run_id = f"{name}-202601{day:02d}-120000-{abs(hash((name, day, dump_job(job)))) % 16**4:04x}"
    folder = storage / run_id
    folder.mkdir(parents=True)
    (folder / "job.yaml").write_text(dump_job(job))
    (folder / "plan.json").write_text(json.dumps(plan.to_dict()))
    (folder / "status.json").write_text(json.dumps({"state": "succeeded", "started_at": float(day)}))
    batch, total = plan.global_batch_size, plan.total_samples
    seconds = step_time(batch / plan.world_size) * slower + workers_slow * plan.world_size
    speeds = [batch / seconds * (1.0 if part < 10 else 1 / 1.1) for part in range(20)]
    places = [total * part // 20 for part in range(20)]
    evaluations = list(range(plan.eval_every_samples, total + 1, plan.eval_every_samples))
    report: dict[str, Any] = {
        "state": "failed" if diverged else "succeeded",
        "attempts": [{}] * attempts,
        "verdicts": [{"code": "diverged"}] if diverged else [],
        "workers": [{"device": device}],
        "totals": {"samples_seen": total, "samples_per_s": speeds[0]},
        "budget": {
            "startup_s": START_S,
            "evaluation_s": EVALUATION_S * len(evaluations),
            "checkpoint_s": 0.0,
            "other_s": 0.0,
        },
        "series": dict(zip(SERIES, (places, speeds, evaluations, [batch] * 20), strict=True)),
    }
    (folder / "report.json").write_text(json.dumps(report))
    return run_id


def put_experiment(storage: Path, name: str, job: Job, run_id: str, **group: Any) -> None:
    """Write an experiment with one group, whose cell is a run of a job."""
    plan = make_plan(job)
    folder = storage / "experiments" / name
    folder.mkdir(parents=True)
    about = {
        "cells": [0],
        "failed": 0,
        "is_baseline": False,
        "world_size": plan.world_size,
        "global_batch_size": plan.global_batch_size,
        "rule": plan.rule,
        "peak_lr": plan.peak_lr,
        "final": {"value": 0.91},
        "difference_to_baseline": None,
        **group,
    }
    report = {"metric": "accuracy", "cells": [{"cell": 0, "run_id": run_id, "order": 0}], "groups": [about]}
    (folder / "experiment.json").write_text(json.dumps(report))
    study = {"name": name, "job": "job.yaml", "matrix": {"scale.rule": ["linear"]}}
    (folder / "experiment.yaml").write_text(json.dumps(study))
    row = {"cell": 0, "overrides": {}, "seed": 0, "run_id": run_id, "order": 0, "problem": ""}
    cells = {"storage": str(storage), "job": "job.yaml", "overrides": [], "environment": {}, "cells": [row]}
    (folder / "cells.json").write_text(json.dumps(cells))


def difference(verdict: str, mean: float, low: float | None, high: float | None) -> dict[str, Any]:
    """Return a difference to the baseline as a report has it."""
    return {"verdict": verdict, "mean": mean, "low": low, "high": high, "level": 0.9, "pairs": 5}
