"""Training scripts of twenty kinds with ``scaler.start``: on 1 and on 2 processes at one global batch."""

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from groups import run_group
from kinds import Kind, images, others, text

import scaler
from scaler.runs import RunFolder, RunState

pytestmark = pytest.mark.filterwarnings("ignore:Sparse invariant checks")  # of torch's Adagrad

KINDS = {kind.train.__name__: kind for module in (images, text, others) for kind in module.KINDS}
SAME = 1e-5  # relative difference of losses that the order of sums explains
ALIKE = 0.5  # relative difference of losses of two trainings with other random numbers


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, int], str]:
    """Return the folder of a run of each kind on 1 and on 2 processes; all kinds share the processes."""
    folder = str(tmp_path_factory.mktemp("kinds"))
    torch.set_num_threads(1)
    found = {(name, 1): uri for name, uri in trained(0, 1, f"{folder}/1").items()}
    return {**found, **{(name, 2): uri for name, uri in run_group(trained, 2, f"{folder}/2")[0].items()}}


def trained(rank: int, world_size: int, storage: str) -> dict[str, str]:
    """Train each kind in the processes that there are, and return the folders of the runs."""
    found = {}
    for name, kind in KINDS.items():
        run = kind.train(kind.job(storage))
        found[name] = run.state_dict()["run"]
        run.finish()
    return found


@cache
def read(uri: str) -> scaler.Run:
    return scaler.read_run(uri)


every_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
on_1_and_2 = pytest.mark.parametrize("world_size", [1, 2])


def test_there_are_twenty_kinds() -> None:
    assert len(KINDS) == 20


@every_kind
@on_1_and_2
def test_all_samples_are_counted_and_every_step_has_the_planned_learning_rate(
    runs: dict[tuple[str, int], str], kind: Kind, world_size: int
) -> None:
    run = read(runs[kind.train.__name__, world_size])
    report = run.report
    assert (report.totals.samples_seen, report.totals.steps) == (kind.samples, kind.steps)
    assert int(run.records["samples"].sum()) == kind.samples
    assert report.lr_audit.checked_steps == kind.steps
    assert report.lr_audit.max_abs_error is not None
    assert report.lr_audit.max_abs_error <= 1e-12
    assert report.lr_audit.as_planned


@every_kind
@on_1_and_2
def test_the_report_is_complete(runs: dict[tuple[str, int], str], kind: Kind, world_size: int) -> None:
    report = read(runs[kind.train.__name__, world_size]).report
    assert RunFolder(runs[kind.train.__name__, world_size]).state() is RunState.SUCCEEDED
    assert [(row.rank, row.steps) for row in report.workers] == [(rank, kind.steps) for rank in range(world_size)]
    assert all(row.loss_mean is not None and row.samples == kind.samples / world_size for row in report.workers)
    assert report.final.train_loss_mean is not None
    assert tuple(report.final.eval) == kind.evaluates
    assert tuple(report.final.train) == kind.records
    assert all(value is not None for value in (*report.final.eval.values(), *report.final.train.values()))
    wrong = {"worker_without_records", "not_finished", "uneven_data", "lr_differs_from_plan", "loss_not_finite"}
    assert not wrong & {verdict.code for verdict in report.verdicts}


@every_kind
def test_two_processes_train_as_one_or_differ_as_stated(runs: dict[tuple[str, int], str], kind: Kind) -> None:
    one, two = (losses(runs[kind.train.__name__, world_size]) for world_size in (1, 2))
    difference = float(((one - two).abs() / (1e-3 + one.abs())).max())
    if kind.differs:
        assert difference > SAME, f"they train alike now: {kind.differs} does not explain a difference"
        assert float((one.mean() - two.mean()).abs() / one.abs().mean()) < ALIKE
    else:
        assert difference < SAME


def losses(uri: str) -> Any:
    """Return the mean loss of each step over all processes."""
    return torch.tensor(read(uri).steps["loss_mean"].to_numpy(), dtype=torch.float64)


def test_a_folder_of_its_own_for_each_run(runs: dict[tuple[str, int], str]) -> None:
    assert len({Path(uri) for uri in runs.values()}) == 2 * len(KINDS)
