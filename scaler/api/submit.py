"""``scaler.submit``: plan a job, run it to its end, and report on it; or start or resume the run of a given id."""

import os
from collections.abc import Sequence
from shlex import quote

from scaler.api.callbacks import OnNotice, OnPlan, OnProgress, OnReport, OnStart, ignore, keep_report
from scaler.api.repeats import require_no_repeat
from scaler.api.resume import resume
from scaler.api.submit_remote import start_remote
from scaler.api.torchrun import worked_for_rank_0, workers_here
from scaler.api.wait_remote import wait_for
from scaler.cluster.address import choose_address
from scaler.cluster.submit import submit_plan
from scaler.job import Job
from scaler.job.changes import Change
from scaler.job.located import JobLike, LocatedJob, locate_job
from scaler.notebook import Run
from scaler.plan import Plan
from scaler.runs import RunFolder, RunState
from scaler.runs.control import read_stop
from scaler.runs.find import require_run_id, run_with_id, typed_name
from scaler.runs.lease import wait_while_silent
from scaler.training.checkpoints.files import PassedOver
from scaler.training.plan_job import plan_with_recipe


def submit(
    job: JobLike,
    *,
    run_id: str | None = None,
    even_if_stopped: bool = False,
    workers: int | None = None,
    address: str | None = None,
    overrides: Sequence[str] = (),
    storage: str | os.PathLike[str] | None = None,
    recipe_folder: str | os.PathLike[str] | None = None,
    verbose: bool = False,
    on_plan: OnPlan | None = None,
    on_start: OnStart | None = None,
    on_progress: OnProgress | None = None,
    on_report: OnReport | None = None,
    on_notice: OnNotice | None = None,
) -> Run:
    """Run a job to its end, and return the run with its report.

    The call returns when training is over. It prints nothing: progress arrives in the callbacks, which are called in
    the caller's thread. A run that fails or is stopped keeps its folder, its checkpoints and a report of what was done;
    ``scaler.read_run("last")`` reads it, and ``scaler.resume`` continues it.

    Args:
        job: the path of a job file, of a folder with a ``job.yaml``, or a ``Job``.
        run_id: starts or resumes the run of this id. No such run in the job's storage: it is started. A run that is not
            finished: it is resumed from its newest good checkpoint, as ``scaler.resume`` with this job does it. A run
            that has finished: it is returned, and no callback is called. None: a new run with a new id.
        even_if_stopped: continue the run of this id also if it was stopped with ``scaler stop``, or has failed twice
            with the same error of its recipe. False: such a run is not started again; ``scaler.resume`` continues it.
        workers: number of workers, instead of ``scale.num_workers``.
        address: ``http(s)://host:port``: of a running Ray cluster, through Ray Jobs; the run's driver runs there, and
            of the callbacks only ``on_report`` and ``on_notice`` are called. ``auto``, ``host:port``: of a running
            cluster, with the driver in this process. ``local``: an embedded cluster on this machine, which ends with
            the call. ``none``: one worker in this process, without Ray. None: the processes that torchrun has
            started, if this is one; else what RAY_API_SERVER_ADDRESS or RAY_ADDRESS names, else ``local``.
        overrides: ``key.key=value`` texts, the value in YAML; later ones win.
        storage: the folder or URI that gets the run, instead of the job's ``storage``.
        recipe_folder: where the recipe is looked for; None: next to the job file, or in the current folder for a
            ``Job``.
        verbose: show Ray's own log on stderr.
        on_plan: called with the job and its plan, before anything is started or written.
        on_start: called with the run's folder when it has been made.
        on_progress: called with a ``Progress`` a few times a second.
        on_report: called with the report when it is in the run's folder, also before an error is raised.
        on_notice: called with a sentence for the user.

    Raises:
        JobFileError: the job cannot be used; nothing was started.
        ClusterError: there is no such cluster, or it cannot hold the job.
        TrainingError: the job failed; a ``RecipeError`` if the recipe raised. Also if the run of this id has failed
            twice with the same error of its recipe.
        RunError: the storage cannot be read or written, or another process took the run over.
        KeyboardInterrupt: Ctrl-C or SIGTERM. At the first one, the run saves a checkpoint and stops; the second one
            ends it at once. The run's state is then ``stopped``. Also if the run of this id was stopped on request.

    Example:
        >>> import scaler, tempfile
        >>> folder = tempfile.TemporaryDirectory()
        >>> run = scaler.submit(
        ...     "jobs/digits/job.yaml",
        ...     workers=1,
        ...     address="none",
        ...     overrides=["train.epochs=1"],
        ...     storage=folder.name,
        ... )
        >>> run.report.state, run.report.totals.samples_seen
        ('succeeded', 1437)
        >>> list(run.report.final.eval)
        ['accuracy', 'loss']
        >>> folder.cleanup()
    """
    if run_id is not None:
        require_run_id(run_id)
    chosen = choose_address(address)
    if (worked := worked_for_rank_0(chosen)) is not None:
        return worked
    workers = workers_here(chosen, workers)
    if chosen.value is not None and chosen.is_http:
        remote, sent = start_remote(
            job,
            address=chosen.value,
            run_id=run_id,
            workers=workers,
            overrides=overrides,
            storage=storage,
            recipe_folder=recipe_folder,
            options=["--verbose"] if verbose else [],
            on_notice=on_notice or ignore,
        )
        return wait_for(remote, sent, on_report=on_report or ignore, on_notice=on_notice or ignore)
    located = locate_job(job, overrides=overrides, workers=workers, storage=storage, recipe_folder=recipe_folder)
    before = None if run_id is None else run_with_id(run_id, storage=located.job.storage)
    if before is not None:
        return _resumed(
            before,
            located,
            even_if_stopped=even_if_stopped,
            address=address,
            verbose=verbose,
            on_plan=on_plan or ignore,
            on_start=on_start or ignore,
            on_progress=on_progress,
            on_report=on_report,
            on_notice=on_notice or ignore,
        )
    planned, plan = plan_with_recipe(located.job, source=located.source, recipe_folder=located.recipe_folder)
    (on_plan or ignore)(planned, plan)
    reports, reported = keep_report(on_report)
    folder = submit_plan(
        planned,
        plan,
        recipe_folder=located.recipe_folder,
        run_id=run_id,
        address=chosen.value,
        verbose=verbose,
        on_start=on_start or ignore,
        on_progress=on_progress or ignore,
        on_report=reported,
        on_notice=on_notice or ignore,
    )
    return Run(folder, report=reports[-1])


