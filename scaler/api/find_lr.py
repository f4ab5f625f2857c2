"""``scaler.find_lr``: a learning-rate range test on the real workers."""

import os
from collections.abc import Sequence

from scaler.api.callbacks import OnNotice, OnPlan, OnProgress, OnStart, ignore
from scaler.cluster.address import driver_address
from scaler.cluster.submit import submit_plan
from scaler.job.located import JobLike, locate_job
from scaler.plan.range_test import carried_by, range_job, range_plan, require_range
from scaler.report.find_lr.summary import FoundLrs, read_range
from scaler.training.plan_job import plan_with_recipe


def find_lr(
    job: JobLike,
    *,
    lowest: float = 1e-5,
    highest: float = 10.0,
    steps: int = 100,
    linear: bool = False,
    workers: int | None = None,
    address: str | None = None,
    overrides: Sequence[str] = (),
    storage: str | os.PathLike[str] | None = None,
    recipe_folder: str | os.PathLike[str] | None = None,
    verbose: bool = False,
    on_plan: OnPlan | None = None,
    on_start: OnStart | None = None,
    on_progress: OnProgress | None = None,
    on_notice: OnNotice | None = None,
) -> FoundLrs:
    """Train while the learning rate grows; return the loss of each step and the suggested learning rates.

    Args:
        job: the path of a job file, of a folder with a ``job.yaml``, or a ``Job``.
        lowest: the learning rate of the first step, above 0.
        highest: the learning rate of the last step, above ``lowest``.
        steps: number of optimizer steps, at least 20.
        linear: each step adds the same amount to the learning rate; otherwise each multiplies it by the same factor.
        workers: number of workers, instead of ``scale.num_workers``.
        address: of a running Ray cluster, as ``scaler.submit`` takes it.
        overrides: ``key.key=value`` texts, the value in YAML; later ones win.
        storage: the folder or URI that gets the run, instead of the job's ``storage``.
        recipe_folder: as ``scaler.submit`` takes it.
        verbose: show Ray's own log on stderr.
        on_plan: called with the test's job and plan, before anything is started or written.
        on_start: called with the folder of the test's run when it has been made.
        on_progress: called with a ``Progress`` a few times a second.
        on_notice: called with a sentence for the user.

    Raises:
        JobFileError: the job cannot be used or is elastic, or the range is empty.
        ScalerError: as ``scaler.submit`` raises it.
        KeyboardInterrupt: as ``scaler.submit`` raises it.

    Example:
        >>> import scaler, tempfile
        >>> folder = tempfile.TemporaryDirectory()
        >>> found = scaler.find_lr("jobs/digits/job.yaml", steps=20, workers=1, address="none", storage=folder.name)
        >>> len(found.lrs), round(found.lrs[0], 7), round(found.lrs[-1], 7)
        (20, 1e-05, 10.0)
        >>> folder.cleanup()
    """
    address = driver_address(address, instead="Run it on a node of the cluster: scaler find-lr JOB --address auto")
    require_range(lowest=lowest, highest=highest)
    located = locate_job(job, overrides=overrides, workers=workers, storage=storage, recipe_folder=recipe_folder)
    planned, plan = plan_with_recipe(located.job, source=located.source, recipe_folder=located.recipe_folder)
    test_job = range_job(planned, steps=steps)
    test_plan = range_plan(
        test_job,
        lowest=lowest,
        highest=highest,
        spacing="linear" if linear else "exponential",
        num_samples=plan.num_samples,
        parameters=plan.parameters or None,
        horizon_samples=round(plan.progress_at(plan.total_samples)),
    )
    (on_plan or ignore)(test_job, test_plan)
    folder = submit_plan(
        test_job,
        test_plan,
        recipe_folder=located.recipe_folder,
        address=address,
        verbose=verbose,
        on_start=on_start or ignore,
        on_progress=on_progress or ignore,
        on_notice=on_notice or ignore,
    )
    lr_ratio, rule_reason = carried_by(plan)
    return read_range(
        folder, test_plan, name=planned.name, base_lr=plan.base_lr, lr_ratio=lr_ratio, rule_reason=rule_reason
    )
