"""Runs on the embedded cluster of the tests, without the command line."""

import time
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from scaler.cluster.connection import Connection
from scaler.cluster.progress import Progress
from scaler.cluster.ray_run import run_on_ray
from scaler.job import Job, load_job
from scaler.plan import make_plan
from scaler.runs import RunFolder, RunState

TROUBLED = Path(__file__).parent / "troubled"
DIGITS = Path(__file__).parent.parent.parent / "jobs/digits"


def start(storage: Path, folder: Path, *overrides: str) -> tuple[Job, RunFolder]:
    """Make the folder of a run as ``scaler submit`` does."""
    job = load_job(folder / "job.yaml", overrides=[*overrides, f"storage={storage}"])
    run = RunFolder.create(str(storage), name=job.name, now=datetime.now())
    run.write("job.yaml", yaml.safe_dump(job.model_dump(mode="json", exclude_none=True)))
    run.write_json("plan.json", make_plan(job).to_dict())
    run.set_state(RunState.RUNNING, started_at=time.time())
    return job, run


def run(storage: Path, folder: Path, *overrides: str, on_progress: Any = lambda progress: None) -> RunFolder:
    """Run the job of a folder to its end."""
    job, run_folder = start(storage, folder, *overrides)
    finished = run_on_ray(job, make_plan(job), run_folder, Connection.of_embedded(job, folder), on_progress=on_progress)
    run_folder.set_state(RunState.SUCCEEDED if finished else RunState.STOPPED, ended_at=time.time())
    return run_folder


class CalmRun(NamedTuple):
    """A run that nothing disturbs, and the progress that its driver saw."""

    folder: RunFolder
    progress: list[Progress]
