"""The arrays made of records, whatever order and tables they come in."""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_events import make_event
from synthetic import SYNTHETIC_JOB, SyntheticRun, Tables, records_table

from scaler.job import Job
from scaler.metrics.record import Record
from scaler.plan import make_plan
from scaler.report.run.step_arrays import OF_CELL, StepArrays, make_step_arrays


def record(*, attempt: int = 0, rank: int = 0, seen: int = 0, samples: int = 8, **values: float | None) -> Record:
    """One worker's step, which takes one second unless another time is given."""
    whole = Record(
        attempt=attempt, rank=rank, step=seen // 8, samples_seen=seen, progress=float(seen), lr=0.1, lr_planned=0.1,
        samples=samples, loss=1.0, step_time_s=1.0, data_wait_s=0.25, compute_s=0.5, sync_wait_s=0.125, grad_norm=1.0,
        peak_memory_gib=2.0, grad_signal=None, grad_variance=None, noise_scale=None,
    )  # fmt: skip
    return whole._replace(**values)


def step_arrays_of(*records: Record, starts: tuple[int, ...] = (0,), tables: int = 1) -> StepArrays:
    events = [make_event("attempt_started", attempt=a, start_samples=start) for a, start in enumerate(starts)]
    return make_step_arrays(Tables(tuple(records_table(records[at::tables]) for at in range(tables))), events)


def test_a_step_is_over_its_ranks() -> None:
    first = record(rank=0, loss=1.0, samples=6, step_time_s=1.0, evaluation_s=2.0, lr=0.5, lr_planned=0.5)
    second = record(rank=3, loss=5.0, samples=2, step_time_s=3.0, checkpoint_s=1.0, lr=0.5, lr_planned=0.25)
    arrays = step_arrays_of(second, first)
    assert arrays.ranks.tolist() == [0, 3]
    step = {name: column.item() for name, column in arrays.kept.items()}
    assert (step["samples"], step["workers"], step["loss"]) == (8, 2, 2.0)
    assert (step["loss_min"], step["loss_max"], step["step_time_s"]) == (1.0, 5.0, 3.0)
    assert (step["own_s"], step["between_s"]) == (2.0, 1.5)
    assert (step["lr_error"], step["lr_planned_min"], step["lr_planned_max"]) == (0.25, 0.25, 0.5)
    assert step["lr_planned"] == 0.5, "what is the same on all is the lowest rank's"
    assert arrays.cells["loss"].tolist() == [[1.0, 5.0]]
    assert arrays.over_ranks("step_time_s").tolist() == [2.0]
    assert (arrays.between["evaluation_s"].tolist(), arrays.rank_between["checkpoint_s"].tolist()) == (
        [2.0],
        [0.0, 1.0],
    )


def test_a_loss_of_its_own_weight_goes_by_that_and_any_other_by_samples() -> None:
    rows = [
        record(rank=0, loss=2.0, samples=6),
        record(rank=1, loss=4.0, samples=2),
        record(rank=0, seen=8, loss=100.0, weight=1.0),
        record(rank=1, seen=8, loss=0.0, weight=99.0),
        record(rank=0, seen=16, loss=None, weight=0.0),
        record(rank=1, seen=16, loss=3.0, weight=0.5),
    ]
    for tables in (1, 2, 3):
        arrays = step_arrays_of(*rows, tables=tables)
        assert arrays.kept["loss"].tolist() == [2.5, 1.0, 3.0], "a rank without any weight has no loss that is missing"
        assert arrays.kept["weight"].tolist() == [8.0, 100.0, 0.5]
        assert arrays.cells["weight"].tolist() == [[6.0, 2.0], [1.0, 99.0], [0.0, 0.5]]
    arrays = step_arrays_of(*rows[:2])
    assert arrays.cells["weight"] is arrays.cells["samples"], "where it is the samples, it takes no memory"


def test_a_rank_that_did_not_record_a_step_has_a_gap_and_is_in_no_mean() -> None:
    arrays = step_arrays_of(record(rank=0), record(rank=1, step_time_s=3.0), record(rank=0, seen=16))
    assert arrays.is_there.tolist() == [[True, True], [True, False]]
    assert math.isnan(arrays.cells["step_time_s"][1, 1])
    assert arrays.cells["samples"].tolist() == [[8, 8], [8, 0]]
    assert arrays.over_ranks("step_time_s").tolist() == [2.0, 1.0]