def _resumed(
    folder: RunFolder,
    located: LocatedJob,
    *,
    even_if_stopped: bool,
    address: str | None,
    verbose: bool,
    on_plan: OnPlan,
    on_start: OnStart,
    on_progress: OnProgress | None,
    on_report: OnReport | None,
    on_notice: OnNotice,
) -> Run:
    """Resume a run with a job; what the callbacks of ``submit`` do not get is reported as notices."""

    def planned(job: Job, plan: Plan, changes: Sequence[Change], folder: RunFolder) -> None:
        on_plan(job, plan)
        for change in changes:
            on_notice(f"Changed since the run was last started: {change}")

    def started(folder: RunFolder, from_samples: int | None, passed_over: Sequence[PassedOver]) -> None:
        on_start(folder)
        for checkpoint in passed_over:
            on_notice(f"Passed over: {checkpoint.reason}")
        on_notice(
            "There is no checkpoint: starting at the first sample."
            if from_samples is None
            else f"Resuming at {from_samples:,} samples."
        )

    wait_while_silent(folder, on_notice)
    request = read_stop(folder)
    if request is not None and folder.state() is RunState.STOPPED and not even_if_stopped:
        on_notice(
            f"Run {folder.run_id} was stopped by {request.by}, and stays stopped. To continue it: "
            f"scaler resume {quote(typed_name(folder))}"
        )
        raise KeyboardInterrupt
    if not even_if_stopped:
        require_no_repeat(folder, located.job)
    return resume(
        folder.uri,
        job=located.job,
        recipe_folder=located.recipe_folder,
        address=address,
        verbose=verbose,
        on_plan=planned,
        on_start=started,
        on_progress=on_progress,
        on_report=on_report,
        on_notice=on_notice,
    )
