"""Runs that share a group of workers: each as if it were alone."""

import os
import time
from dataclasses import dataclass, replace
from typing import Any

import pytest
from runs_on_ray import TROUBLED, start

from scaler.cluster.branch import branch_plan
from scaler.cluster.connection import Connection
from scaler.cluster.ray_run import run_on_ray
from scaler.errors import RecipeError, ScalerError, TrainingError
from scaler.job import load_job
from scaler.metrics.events import WorkerStarted, of_type
from scaler.metrics.reader import read_events, read_records
from scaler.plan import make_plan
from scaler.report.run.write import write_report
from scaler.runs import RunFolder, RunState
from scaler.runs.control import StopRequest
from scaler.runs.origin import Origin
from scaler.training.checkpoints.files import find_checkpoint

# Ray's own, of its own parts; ours are errors.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

FROZEN_S = 10.0  # the time-out of the run whose worker is frozen; its mailbox is silent for 2 s at most


@dataclass(frozen=True, kw_only=True)
class Ended:
    """A run in the group, and how it ended."""

    folder: RunFolder
    finished: bool | None
    error: ScalerError | None


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory, cluster: None, calm: RunFolder) -> dict[str, Ended]:
    """Runs of one group, one after the other; ``calm`` ran alone before."""
    from scaler.cluster.kept.group import KeptGroup

    runs: dict[str, Ended] = {}
    first, _ = start(tmp_path_factory.mktemp("first"), TROUBLED)

    def train(name: str, *overrides: str, stop_after: int | None = None) -> None:
        """Train a run; ask it to stop when it has seen more than ``stop_after`` samples."""
        seen: list[int] = [0]

        def stop() -> StopRequest | None:
            is_due = stop_after is not None and seen[-1] > stop_after
            return StopRequest(requested_at=0.0, by="a test", now=False) if is_due else None

        storage = tmp_path_factory.mktemp(name)
        job, folder = start(storage, TROUBLED, *(each.format(storage=storage) for each in overrides))
        finished, error = None, None
        try:
            finished = run_on_ray(
                job,
                make_plan(job),
                folder,
                connection,
                on_progress=lambda progress: seen.append(progress.samples_seen),
                stop_requested=stop,
            )
        except ScalerError as raised:
            error = raised
        state = RunState.FAILED if error else RunState.SUCCEEDED if finished else RunState.STOPPED
        folder.set_state(state, ended_at=time.time())
        runs[name] = Ended(folder=folder, finished=finished, error=error)

    with KeptGroup(first, is_embedded=True) as group:
        connection = replace(Connection.of_embedded(first, TROUBLED), group=group)
        group.prepare(connection.recipe, connection.recipe_folder, seeds=[0])
        slow = "recipe_args.sleep_s=0.015"  # as in the run that they are compared with
        train("plain", slow)
        marker = "recipe_args.marker={storage}/happened"
        train("killed", slow, "recipe_args.trouble=kill", "recipe_args.at_call=45", marker)
        train("crashing", "recipe_args.trouble=abort", "failures.max_restarts=0")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("scaler.cluster.kept.group.LOST_PEER_S", 0.0)  # the others are ended at once
            train("crashing_at_once", "recipe_args.trouble=abort", "failures.max_restarts=0")
        train("raising", "recipe_args.trouble=raise")
        train("stopped", "recipe_args.sleep_s=0.05", stop_after=100)
        source = runs["stopped"].folder
        begins_at, _ = find_checkpoint(source)
        assert begins_at is not None
        job = load_job(TROUBLED / "job.yaml", overrides=[f"storage={tmp_path_factory.mktemp('branch')}"])
        branch = branch_plan(source, begins_at, job, make_plan(job), recipe_folder=TROUBLED, connection=connection)
        runs["branch"] = Ended(folder=branch, finished=True, error=None)
        train(
            "frozen",
            slow,
            "recipe_args.trouble=freeze",
            "recipe_args.at_call=45",
            marker,
            f"failures.hang_timeout_s={FROZEN_S}",
        )
    return runs


def weights(folder: RunFolder) -> dict[str, Any]:
    from scaler.training.checkpoints.state import load_checkpoint

    newest, _ = find_checkpoint(folder)
    assert newest is not None
    return load_checkpoint(folder, newest)["model"]


