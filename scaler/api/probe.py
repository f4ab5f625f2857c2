"""``scaler.probe``: how far the batch of a training can grow, from branches of its checkpoints."""

import os
from collections.abc import Sequence
from pathlib import Path

from scaler.api.resume import locate_own_job
from scaler.cluster.address import driver_address
from scaler.cluster.resume import read_stored
from scaler.experiment.probe import run_probe
from scaler.experiment.probe_jobs import reference_job, require_one_batch, whole_job
from scaler.experiment.probe_runs import ProbeWatcher
from scaler.experiment.probe_setting import LossChoice, ProbeOptions, ProbeSetting, make_setting
from scaler.job import Job
from scaler.job.located import JobLike, LocatedJob, locate_job
from scaler.notebook import Run
from scaler.plan import make_plan
from scaler.report.probe.model import ProbeReport
from scaler.runs import RunFolder, find_run
from scaler.runs.filesystems import located as located_uri
from scaler.training.plan_job import plan_with_recipe


def probe(
    what: JobLike | Run | RunFolder,
    *,
    at: Sequence[float] | None = None,
    samples: int | None = None,
    tolerance: float | None = None,
    most: int | None = None,
    resolution: float = 1.25,
    seeds: int = 3,
    loss: LossChoice = "auto",
    workers: int | None = None,
    address: str | None = None,
    overrides: Sequence[str] = (),
    storage: str | os.PathLike[str] | None = None,
    recipe_folder: str | os.PathLike[str] | None = None,
    verbose: bool = False,
    watcher: ProbeWatcher | None = None,
) -> ProbeReport:
    """Measure how far the batch of a training can grow, early, in the middle and late; return the batch schedule.

    From a checkpoint, branches train the same samples with k times the batch and the rule's learning rate, for k = 1,
    2, 4 and so on, until the loss leaves a tolerance of the best smaller k; then the gap is divided. Branches are runs
    in the storage: a call that was interrupted continues with the same arguments.

    Args:
        what: a job, which is trained at the reference's batch up to the last place: the path of a job file, of a folder
            with a ``job.yaml``, or a ``Job``. Or a run, whose checkpoints are used: its id below ``storage``, its
            folder or URI, or what ``scaler.read_run`` returned.
        at: places, as shares of the training in (0, 1); None: 0.03, 0.5 and 0.9; of a run, its checkpoints nearest to
            these.
        samples: that each branch trains; None: 256 steps, but at most a fifth of the training.
        tolerance: of the loss; None: two standard errors of the difference between two batches by the seeds, but at
            least 0.4 % of the loss.
        most: largest k; None: as many as leave a branch four steps.
        resolution: the search ends when the smallest k that fails is so many times the largest that holds.
        seeds: repeats of each branch, with other orders of the data.
        loss: ``eval``, ``train``, or ``auto``: the loss of the evaluation where the recipe has one.
        workers: number of workers, instead of the job's.
        address: of a running Ray cluster, as ``scaler.submit`` takes it.
        overrides: ``key.key=value`` texts, the value in YAML; later ones win.
        storage: the folder or URI that gets the runs, instead of the job's ``storage``; for a run, where it is.
        recipe_folder: as ``scaler.submit`` takes it.
        verbose: show Ray's own log on stderr.
        watcher: hears what happens.

    Raises:
        JobFileError: the job or an argument cannot be used.
        RunError: there is no such run, or it has no checkpoint that can be probed.
        TrainingError: the training diverges at its own batch.
        ScalerError: as ``scaler.submit`` raises it.
        KeyboardInterrupt: as ``scaler.submit`` raises it.

    Source:
        Merrill et al. 2025, https://arxiv.org/abs/2505.23971.

    Example:
        >>> import scaler, tempfile
        >>> folder = tempfile.TemporaryDirectory()
        >>> found = scaler.probe(
        ...     "jobs/digits/job.yaml", at=[0.2], samples=512, most=2, seeds=1, workers=1, address="none",
        ...     overrides=["train.epochs=3"], storage=folder.name,
        ... )
        >>> [(place.samples_seen, [one.global_batch_size for one in place.tried]) for place in found.places]
        [(848, [16, 32])]
        >>> folder.cleanup()
    """
    address = driver_address(address, instead="Run it on a node of the cluster: scaler probe JOB --address auto")
    options = ProbeOptions(
        at=at, samples=samples, tolerance=tolerance, most=most, resolution=resolution, seeds=seeds, loss=loss
    )
    setting = plan_probe(
        what, options, workers=workers, overrides=overrides, storage=storage, recipe_folder=recipe_folder
    )
    return run_probe(setting, address=address, verbose=verbose, watcher=watcher or ProbeWatcher())


def plan_probe(
    what: JobLike | Run | RunFolder,
    options: ProbeOptions,
    *,
    workers: int | None = None,
    overrides: Sequence[str] = (),
    storage: str | os.PathLike[str] | None = None,
    recipe_folder: str | os.PathLike[str] | None = None,
) -> ProbeSetting:
    """Return a probe that is ready to run; nothing is trained. The arguments are those of ``probe``."""
    run = _run(what, storage=storage)
    located: LocatedJob
    if run is None:
        assert not isinstance(what, Run | RunFolder)
        located = locate_job(what, overrides=overrides, workers=workers, storage=storage, recipe_folder=recipe_folder)
        where = located.job.storage
    else:
        located = locate_own_job(
            run,
            read_stored(run),
            overrides=overrides,
            workers=workers,
            recipe_folder=recipe_folder,
            instead="scaler probe JOB",
        )
        where = run.uri.rstrip("/").removesuffix(f"/{run.run_id}")
    job, plan = plan_with_recipe(located.job, source=located.source, recipe_folder=located.recipe_folder)
    require_one_batch(job, plan)
    if run is None:
        job, plan = reference_job(job, plan)
    else:
        job = whole_job(job, plan)
        plan = make_plan(job, num_samples=plan.num_samples, parameters=plan.parameters or None)
    return make_setting(job, plan, options, run=run, storage=where, recipe_folder=located.recipe_folder)


def _run(what: JobLike | Run | RunFolder, *, storage: str | os.PathLike[str] | None) -> RunFolder | None:
    """Return the run that a caller names; None: it is a job."""
    if isinstance(what, Run):
        return what.folder
    if isinstance(what, RunFolder):
        return what
    if isinstance(what, Job):
        return None
    name = os.fspath(what)
    if "://" in name or RunFolder(located_uri(name)).is_run():
        return find_run(name)
    if Path(name).exists() or "/" in name or name.endswith((".yaml", ".yml")):
        return None
    return find_run(name, storage=os.fspath(storage) if storage is not None else "runs")
