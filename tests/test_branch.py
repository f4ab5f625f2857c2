"""A run that begins from a checkpoint of another run, and a run that stops before the end of its schedule."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scaler.cluster.branch import branch_plan
from scaler.cluster.resume import resume_plan
from scaler.cluster.submit import submit_plan
from scaler.errors import JobFileError, RunError
from scaler.experiment.cell_runs import find_cell_runs
from scaler.experiment.matrix import Cell
from scaler.job import Job
from scaler.metrics.reader import read_records
from scaler.plan import Plan, make_plan
from scaler.report.run.format import trained_text
from scaler.report.run.read import read_report
from scaler.runs import RunFolder
from scaler.training.checkpoints.files import complete_checkpoints, find_checkpoint
from scaler.training.checkpoints.state import load_checkpoint

FIRST, SECOND, WHOLE = 512, 768, 1437  # samples; the steps have 16


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, digits_path: Path) -> "Made":
    return Made(tmp_path_factory.mktemp("branches"), digits_path)


class Made:
    """Runs of one job, in this process."""

    def __init__(self, storage: Path, path: Path) -> None:
        from scaler.job.load import load_job

        self.folder = path.parent
        self._load: Callable[..., Job] = lambda *overrides: load_job(path, overrides=[*ALL, *overrides])
        self._storage = f"storage={storage}"
        self.whole = self.submit()
        self.first = self.submit(f"train.stop_after={{samples: {FIRST}}}")

    def job(self, *overrides: str) -> tuple[Job, Plan]:
        job = self._load(self._storage, *overrides)
        return job, make_plan(job)

    def submit(self, *overrides: str) -> RunFolder:
        job, plan = self.job(*overrides)
        return submit_plan(job, plan, recipe_folder=self.folder, address="none")

    def branch(self, source: RunFolder, samples_seen: int, *overrides: str) -> RunFolder:
        job, plan = self.job(*overrides)
        return branch_plan(source, samples_seen, job, plan, recipe_folder=self.folder, address="none")


ALL = ("scale.num_workers=1", "scale.global_batch_size=16", "train.epochs=1", "train.eval_every={samples: 10000}")


def weights(folder: RunFolder) -> dict[str, Any]:
    newest, _ = find_checkpoint(folder)
    assert newest is not None
    return load_checkpoint(folder, newest)["model"]


def lrs(folder: RunFolder) -> list[tuple[int, float]]:
    return [(row["samples_seen"], row["lr"]) for row in read_records(folder).to_pylist()]


def test_a_run_that_stops_early_has_the_schedule_of_the_whole_training(made: Made) -> None:
    report = read_report(made.first)
    assert (report.state, report.totals.samples_seen) == ("succeeded", FIRST)
    assert lrs(made.first) == lrs(made.whole)[: FIRST // 16]
    assert complete_checkpoints(made.first) == [FIRST]


def test_a_resume_with_a_later_point_continues_to_the_same_weights(made: Made) -> None:
    stopped = made.submit(f"train.stop_after={{samples: {SECOND}}}")
    job, plan = made.job()
    resume_plan(stopped, job, plan, recipe_folder=made.folder, address="none")
    theirs = weights(made.whole)
    assert all(tensor.equal(theirs[name]) for name, tensor in weights(stopped).items())


def test_a_branch_with_the_same_job_is_the_continuation_of_its_source(made: Made) -> None:
    branch = made.branch(made.first, FIRST)
    theirs = weights(made.whole)
    assert all(tensor.equal(theirs[name]) for name, tensor in weights(branch).items())
    assert lrs(branch) == lrs(made.whole)[FIRST // 16 :]
    assert complete_checkpoints(made.first) == [FIRST]  # the source is only read


def test_a_branch_trains_with_its_own_batch_rule_and_learning_rate(made: Made) -> None:
    grown = f"scale.batch_schedule={{name: points, points: [{{at: {{samples: {FIRST}}}, factor: 4}}]}}"
    stop = f"train.stop_after={{samples: {SECOND}}}"
    branch = made.branch(made.first, FIRST, grown, stop, "scale.rewarmup=null", "reference.lr=0.02")
    _, plan = made.job(grown, stop, "reference.lr=0.02")
    assert lrs(branch) == [(at, plan.lr_at(at)) for at in range(FIRST, SECOND, 64)]
    assert plan.phase_at(FIRST).peak_lr == 0.08
    report = read_report(branch)
    assert report.lr_audit.as_planned
    assert report.lr_audit.checked_steps == 4
    assert report.verdicts == ()
    assert [(row.attempt, row.start_samples, row.end_samples) for row in report.attempts] == [(0, FIRST, SECOND)]
    assert trained_text(report) == f"256 samples in 4 steps, after 512 of run {made.first.run_id}"


def test_a_branch_of_a_branch_may_have_another_order_of_the_data(made: Made) -> None:
    branch = made.branch(made.first, FIRST, f"train.stop_after={{samples: {SECOND}}}")
    ends = [weights(made.branch(branch, SECOND, f"train.seed={seed}")) for seed in (0, 1)]
    whole = weights(made.whole)
    assert all(tensor.equal(whole[name]) for name, tensor in ends[0].items())
    assert not all(tensor.equal(whole[name]) for name, tensor in ends[1].items())


def test_a_branch_is_not_the_run_of_its_job_from_scratch(made: Made) -> None:
    def found(*overrides: str) -> list[RunFolder]:
        job, plan = made.job(*overrides)
        cell = Cell(number=0, overrides={}, seed=0, job=job, plan=plan)
        return [run.folder for run in find_cell_runs([cell], storage=job.storage).values()]

    made.branch(made.first, FIRST, "reference.lr=0.02")
    assert found("reference.lr=0.02") == []
    assert [run.run_id for run in found()] == [made.whole.run_id]


def test_a_branch_that_was_interrupted_is_resumed_in_its_folder(made: Made) -> None:
    branch = made.branch(made.first, FIRST, f"train.stop_after={{samples: {SECOND}}}")
    job, plan = made.job()
    resume_plan(branch, job, plan, recipe_folder=made.folder, address="none")
    theirs = weights(made.whole)
    assert all(tensor.equal(theirs[name]) for name, tensor in weights(branch).items())
    assert read_report(branch).lr_audit.as_planned


def test_what_cannot_be_branched_is_refused_before_a_folder_is_made(made: Made) -> None:
    before = sorted(Path(made.first.uri).parent.iterdir())
    with pytest.raises(RunError) as no_checkpoint:
        made.branch(made.first, 100)
    assert str(no_checkpoint.value) == (
        f"run {made.first.run_id} has no checkpoint at 100 samples.\n  It has checkpoints at 512."
    )
    with pytest.raises(JobFileError) as another:
        made.branch(made.first, FIRST, "reference.optimizer={name: adamw}")
    assert another.value.problem.startswith("a branch of a run cannot change reference.optimizer.name")
    with pytest.raises(JobFileError) as too_short:
        made.branch(made.first, FIRST, f"train.stop_after={{samples: {FIRST}}}")
    assert str(too_short.value) == (
        "the job ends at 512 samples, and the checkpoint has seen 512.\n"
        "  Give a later end: train.stop_after, epochs, samples, tokens or steps."
    )
    assert sorted(Path(made.first.uri).parent.iterdir()) == before
