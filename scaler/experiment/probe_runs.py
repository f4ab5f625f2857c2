"""The runs of a probe: each is found in the storage, or trained."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from scaler.cluster.connection import Connection
from scaler.cluster.progress import Progress
from scaler.cluster.train_run import train_run
from scaler.errors import RunError, ScalerError
from scaler.experiment.cell_runs import fingerprint
from scaler.job import Job, read_job
from scaler.plan import Plan, make_plan
from scaler.report.run.model import Report
from scaler.report.run.read import read_report
from scaler.runs import RunFolder, RunState, list_runs
from scaler.runs.lease import present_state
from scaler.runs.origin import Origin

Checkpoint = tuple[RunFolder, int]
"""A run, and the samples seen of one of its checkpoints."""

_Key = tuple[str, str | None, int]


@dataclass(frozen=True, kw_only=True, slots=True)
class ProbeWatcher:
    """What a caller hears of a probe that runs.

    Args:
        on_setting: called with a sentence on what the probe will do, first.
        on_start: called with what is trained, its plan and the samples seen at its start, before it starts.
        on_progress: called with the progress of the run that trains, a few times a second.
        on_end: called when it has ended.
        on_result: called with a sentence on what was found.
        on_notice: called with a sentence for the user.
    """

    on_setting: Callable[[str], None] = lambda sentence: None
    on_start: Callable[[str, Plan, int], None] = lambda what, plan, start: None
    on_progress: Callable[[Progress], None] = lambda progress: None
    on_end: Callable[[], None] = lambda: None
    on_result: Callable[[str], None] = lambda sentence: None
    on_notice: Callable[[str], None] = lambda notice: None


class ProbeRuns:
    """Finds the runs of a probe, and trains those that are missing.

    Args:
        name: of the jobs of the probe.
        storage: of the runs.
        plan: gives what a plan needs from the recipe.
        recipe_folder: the recipe is looked for there.
        address: of a running cluster; None: an embedded one; ``none``: one worker in this process.
        connection: to the cluster; None without Ray.
        watcher: hears what happens.
    """

    def __init__(
        self,
        *,
        name: str,
        storage: str,
        plan: Plan,
        recipe_folder: Path,
        address: str | None,
        connection: Connection | None,
        watcher: ProbeWatcher,
    ) -> None:
        self._plan, self._recipe_folder, self._watcher = plan, recipe_folder, watcher
        self._address, self._connection = address, connection
        self._there: dict[_Key, RunFolder] = {}
        for folder in list_runs(storage):
            if folder.run_id.startswith(f"{name}-"):
                self._add(folder)

    def train(self, what: str, job: Job, origin: Checkpoint | None) -> tuple[RunFolder, Report]:
        """Return the run of a job and its report, after training what is missing of it.

        Args:
            what: is trained, for the watcher.
            job: of the run.
            origin: the checkpoint that it begins from; None: it begins at its first sample.

        Raises:
            ScalerError: the run failed, or another process runs it.
        """
        found = self._there.get(_key(job, None if origin is None else origin[0].run_id, origin[1] if origin else 0))
        state = None if found is None else present_state(found)[0]
        if found is not None and state is RunState.SUCCEEDED:
            return found, read_report(found)
        if found is not None and state in (RunState.STARTING, RunState.RUNNING):
            raise RunError(
                f"run {found.run_id} of the probe is running in another process.", f"scaler wait {found.run_id}"
            )
        plan = make_plan(job, num_samples=self._plan.num_samples, parameters=self._plan.parameters or None)
        watcher, reports = self._watcher, list[Report]()
        watcher.on_start(what, plan, origin[1] if origin is not None else 0)
        try:
            folder = train_run(
                job,
                plan,
                unfinished=found,
                origin=origin,
                recipe_folder=self._recipe_folder,
                address=self._address,
                connection=self._connection,
                on_progress=watcher.on_progress,
                on_report=reports.append,
                on_notice=watcher.on_notice,
            )
        finally:
            watcher.on_end()
        return folder, reports[-1]

    def _add(self, folder: RunFolder) -> None:
        with suppress(ScalerError):  # a folder that cannot be read is no run of the probe
            (name,) = folder.job_names().values() if len(folder.job_names()) == 1 else (None,)
            if name is None:
                return
            origin = Origin.of(folder)
            job = read_job(folder.read(name), source=folder.path(name))
            key = _key(job, origin.run_id if origin else None, origin.samples_seen if origin else 0)
            before = self._there.get(key)
            if before is None or before.state() is not RunState.SUCCEEDED:
                self._there[key] = folder


def _key(job: Job, run_id: str | None, samples_seen: int) -> _Key:
    return fingerprint(job), run_id, samples_seen