@pytest.mark.parametrize("name", ["plain", "killed", "frozen"])
def test_a_run_in_a_group_is_the_run_that_it_would_be_alone(kept: dict[str, Ended], calm: RunFolder, name: str) -> None:
    ended = kept[name]
    assert ended.error is None, ended.error
    assert ended.finished
    theirs = weights(ended.folder)
    assert all(tensor.equal(theirs[key]) for key, tensor in weights(calm).items())

    def steps(folder: RunFolder) -> list[tuple[int, int, float, float]]:
        rows = read_records(folder).to_pylist()
        return sorted((row["samples_seen"], row["rank"], row["lr"], row["loss"]) for row in rows if not row["lost"])

    assert steps(ended.folder) == steps(calm)
    report = write_report(ended.folder)
    assert (report.totals.steps, report.totals.samples_seen) == (300, 3000)


def test_a_worker_that_died_is_named_and_replaced(kept: dict[str, Ended]) -> None:
    for name, cause in (("killed", "its process was killed, or crashed (SIGKILL)"), ("frozen", "did not answer")):
        report = write_report(kept[name].folder)
        assert [row.ended_by for row in report.attempts] == ["lost", "finished"]
        assert cause in (report.attempts[0].cause or "")
        assert report.attempts[1].start_samples >= 300, "from its checkpoint"


@pytest.mark.parametrize("name", ["crashing", "crashing_at_once"])
def test_a_run_that_crashes_ends_alone(kept: dict[str, Ended], name: str) -> None:
    """The worker that crashed is named, also where the others were ended before they noticed."""
    error = kept[name].error
    assert isinstance(error, TrainingError)
    assert error.problem == (
        "rank 1 died (its process was killed, or crashed (SIGABRT)), more often than failures.max_restarts = 0 allows."
    )


def test_a_run_whose_recipe_raises_ends_with_its_traceback(kept: dict[str, Ended]) -> None:
    error = kept["raising"].error
    assert isinstance(error, RecipeError)
    assert error.problem == "rank 1 failed: KeyError: 'no such column'"
    assert 'raise KeyError("no such column")' in error.remedy


def test_a_run_is_stopped_with_a_checkpoint(kept: dict[str, Ended]) -> None:
    stopped = kept["stopped"]
    assert (stopped.finished, stopped.error) == (False, None)
    report = write_report(stopped.folder)
    assert 0 < report.totals.samples_seen < 3000
    assert report.attempts[-1].ended_by == "stopped"
    assert weights(stopped.folder)


def test_each_run_has_processes_of_its_own_and_leaves_none(kept: dict[str, Ended]) -> None:
    pids = [event.pid for ended in kept.values() for event in of_type(read_events(ended.folder), WorkerStarted)]
    assert len(set(pids)) == len(pids)
    assert not [pid for pid in pids if os.path.exists(f"/proc/{pid}")]


def test_a_branch_in_a_group_is_the_continuation_of_its_source(kept: dict[str, Ended], calm: RunFolder) -> None:
    branch = kept["branch"].folder
    origin = Origin.of(branch)
    assert origin is not None
    assert origin.run_id == kept["stopped"].folder.run_id
    theirs = weights(branch)
    assert all(tensor.equal(theirs[key]) for key, tensor in weights(calm).items())
    assert min(row["samples_seen"] for row in read_records(branch).to_pylist()) == origin.samples_seen > 0


def test_a_worker_imports_a_recipe_for_no_more_seeds_than_it_keeps(monkeypatch: pytest.MonkeyPatch) -> None:
    from scaler.cluster.kept.host import MOST_PREPARED, Host  # imports Ray

    prepared: list[int] = []
    closed: list[int] = []

    class Template:
        def __init__(self, seed: int = -1) -> None:
            self._seed = seed

        def prepare(self, recipe: tuple[str, str, int]) -> "Template":
            prepared.append(recipe[2])
            return Template(recipe[2])

        def close(self) -> None:
            closed.append(self._seed)

    worker = Host()
    monkeypatch.setattr(worker, "_template", Template())
    worker.prepare([("recipe:build", "/job", seed) for seed in range(30)])
    assert (prepared, closed) == (list(range(MOST_PREPARED)), [])
