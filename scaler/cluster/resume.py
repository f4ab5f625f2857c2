"""A run that goes on: in the same folder, from its newest good checkpoint, with the same or an edited job."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from os.path import expanduser, realpath
from pathlib import Path
from time import sleep, time
from typing import Any

from scaler.cluster.run_driver import OnNotice, OnProgress, OnReport, drive, require_runnable, sigterm_like_ctrl_c
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
from scaler.runs.lease import BEAT_S, Lease, require_free
from scaler.training.checkpoints.files import PassedOver, find_checkpoint, passed_over_events

ORPHANS_S = 5.0  # how long workers outlive a driver that was killed; measured on an embedded Ray: 3 s


@dataclass(frozen=True, kw_only=True, slots=True)
class Stored:
    """What a run's folder says of itself."""

    job: Job  # the newest: as submitted, or as a resume changed it
    source: str  # its file, for errors
    plan: Plan
    state: RunState
    recipe_folder: Path  # only to be used where ``doubt`` is empty
    doubt: str  # why what the folder says of its recipe is not to be run; empty where it is

    def has_finished(self, plan: Plan) -> bool:
        """Whether the run succeeded, and a plan is no longer than the one that it followed."""
        return self.state is RunState.SUCCEEDED and plan.total_samples <= self.plan.total_samples


def read_stored(folder: RunFolder) -> Stored:
    """Return what a run goes on from.

    Raises:
        RunError: somebody drives the run, it is none that can go on, or its folder was altered: a job, the plan, or
            records, which the report at the end needs.
    """
    require_free(folder)
    state, status = folder.state(), folder.read_json("status.json")
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
            f"run {folder.run_id} is a range test, which does not go on.", "scaler find-lr JOB makes another."
        )
    require_readable(folder)
    recipe_folder = Path(str(status.get("recipe_folder", ".")))
    return Stored(
        job=jobs[-1],
        source=folder.path(source),
        plan=plan,
        state=state,
        recipe_folder=recipe_folder,
        doubt=_doubt(folder, status.get("place"), recipe_folder, jobs[-1].recipe),
    )


def _doubt(folder: RunFolder, made_in: object, recipe_folder: Path, recipe: str) -> str:
    """Why what a folder says of its recipe is not to be run: it may have been made by somebody else, for that."""
    if made_in is None:
        return "does not say where it was made"
    if made_in != folder.place:
        return f"was made in {mask_text(str(made_in))}, and not where it lies now"
    if not recipe_folder.is_absolute():
        return f"has its recipe in {recipe_folder}, which may be anywhere"
    file = recipe_folder / expanduser(recipe.rpartition(":")[0])  # a module's name leads to nothing there
    if folder.local_path is not None and any(
        Path(realpath(path)).is_relative_to(folder.place) for path in (recipe_folder, file)
    ):
        return "has its recipe in its own folder"
    return ""


def require_same_data(stored: Stored, plan: Plan) -> None:
    """Refuse to go on with a training set of another size.

    Raises:
        JobFileError: says both sizes.
    """
    if plan.num_samples != stored.plan.num_samples:
        raise JobFileError(
            f"the training set has {plan.num_samples:,} samples now, and had {stored.plan.num_samples:,} in this run.",
            "samples_seen counts passes over it: go on with the same, or begin a new run: scaler submit JOB.",
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
    on_start: Callable[[RunFolder, int | None, Sequence[PassedOver]], None] = lambda folder, samples_seen, bad: None,
    on_progress: OnProgress = lambda progress: None,
    on_report: OnReport = lambda report: None,
    on_notice: OnNotice = lambda notice: None,
) -> RunFolder:
    """Go on with a run that was stopped, failed, or whose driver is gone, and write its report as ``submit`` does.

    Args:
        folder: the run's folder.
        job: what is asked for now.
        plan: its plan.
        changes: from the newest job in the folder to this one.
        recipe_folder: where the recipe is looked for first.
        address: as ``submit`` takes it.
        verbose: show Ray's log.
        on_start: called when the run is claimed: with the folder, the samples of the newest good checkpoint or None,
            and newer ones that cannot be used.
        on_progress: called a few times a second.
        on_report: called with the report when it is in the run's folder, also before an error is raised.
        on_notice: called with a sentence for the person who submits.

    Returns:
        The run's folder; its state is ``succeeded``.

    Raises:
        JobFileError: a change that the run cannot bear, or a job that ends before where the run is.
        RunError: somebody drives the run, or its storage cannot be read.
        ScalerError: what went wrong; the run's folder has the report of what there is.
        KeyboardInterrupt: Ctrl-C or SIGTERM; likewise, and the run is marked stopped.
    """
    require_resumable(changes)
    require_runnable(job, plan, recipe_folder=recipe_folder, address=address)
    with sigterm_like_ctrl_c(), Lease.claim(folder) as lease:
        _outlive_workers_of(lease.before)
        status = folder.read_json("status.json")
        attempt = next_attempt(folder)
        from_samples, passed_over = find_checkpoint(folder)
        now = time()
        idle_s = max(0.0, now - _last_sign_of_life(folder, status, lease.before))
        if passed_over:  # at once: they are set aside, and nobody meets them again
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
        )
        on_start(folder, from_samples, passed_over)
        drive(
            job,
            plan,
            folder,
            lease,
            recipe_folder=recipe_folder,
            address=address,
            verbose=verbose,
            resumed=Resumed(
                time=now,
                from_samples=from_samples,
                workers=plan.world_size,
                changes=[list(change.texts()) for change in changes],
                idle_s=idle_s,
            ),
            on_progress=on_progress,
            on_report=on_report,
            on_notice=on_notice,
        )
    return folder


def _require_beyond(plan: Plan, from_samples: int | None) -> None:
    """Refuse a training that would end before where the run is; with adascale, only the workers know where that is."""
    if from_samples is not None and from_samples > plan.total_samples and not plan.is_measured:
        raise JobFileError(
            f"the job ends at {plan.total_samples:,} samples, and the run is at {from_samples:,}.",
            "Give a longer training: train.epochs, samples or steps.",
        )


def _outlive_workers_of(driver: Mapping[str, Any] | None) -> None:
    """Wait until the workers of a driver that was killed have noticed: until then they write checkpoints and records.

    It was killed after its last beat; when the next one is overdue, some of the time has passed already.
    """
    if driver is not None:
        ago = time() - driver["beat"]
        sleep(min(ORPHANS_S, max(0.0, BEAT_S + ORPHANS_S - ago)))


def _last_sign_of_life(folder: RunFolder, status: Mapping[str, Any], lease: Mapping[str, Any] | None) -> float:
    """When the run was last known to be at work, in epoch seconds."""
    events = [event.time for event in read_events(folder) if event.time is not None]
    signs = [status.get("started_at"), status.get("ended_at"), lease["beat"] if lease is not None else None]
    return float(max([sign for sign in signs if sign is not None] + events, default=time()))
