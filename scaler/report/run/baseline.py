"""The speed of one worker in another run, to which efficiency is compared."""

from scaler.errors import JobFileError, RunError
from scaler.job import Job
from scaler.job.changes import Change, job_changes
from scaler.report.run.missing_data import find_missing_data
from scaler.report.run.model import Report

MAY_DIFFER = (
    "name",
    "storage",
    "tracking",
    "resources",
    "checkpoint",
    "failures",
    "reference.samples_per_s",
    "scale.num_workers",
    "scale.mesh",
    "train.strategy",
    "train.fsdp",
    "train.seed",
    "train.epochs",
    "train.samples",
    "train.steps",
    "train.eval_every",
)
"""Keys and sections in which the run of one worker may differ: where it runs and how the model is shared, its length,
and what was measured."""

SPLITS_A_FIXED_BATCH = ("scale.per_worker_batch_size", "scale.grad_accum_steps")
"""With ``scale.global_batch_size`` one worker computes the whole batch, in more micro-batches."""


def one_worker_speed(baseline: Report, *, job: Job, baseline_job: Job) -> tuple[float, str]:
    """Return the samples/s of one worker in another run, and the name of that run.

    Args:
        baseline: report of the run with one worker.
        job: the newest job of the run whose efficiency is computed.
        baseline_job: the newest job of the baseline.

    Raises:
        RunError: the baseline did not train with one worker, or some of its files are damaged.
        JobFileError: its job trains something else, or with another batch.
    """
    run_id, scaling = baseline.run_id, baseline.scaling
    if gaps := find_missing_data(baseline):
        raise RunError(f"baseline = {run_id}: {gaps[0].message}", "Restore the file from a copy, or give another run.")
    if scaling is None or scaling.world_size != 1:
        did = f"trained with {scaling.world_size} workers" if scaling is not None else "recorded no step"
        raise RunError(
            f"baseline = {run_id} {did}, but efficiency is computed against one worker alone.",
            "Give a run of one worker: scaler submit JOB --workers 1.",
        )
    if changes := [change for change in job_changes(baseline_job, job) if not _may_differ(change, job, baseline_job)]:
        differences = [
            f"{key} is {there} there and {here} here" for key, there, here in (each.texts() for each in changes)
        ]
        raise JobFileError(
            f"baseline = {run_id} is a run of another job: {'; '.join(differences)}.",
            "Give a run of the same job with one worker: scaler submit JOB --workers 1.",
        )
    return scaling.worker_samples_per_s, f"run {run_id}"


def _may_differ(change: Change, *jobs: Job) -> bool:
    is_fixed = all(job.scale.global_batch_size is not None for job in jobs)
    allowed = MAY_DIFFER + (SPLITS_A_FIXED_BATCH if is_fixed else ())
    return any(change.key == key or change.key.startswith(f"{key}.") for key in allowed)