def test_every_cell_but_samples_can_be_missing() -> None:
    assert {name for name, kind in OF_CELL.items() if not issubclass(kind, np.floating)} == {"samples"}


def test_lost_steps_are_steps_and_not_kept() -> None:
    arrays = step_arrays_of(record(), record(seen=8), record(attempt=1, seen=8), starts=(0, 8))
    assert arrays.steps["attempt"].tolist() == [0, 0, 1]
    assert arrays.steps["lost"].tolist() == [False, True, False]
    assert arrays.kept["samples_seen"].tolist() == [0, 8]
    assert arrays.kept["attempt"].tolist() == [0, 1]


def test_an_attempt_without_a_start_is_not_kept() -> None:
    arrays = step_arrays_of(record(), record(attempt=1, seen=8))
    assert (arrays.attempts.tolist(), arrays.kept["attempt"].tolist()) == ([0, 1], [0])


def test_a_step_whose_samples_nobody_recorded_is_not_there() -> None:
    arrays = step_arrays_of(record(), record(seen=8, samples=0, loss=None), record(rank=1, samples=0, loss=None))
    assert arrays.steps["samples_seen"].tolist() == [0]
    assert arrays.kept["loss"].tolist() == [1.0], "an empty share has no loss"
    assert arrays.is_there.tolist() == [[True, True]]


def test_a_loss_that_is_no_number_is_one_of_the_step_and_no_extreme() -> None:
    arrays = step_arrays_of(record(loss=math.nan), record(rank=1, loss=2.0), record(seen=8, loss=math.inf))
    assert np.isnan(arrays.kept["loss"]).tolist() == [True, False]
    assert arrays.kept["loss_max"][0] == 2.0
    assert np.isnan(arrays.kept["loss_max"][1])


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_an_lr_that_is_no_number_is_an_error_that_is_none(wrong: float) -> None:
    arrays = step_arrays_of(record(), record(rank=1, lr=wrong))
    assert not np.isfinite(arrays.kept["lr_error"][0])


def test_without_records_everything_is_empty() -> None:
    arrays = step_arrays_of()
    assert (len(arrays.ranks), len(arrays.kept["step"]), arrays.cells["loss"].shape) == (0, 0, (0, 0))
    assert arrays.over_ranks("compute_s").tolist() == []


def test_utilisation_is_the_mean_of_what_was_measured() -> None:
    arrays = step_arrays_of(record(gpu_pct=40.0), record(seen=8), record(seen=16, gpu_pct=60.0), record(rank=1))
    assert arrays.rank_means["gpu_pct"][0] == 50.0
    assert np.isnan(arrays.rank_means["gpu_pct"][1])


@given(order=st.permutations(range(28)), tables=st.integers(1, 9))
def test_order_and_tables_do_not_matter(order: list[int], tables: int, synthetic: SyntheticRun) -> None:
    whole, mixed = synthetic.records, [synthetic.records[at] for at in order]
    one, other = step_arrays_of(*whole), step_arrays_of(*mixed, tables=tables)
    for name, column in one.kept.items():
        np.testing.assert_allclose(other.kept[name], column, rtol=1e-15)
    for name, cells in one.cells.items():
        np.testing.assert_array_equal(other.cells[name], cells)


@pytest.fixture(scope="session")
def synthetic(digits: Callable[..., Job]) -> SyntheticRun:
    job = digits(*SYNTHETIC_JOB)
    run = SyntheticRun(job=job, plan=make_plan(job))
    return run.attempt(0, loss=lambda rank, seen: 1.0 + rank + seen / 7, evaluation_s=lambda rank, seen: seen / 3)


def test_the_report_is_the_same_from_any_tables(synthetic_run: SyntheticRun) -> None:
    run = synthetic_run.attempt(0, stop=96).died(1).attempt(1, start=64)
    assert replace(run, records=tuple(reversed(run.records))).report() == run.report()
