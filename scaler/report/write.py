"""A run's report, read from its folder alone and written back into it."""

import json

from scaler.errors import JobFileError, RunError
from scaler.job import read_job
from scaler.metrics.reader import read_events, read_records
from scaler.plan import Plan
from scaler.report.html import render_html
from scaler.report.markdown import render_markdown
from scaler.report.model import Report
from scaler.report.numbers import summarize
from scaler.runs import RunFolder


def read_report(folder: RunFolder) -> Report:
    """Return the report of what is in the folder now, whether the run has ended or not.

    Raises:
        RunError: the folder cannot be read as a run.
    """
    try:
        job = read_job(folder.read("job.yaml"), source=folder.path("job.yaml"))
    except JobFileError as error:
        raise RunError(error.problem, error.remedy) from None
    try:
        plan = Plan.from_dict(folder.read_json("plan.json"))
    except (KeyError, TypeError) as error:
        raise RunError(f"run {folder.run_id}: plan.json is not a plan: {error}.", "The file was altered.") from None
    return summarize(
        job=job,
        plan=plan,
        status={**folder.read_json("status.json"), "state": folder.state()},
        records=read_records(folder),
        events=read_events(folder),
    )


def write_report(folder: RunFolder) -> Report:
    """Write ``report.json``, ``report.md`` and ``report.html`` from what is in the folder now."""
    report = read_report(folder)
    folder.write("report.json", json.dumps(report.to_dict(), indent=1, allow_nan=False) + "\n")
    folder.write("report.md", render_markdown(report))
    folder.write("report.html", render_html(report))
    return report
