"""A run's report, read from its folder alone and written back into it."""

import json
import re

from scaler.errors import JobFileError, RunError
from scaler.job import Job, read_job
from scaler.metrics.reader import read_run
from scaler.plan import Plan
from scaler.report.html import render_html
from scaler.report.markdown import render_markdown
from scaler.report.model import Report
from scaler.report.numbers import summarize
from scaler.runs import RunFolder

_LATER_JOB = re.compile(r"job-(\d+)\.yaml")  # the job from that attempt on


def read_report(folder: RunFolder) -> Report:
    """Return the report of what is in the folder now, whether the run has ended or not.

    Raises:
        RunError: the folder cannot be read as a run.
    """
    job = _read_job(folder, "job.yaml")
    later = {int(found[1]): name for name in folder.names("") if (found := _LATER_JOB.fullmatch(name))}
    try:
        plan = Plan.from_dict(folder.read_json("plan.json"))
    except (KeyError, TypeError) as error:
        raise RunError(f"run {folder.run_id}: plan.json is not a plan: {error}.", "The file was altered.") from None
    metrics = read_run(folder)
    return summarize(
        job=job,
        later_jobs={attempt: _read_job(folder, name) for attempt, name in sorted(later.items())},
        plan=plan,
        # The folder may be a renamed copy: what it is called now is what one can type.
        status={**folder.read_json("status.json"), "state": folder.state(), "run_id": folder.run_id},
        records=metrics.records,
        events=metrics.events,
        unreadable=metrics.unreadable,
    )


def _read_job(folder: RunFolder, name: str) -> Job:
    try:
        return read_job(folder.read(name), source=folder.path(name))
    except JobFileError as error:
        raise RunError(error.problem, error.remedy) from None


def write_report(folder: RunFolder) -> Report:
    """Write ``report.json``, ``report.md`` and ``report.html`` from what is in the folder now."""
    report = read_report(folder)
    folder.write("report.json", json.dumps(report.to_dict(), indent=1, allow_nan=False) + "\n")
    folder.write("report.md", render_markdown(report))
    folder.write("report.html", render_html(report))
    return report
