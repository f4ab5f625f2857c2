"""Writes synthetic runs as run folders."""

from io import BytesIO

import pyarrow.parquet as pq
from synthetic import SyntheticRun, records_table

from scaler.job import dump_job
from scaler.metrics.events import to_dict
from scaler.metrics.files import EVENTS, file_name
from scaler.runs import RunFolder, RunState


def write_run(storage: str, run_id: str, run: SyntheticRun) -> RunFolder:
    """Write a run's folder with job, plan, status, events and records, and return it."""
    folder = RunFolder(f"{storage}/{run_id}")
    folder.write("job.yaml", dump_job(run.job))
    for attempt, job in run.later_jobs.items():
        folder.write(f"job-{attempt}.yaml", dump_job(job))
    folder.write_json("plan.json", run.plan.to_dict())
    folder.append_json(EVENTS, map(to_dict, run.events))
    raw = BytesIO()
    pq.write_table(records_table(run.records), raw)
    folder.write(file_name(0, 0), raw.getvalue())
    folder.set_state(RunState(run.state), started_at=1000.0, ended_at=1010.5)
    return folder
