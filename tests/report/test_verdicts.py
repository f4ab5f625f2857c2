"""Each verdict when it should be found, and when it nearly should."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from scaler.job import Job
from scaler.plan import make_plan
from scaler.report.model import AttemptRow, LrAudit, StepTime, Totals, Verdict, WorkerRow
from scaler.report.verdicts import find_verdicts
from scaler.runs import RunState

TOTALS = Totals(samples_seen=21555, steps=90, wall_s=10.0, train_s=1.0, samples_per_s=21555.0)
WORKER = WorkerRow(
    rank=0,
    node="node-0",
    pid=100,
    steps=90,
    samples=10778,
    loss_mean=0.1,
    worker_samples_per_s=10778.0,
    step_time_s=StepTime(median=0.01, p95=0.02),
    data_wait_s=0.1,
    compute_s=0.6,
    sync_wait_s=0.2,
    peak_memory_gib=0.5,
)
ATTEMPT = AttemptRow(
    attempt=0,
    world_size=2,
    global_batch_size=256,
    peak_lr=0.16,
    start_samples=0,
    end_samples=21555,
    ended_by="finished",
)
AUDIT = LrAudit(checked_steps=90, max_abs_error=0.0)


@pytest.fixture
def find(digits: Callable[..., Job]) -> Callable[..., tuple[Verdict, ...]]:
    """Look for verdicts on a run without faults, but for what is given."""

    def found(**changes: Any) -> tuple[Verdict, ...]:
        sound: dict[str, Any] = {
            "state": RunState.SUCCEEDED,
            "plan": make_plan(digits()),
            "totals": TOTALS,
            "workers": (WORKER, replace(WORKER, rank=1)),
            "attempts": (ATTEMPT,),
            "audit": AUDIT,
        }
        return find_verdicts(**{**sound, **changes})

    return found


Find = Callable[..., tuple[Verdict, ...]]


def test_a_sound_run_has_no_verdict(find: Find) -> None:
    assert find() == ()


@pytest.mark.parametrize(
    ("state", "samples", "message", "then"),
    [
        (
            RunState.FAILED,
            10000,
            "The run failed after 46% of the training.",
            "Read the error below, mend its cause, submit again.",
        ),
        (
            RunState.STOPPED,
            21554,
            "The run stopped after 100% of the training.",
            "Submit again to train from the start.",
        ),
        (
            RunState.RUNNING,
            0,
            "The run is running after 0% of the training.",
            "Report again when it has ended.",
        ),
        (
            RunState.STARTING,
            0,
            "The run is starting after 0% of the training.",
            "Report again when it has ended.",
        ),
    ],
)
def test_a_run_that_is_not_finished(find: Find, state: RunState, samples: int, message: str, then: str) -> None:
    (verdict,) = find(state=state, totals=replace(TOTALS, samples_seen=samples))
    assert verdict == Verdict(
        code="not_finished",
        rank=None,
        message=message,
        evidence=f"{samples} of 21555 samples",
        next=then,
    )


def test_a_worker_that_recorded_nothing(find: Find) -> None:
    silent = replace(WORKER, rank=1, steps=0, samples=0, loss_mean=None)
    (verdict,) = find(workers=(WORKER, silent))
    assert verdict == Verdict(
        code="worker_without_records",
        rank=1,
        message="Rank 1 started and recorded no step.",
        evidence="1 of 2 workers have records",
        next="Read its log: logs/rank-1.log in the run's folder.",
    )


def test_a_worker_that_recorded_one_step_is_no_verdict(find: Find) -> None:
    assert find(workers=(WORKER, replace(WORKER, rank=1, steps=1, samples=1))) == ()


@pytest.mark.parametrize("error", [1.7e-10, 1e-3, 1.0])
def test_a_rate_that_differs_from_the_plan(find: Find, error: float) -> None:
    (verdict,) = find(audit=replace(AUDIT, max_abs_error=error))
    assert verdict == Verdict(
        code="lr_differs_from_plan",
        rank=None,
        message="The optimizer did not use the planned learning rate.",
        evidence=f"largest difference {error:.3g} at a peak of 0.16",
        next="Look for code in the recipe that writes the optimizer's lr.",
    )


@pytest.mark.parametrize("error", [0.0, 1e-17, 1.5e-10])  # the bound is 1e-9 of the peak of 0.16
def test_a_rate_within_the_last_digits_is_no_verdict(find: Find, error: float) -> None:
    assert find(audit=replace(AUDIT, max_abs_error=error)) == ()


def test_a_rate_that_is_no_number_differs_from_the_plan(find: Find) -> None:
    (verdict,) = find(audit=replace(AUDIT, max_abs_error=None))
    assert (verdict.code, verdict.evidence) == ("lr_differs_from_plan", "a rate that is no number at a peak of 0.16")
    assert find(audit=LrAudit(checked_steps=0, max_abs_error=None)) == ()


def test_a_loss_that_is_no_number(find: Find) -> None:
    (verdict,) = find(workers=(WORKER, replace(WORKER, rank=1, loss_mean=None)))
    assert verdict == Verdict(
        code="loss_not_finite",
        rank=1,
        message="The loss of rank 1 is not a finite number at the end.",
        evidence="over its samples of the last epoch, of 10778 in all",
        next="Lower reference.lr, warm up longer, or set train.clip_grad_norm.",
    )


def test_a_worker_without_samples_needs_no_loss(find: Find) -> None:
    assert find(workers=(WORKER, replace(WORKER, rank=1, samples=0, loss_mean=None))) == ()


@pytest.mark.parametrize(
    ("endings", "message", "evidence"),
    [
        (
            ["lost", "finished"],
            "The worker group was restarted 1 time.",
            "attempt 0 ended at 100 samples",
        ),
        (
            ["lost", "lost", "finished"],
            "The worker group was restarted 2 times.",
            "attempt 0 ended at 100 samples, attempt 1 ended at 200 samples",
        ),
    ],
)
def test_a_group_that_was_restarted(find: Find, endings: list[str], message: str, evidence: str) -> None:
    attempts = [
        replace(ATTEMPT, attempt=index, end_samples=100 * (index + 1), ended_by=ended_by)
        for index, ended_by in enumerate(endings)
    ]
    (verdict,) = find(attempts=attempts)
    assert verdict == Verdict(
        code="restarts",
        rank=None,
        message=message,
        evidence=evidence,
        next="Look at the cluster's nodes and at the workers' memory; no sample was lost or counted twice.",
    )


@pytest.mark.parametrize("ended_by", ["finished", "stopped", "failed", "running"])
def test_a_group_that_ended_otherwise_is_no_restart(find: Find, ended_by: str) -> None:
    assert find(attempts=(replace(ATTEMPT, ended_by=ended_by),)) == ()


def test_the_gravest_comes_first(find: Find) -> None:
    found = find(
        state=RunState.FAILED,
        workers=(replace(WORKER, loss_mean=None), replace(WORKER, rank=1, steps=0, samples=0, loss_mean=None)),
        attempts=(replace(ATTEMPT, ended_by="lost"), ATTEMPT),
        audit=replace(AUDIT, max_abs_error=1.0),
    )
    assert [verdict.code for verdict in found] == [
        "not_finished",
        "worker_without_records",
        "lr_differs_from_plan",
        "loss_not_finite",
        "restarts",
    ]
