"""A run's report, read from its folder alone and written back into it."""

import json
import re

from scaler.errors import JobFileError, RunError
from scaler.job import Job, read_job
from scaler.metrics.reader import RunMetrics, with_records
from scaler.plan import Plan
from scaler.report.html import render_html
from scaler.report.markdown import render_markdown
from scaler.report.model import Report
from scaler.report.numbers import summarize
from scaler.runs import RunFolder

_LATER_JOB = re.compile(r"job-(\d+)\.yaml")  # the job from that attempt on


def read_report(folder: RunFolder, *, baseline: RunFolder | None = None) -> Report:
    """Return the report of what is in the folder now, whether the run has ended or not.

    Args:
        folder: the run's.
        baseline: another run, of one worker, against whose speed the efficiency of this one is.

    Raises:
        RunError: a folder cannot be read as a run, or the baseline did not train with one worker.
    """
    job = _read_job(folder, "job.yaml")
    later = {int(found[1]): name for name in folder.names("") if (found := _LATER_JOB.fullmatch(name))}
    try:
        plan = Plan.from_dict(folder.read_json("plan.json"))
    except (KeyError, TypeError) as error:
        raise RunError(f"run {folder.run_id}: plan.json is not a plan: {error}.", "The file was altered.") from None
    # The folder may be a renamed copy: what it is called now is what one can type.
    status = {**folder.read_json("status.json"), "state": folder.state(), "run_id": folder.run_id}
    later_jobs = {attempt: _read_job(folder, name) for attempt, name in sorted(later.items())}
    one_worker = _one_worker(baseline) if baseline is not None else None

    def report(metrics: RunMetrics) -> Report:
        return summarize(
            job=job,
            later_jobs=later_jobs,
            plan=plan,
            status=status,
            records=metrics.records,
            events=metrics.events,
            one_worker=one_worker,
        )

    return with_records(folder, report)


def _one_worker(baseline: RunFolder) -> tuple[float, str]:
    """The samples/s of a run's one worker, and whose they are."""
    scaling = read_report(baseline).scaling
    if scaling is None or scaling.world_size != 1:
        did = f"trained with {scaling.world_size} workers" if scaling is not None else "recorded no step"
        raise RunError(
            f"baseline = {baseline.run_id} {did}, and efficiency is against one worker alone.",
            "Give a run of one worker: scaler submit JOB --workers 1.",
        )
    return scaling.worker_samples_per_s, f"run {baseline.run_id}"


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
