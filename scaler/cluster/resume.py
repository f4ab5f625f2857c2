"""Resume a run in its folder, from its newest complete checkpoint, with the same job or an edited one."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from os.path import expanduser, realpath
from pathlib import Path
from time import sleep, time
from typing import TYPE_CHECKING, Any

from scaler.cluster.run_driver import (
    OnNotice,
    OnProgress,
    OnReport,
    require_runnable,
    run_to_end,
    sigterm_like_ctrl_c,
)
from scaler.errors import JobFileError, RunError
from scaler.job import Job, dump_job, read_job
from scaler.job.changes import Change, require_resumable
from scaler.masking import mask_text
from scaler.metrics.events import Resumed, to_dict, with_texts
from scaler.metrics.files import EVENTS
from scaler.metrics.next_attempt import next_attempt
from scaler.metrics.reader import read_events, require_readable
from scaler.plan import Plan
from scaler.runs import RunFolder, RunState
from scaler.runs.control import clear_stop
from scaler.runs.lease import BEAT_S, Lease, require_free
from scaler.training.checkpoints.files import PassedOver, find_checkpoint, passed_over_events

if TYPE_CHECKING:
    from scaler.cluster.connection import Connection

# After their driver was killed, workers may continue for this long; measured on an embedded cluster: 3 s.
ORPHANS_S = 5.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Stored:
    """What a run's folder contains about the run."""

    job: Job  # the newest: as submitted, or as a resume changed it
    source: str  # the job's file, for errors
    plan: Plan
    state: RunState
    recipe_folder: Path  # to be used only if ``doubt`` is empty
    doubt: str  # why the recipe that the folder names must not be run; empty: it may be run

    def has_finished(self, plan: Plan) -> bool:
        """Return whether the run succeeded, and a plan is not longer than the run's."""
        return self.state is RunState.SUCCEEDED and plan.end_samples <= self.plan.end_samples


def read_stored(folder: RunFolder) -> Stored:
    """Return what a run's folder contains, to resume the run.

    Raises:
        RunError: another process runs it, the run cannot be resumed, or its folder was altered: a job, the plan, or
            records, which the report at the end needs.
    """
    require_free(folder)
    state = folder.state()
    try:
        jobs = [read_job(folder.read(name), source=folder.path(name)) for name in folder.job_names().values()]
    except JobFileError as error:
        raise RunError(error.problem, error.remedy) from None
    source = list(folder.job_names().values())[-1]
    try:
        plan = Plan.from_dict(folder.read_json("plan.json"))
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(f"run {folder.run_id}: plan.json is not a plan: {error}.", "The file was altered.") from None
    if plan.purpose == "find_lr":
        raise RunError(
            f"run {folder.run_id} is a range test, which cannot be resumed.", "Start another: scaler find-lr JOB"
        )
    require_readable(folder)
    recipe_folder, doubt = stored_recipe_folder(folder, jobs[-1])
    return Stored(
        job=jobs[-1],
        source=folder.path(source),
        plan=plan,
        state=state,
        recipe_folder=recipe_folder,
        doubt=doubt,
    )


def stored_recipe_folder(folder: RunFolder, job: Job) -> tuple[Path, str]:
    """Return where the recipe of a run was when it was last started, and why it must not be run; empty: it may be run.

    Args:
        folder: of the run.
        job: the newest of the run.
    """
    status = folder.read_json("status.json")
    recipe_folder = Path(str(status.get("recipe_folder", ".")))
    return recipe_folder, _doubt(folder, status.get("place"), recipe_folder, job.recipe_function)


def _doubt(folder: RunFolder, made_in: object, recipe_folder: Path, recipe: str) -> str:
    """Return why the recipe that a folder names must not be run: another person may have put theirs there."""
    if made_in is None:
        return "does not say where it was made"
    if made_in != folder.place:
        return f"was made in {mask_text(str(made_in))} and is now in another place"
    if not recipe_folder.is_absolute():
        return f"has its recipe in {recipe_folder}, which is not an absolute path"
    file = recipe_folder / expanduser(recipe.rpartition(":")[0])  # for a module, this path does not exist
    if folder.local_path is not None and any(
        Path(realpath(path)).is_relative_to(folder.place) for path in (recipe_folder, file)
    ):
        return "has its recipe in its own folder"
    return ""


def require_same_data(stored: Stored, plan: Plan) -> None:
    """Refuse to resume with a training set of another size.

    Raises:
        JobFileError: says both sizes.
    """
    if plan.num_samples != stored.plan.num_samples:
        raise JobFileError(
            f"the training set has {plan.num_samples:,} samples now, and had {stored.plan.num_samples:,} in this run.",
            "samples_seen counts passes over it. Use the same training set, or start a new run: scaler submit JOB.",
        )


