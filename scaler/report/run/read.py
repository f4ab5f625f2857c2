"""Read a run's report from its folder."""

from scaler.errors import JobFileError, RunError
from scaler.job import Job, read_job
from scaler.metrics.reader import RunMetrics, with_records
from scaler.plan import Plan
from scaler.report.run.baseline import one_worker_speed
from scaler.report.run.model import Report
from scaler.report.run.summary import summarize
from scaler.runs import RunFolder
from scaler.runs.lease import present_state
from scaler.runs.logs import ranks_with_log


def read_report(folder: RunFolder, *, baseline: RunFolder | None = None) -> Report:
    """Return the report of a run's folder as it is now; the run may still be running.

    Args:
        folder: of the run.
        baseline: a run of the same job with one worker; the efficiency is computed against its speed.

    Raises:
        RunError: a folder cannot be read as a run, or the baseline is damaged or did not train with one worker.
        JobFileError: the baseline is a run of another job.
    """
    jobs = read_jobs(folder)
    job, *_ = jobs.values()
    try:
        plan = Plan.from_dict(folder.read_json("plan.json"))
    except (KeyError, TypeError) as error:
        raise RunError(f"run {folder.run_id}: plan.json is not a plan: {error}.", "The file was altered.") from None
    state, gone = present_state(folder)
    # The folder may be a renamed copy: the report names the run as a command line does.
    status = {
        **folder.read_json("status.json"),
        "state": state,
        "run_id": folder.run_id,
        "driver": str(gone or ""),
        "driver_seen_at": gone.beat if gone is not None else None,
    }
    later_jobs = {attempt: later for attempt, later in jobs.items() if attempt}
    one_worker = None
    if baseline is not None:
        newest, baseline_job = (list(found.values())[-1] for found in (jobs, read_jobs(baseline)))
        one_worker = one_worker_speed(read_report(baseline), job=newest, baseline_job=baseline_job)

    def report(metrics: RunMetrics) -> Report:
        return summarize(
            job=job,
            later_jobs=later_jobs,
            plan=plan,
            status=status,
            records=metrics.records,
            events=metrics.events,
            one_worker=one_worker,
            logs=frozenset(ranks_with_log(folder)),
        )

    return with_records(folder, report)


def read_jobs(folder: RunFolder) -> dict[int, Job]:
    """Return a run's jobs by the attempt from which each is used, in ascending order; the first is used from 0.

    Raises:
        RunError: a job is missing or cannot be read.
    """
    return {attempt: _read_job(folder, name) for attempt, name in folder.job_names().items()}


def _read_job(folder: RunFolder, name: str) -> Job:
    try:
        return read_job(folder.read(name), source=folder.path(name))
    except JobFileError as error:
        raise RunError(error.problem, error.remedy) from None