def resume_plan(
    folder: RunFolder,
    job: Job,
    plan: Plan,
    *,
    changes: Sequence[Change] = (),
    recipe_folder: Path,
    address: str | None = None,
    verbose: bool = False,
    connection: "Connection | None" = None,
    on_start: Callable[[RunFolder, int | None, Sequence[PassedOver]], None] = lambda folder, samples_seen, bad: None,
    on_progress: OnProgress = lambda progress: None,
    on_report: OnReport = lambda report: None,
    on_notice: OnNotice = lambda notice: None,
) -> RunFolder:
    """Resume a run that was stopped, failed, or lost its driver, and write its report as ``submit`` does.

    Args:
        folder: the run's folder.
        job: what is asked for now.
        plan: its plan.
        changes: from the newest job in the folder to this one.
        recipe_folder: the folder where the recipe is looked for first.
        address: as ``submit`` takes it.
        verbose: show Ray's log.
        connection: to the cluster, if several runs share it; None: the run connects, and disconnects at its end.
        on_start: called when the run is claimed, with the folder, the samples seen of the newest complete checkpoint or
            None, and the newer checkpoints that cannot be used.
        on_progress: called a few times a second.
        on_report: called with the report when it is in the run's folder, also before an error is raised.
        on_notice: called with a sentence for the user.

    Returns:
        The run's folder; its state is ``succeeded``.

    Raises:
        JobFileError: a change that a resume cannot make, or a job that ends before the samples that the run has seen.
        RunError: another process runs it, or its storage cannot be read.
        ScalerError: what went wrong; the run's folder has a report of the steps so far.
        KeyboardInterrupt: Ctrl-C or SIGTERM; there is a report, and the run is marked stopped.
    """
    require_resumable(changes)
    require_runnable(job, plan, recipe_folder=recipe_folder, address=address)
    with sigterm_like_ctrl_c(), Lease.claim(folder) as lease:
        _wait_for_workers_of(lease.before)
        clear_stop(folder)
        status = folder.read_json("status.json")
        attempt = next_attempt(folder)
        from_samples, passed_over = find_checkpoint(folder)
        now = time()
        idle_s = max(0.0, now - _last_active_at(folder, status, lease.before))
        if passed_over:  # written now: these checkpoints are set aside, and no later resume finds them
            events = passed_over_events(passed_over, attempt=attempt)
            folder.end_line(EVENTS)
            folder.append_json(EVENTS, [to_dict(with_texts(event, mask_text)) for event in events])
        _require_beyond(plan, from_samples)
        if changes:
            folder.write(f"job-{attempt}.yaml", dump_job(job))
        folder.write_json("plan.json", plan.to_dict())
        folder.set_state(
            RunState.STARTING,
            place=folder.place,
            recipe_folder=str(recipe_folder),
            idle_s=status.get("idle_s", 0.0) + idle_s,
            ended_at=None,
            failure=None,
            exit_code=None,
        )
        on_start(folder, from_samples, passed_over)
        run_to_end(
            job,
            plan,
            folder,
            lease,
            recipe_folder=recipe_folder,
            address=address,
            verbose=verbose,
            connection=connection,
            resumed=Resumed(
                time=now,
                from_samples=from_samples,
                workers=plan.world_size,
                changes=[list(change.texts()) for change in changes],
                idle_s=idle_s,
                driver_seen_at=None if lease.before is None else lease.before["beat"],
            ),
            on_progress=on_progress,
            on_report=on_report,
            on_notice=on_notice,
        )
    return folder


def _require_beyond(plan: Plan, from_samples: int | None) -> None:
    """Refuse a job that ends before the samples that the run has seen; with adascale, only the workers know its end."""
    units = plan.units
    if from_samples is not None and from_samples > plan.end_samples and not plan.is_measured:
        raise JobFileError(
            f"the job ends at {units.place(plan.end_samples)} {units.many}, and the run has seen "
            f"{units.place(from_samples)}.",
            "Give a longer training: train.epochs, samples, tokens or steps.",
        )


def _wait_for_workers_of(driver: Mapping[str, Any] | None) -> None:
    """Wait until the workers of a killed driver have ended: until then they write checkpoints and records.

    The driver was killed after its last beat. When the next beat is overdue, a part of the time has passed already.
    """
    if driver is not None:
        ago = time() - driver["beat"]
        sleep(min(ORPHANS_S, max(0.0, BEAT_S + ORPHANS_S - ago)))


def _last_active_at(folder: RunFolder, status: Mapping[str, Any], lease: Mapping[str, Any] | None) -> float:
    """Return when the run was last known to be active, in epoch seconds."""
    events = [event.time for event in read_events(folder) if event.time is not None]
    signs = [status.get("started_at"), status.get("ended_at"), lease["beat"] if lease is not None else None]
    return float(max([sign for sign in signs if sign is not None] + events, default=time()))
