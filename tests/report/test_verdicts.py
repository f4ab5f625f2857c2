"""Each verdict on the run itself: found above its threshold, and not found below it."""

from dataclasses import replace

import pytest
from made_events import make_event
from synthetic import find_again as find

from scaler.metrics.events import Event
from scaler.report.run.model import LrAudit, Noise, Report, Verdict
from scaler.runs import RunState


def test_a_healthy_run_has_no_verdict(sound: Report) -> None:
    assert find(sound) == ()


@pytest.mark.parametrize(
    ("state", "samples", "message", "then"),
    [
        (
            RunState.FAILED,
            92,
            "The run failed after 46% of the training.",
            "Read the error below, fix its cause, and continue: scaler resume digits-1.",
        ),
        (
            RunState.STOPPED,
            199,
            "The run stopped after 100% of the training.",
            "Continue the run: scaler resume digits-1.",
        ),
        (
            RunState.RUNNING,
            0,
            "The run is running after 0% of the training.",
            "Make the report again when the run has ended.",
        ),
        (
            RunState.STARTING,
            0,
            "The run is starting after 0% of the training.",
            "Make the report again when the run has ended.",
        ),
    ],
)
def test_a_run_that_is_not_finished(sound: Report, state: RunState, samples: int, message: str, then: str) -> None:
    (verdict,) = find(sound, state=state, totals=replace(sound.totals, samples_seen=samples, progress=float(samples)))
    assert verdict == Verdict(
        code="not_finished",
        rank=None,
        message=message,
        evidence=f"{samples} of 200 samples",
        next=then,
    )


def test_a_worker_without_records(sound: Report) -> None:
    first, second = sound.workers
    (verdict,) = find(sound, workers=(first, replace(second, steps=0, samples=0, loss_mean=None)))
    assert verdict == Verdict(
        code="worker_without_records",
        rank=1,
        message="Rank 1 started and recorded no step.",
        evidence="1 of 2 workers have records",
        next="Read its log: scaler logs digits-1 --rank 1.",
    )


def test_a_worker_that_recorded_one_step_is_no_verdict(sound: Report) -> None:
    first, second = sound.workers
    assert find(sound, workers=(first, replace(second, steps=1, samples=1))) == ()


def test_a_learning_rate_that_differs_from_the_plan(sound: Report) -> None:
    (verdict,) = find(sound, audit=LrAudit(checked_steps=14, max_abs_error=1e-3, as_planned=False))
    assert verdict == Verdict(
        code="lr_differs_from_plan",
        rank=None,
        message="The optimizer did not use the planned learning rate.",
        evidence="largest difference 0.001 at a peak of 0.04",
        next="Look for code in the recipe that writes the optimizer's lr.",
    )


@pytest.mark.parametrize(
    ("logs", "advice"),
    [
        ({0, 1}, "Read its log: scaler logs digits-1 --rank 1."),
        ({0}, "Read its output in the terminal where the run was started."),
    ],
)
def test_a_log_is_named_only_if_there_is_one(sound: Report, logs: set[int], advice: str) -> None:
    first, second = sound.workers
    (verdict,) = find(sound, workers=(first, replace(second, steps=0)), logs=logs)
    assert (verdict.code, verdict.next) == ("worker_without_records", advice)


def test_a_learning_rate_that_differs_by_rounding_is_no_verdict(sound: Report) -> None:
    assert find(sound, audit=LrAudit(checked_steps=14, max_abs_error=1e-17, as_planned=True)) == ()


def test_a_learning_rate_that_is_not_finite_differs_from_the_plan(sound: Report) -> None:
    (verdict,) = find(sound, audit=LrAudit(checked_steps=14, max_abs_error=None, as_planned=False))
    assert (verdict.code, verdict.evidence) == (
        "lr_differs_from_plan",
        "a learning rate that is not finite at a peak of 0.04",
    )
    assert find(sound, audit=LrAudit(checked_steps=0, max_abs_error=None, as_planned=None)) == ()


def test_a_loss_that_is_not_finite(sound: Report) -> None:
    first, second = sound.workers
    (verdict,) = find(sound, workers=(first, replace(second, loss_mean=None)))
    assert verdict == Verdict(
        code="loss_not_finite",
        rank=1,
        message="The loss of rank 1 is not a finite number at the end.",
        evidence="mean over its samples of the last epoch; 100 samples in all epochs",
        next="Lower reference.lr, warm up longer, or set train.clip_grad_norm.",
    )


def test_a_worker_without_samples_needs_no_loss(sound: Report) -> None:
    first, second = sound.workers
    assert find(sound, workers=(first, replace(second, samples=0, loss_mean=None))) == ()


@pytest.mark.parametrize("ended_by", ["finished", "stopped", "failed", "running"])
def test_an_attempt_that_ended_without_a_fault_is_no_restart(sound: Report, ended_by: str) -> None:
    assert find(sound, attempts=(replace(sound.attempts[0], ended_by=ended_by),)) == ()


def diverged_events(*goes_back: bool) -> list[Event]:
    return [
        make_event("diverged", attempt=index, samples_seen=16 * (index + 1), reason="loss is nan", goes_back=it)
        for index, it in enumerate(goes_back)
    ]


TRY = "Lower reference.lr, warm up longer (schedule.warmup), or set train.clip_grad_norm"


@pytest.mark.parametrize(
    ("goes_back", "message", "evidence", "then"),
    [
        (
            [False],
            "The training diverged, and was stopped.",
            "at 16 samples, loss is nan",
            f"{TRY}. To continue from a checkpoint with a lower learning rate: failures.divergence: {{then: go_back}}.",
        ),
        (
            [True],
            "The training diverged 1 time, and continued from a checkpoint with a lower learning rate.",
            "at 16 samples, loss is nan",
            f"{TRY}.",
        ),
        (
            [True, True, False],
            "The training diverged again after it had returned to a checkpoint 2 times, and was stopped.",
            "at 48 samples, loss is nan",  # the last
            f"{TRY}.",
        ),
        (
            [True] * 10,
            "The training diverged 10 times, and continued from a checkpoint with a lower learning rate.",
            "at 160 samples, loss is nan",
            f"{TRY}.",
        ),
    ],
)
def test_a_training_that_diverged(sound: Report, goes_back: list[bool], message: str, evidence: str, then: str) -> None:
    (verdict,) = find(sound, events=diverged_events(*goes_back))
    assert verdict == Verdict(code="diverged", rank=None, message=message, evidence=evidence, next=then)


def test_a_loss_that_stopped_the_run_is_not_reported_again_for_every_rank(sound: Report) -> None:
    lost = [replace(worker, loss_mean=None) for worker in sound.workers]
    assert [v.code for v in find(sound, workers=lost, events=diverged_events(True, False))] == ["diverged"]
    # If the run continued after the divergence, the loss at the end is reported.
    codes = [verdict.code for verdict in find(sound, workers=lost, events=diverged_events(True))]
    assert codes == ["diverged", "loss_not_finite", "loss_not_finite"]


def noise(noise_scale: float | None, lower: float | None, upper: float | None) -> Noise:
    trend = {"last_step": 780, "first_step": 400, "fitted_steps": 20}
    return Noise(noise_scale=noise_scale, lower=lower, upper=upper, measured_steps=40, meaning="", **trend)


def test_a_batch_above_the_interval_of_the_noise_scale(sound: Report) -> None:
    (verdict,) = find(sound, noise=noise(9.0, 4.5, 15.9))  # the batch is 16
    assert verdict == Verdict(
        code="batch_beyond_noise_scale",
        rank=None,
        message="An estimate: the global batch is larger than the gradient noise scale.",
        evidence="16 samples a step at the end; noise scale 9 samples (90% 4.5-15.9) at step 780, from the trend of "
        "20 steps measured since step 400, an estimate",
        next="Fewer workers or a smaller batch should reach the same loss at a lower cost (McCandlish et al. 2018, "
        "https://arxiv.org/abs/1812.06162). Try a smaller batch first: the estimate can be far too small "
        "(Merrill et al. 2025, https://arxiv.org/abs/2505.23971).",
    )


@pytest.mark.parametrize(
    "measured",
    [
        noise(9.0, 4.5, 16.0),  # the batch may equal the noise scale
        noise(9.0, 4.5, None),  # no upper bound
        noise(None, None, None),  # too few steps, or it changes too fast
        noise(None, 4.5, None),
        replace(noise(9.0, 4.5, 15.9), is_preconditioned=True),  # the theory of McCandlish does not cover it
        None,  # nothing was measured
    ],
)
def test_a_batch_within_the_interval_of_the_noise_scale_is_no_verdict(sound: Report, measured: Noise | None) -> None:
    assert find(sound, noise=measured) == ()


def test_the_batch_at_the_end_is_compared(sound: Report) -> None:
    (attempt,) = sound.attempts
    grown = replace(attempt, global_batch_size=4, end_global_batch_size=16)
    shrunk = replace(attempt, global_batch_size=16, end_global_batch_size=4)
    measured = noise(9.0, 4.5, 15.9)
    assert [verdict.code for verdict in find(sound, attempts=(grown,), noise=measured)] == ["batch_beyond_noise_scale"]
    assert find(sound, attempts=(shrunk,), noise=measured) == ()


def test_a_return_to_a_checkpoint_is_no_restart(sound: Report) -> None:
    (attempt,) = sound.attempts
    assert find(sound, attempts=(replace(attempt, ended_by="diverged"), attempt)) == ()


def test_the_gravest_comes_first(sound: Report) -> None:
    first, second = sound.workers
    (attempt,) = sound.attempts
    found = find(
        sound,
        state=RunState.FAILED,
        workers=(replace(first, loss_mean=None), replace(second, steps=0, samples=0, loss_mean=None)),
        attempts=(replace(attempt, ended_by="lost"), attempt),
        audit=replace(sound.lr_audit, max_abs_error=1.0, as_planned=False),
        events=diverged_events(True),
        noise=noise(9.0, 4.5, 15.9),
    )
    assert [verdict.code for verdict in found] == [
        "not_finished",
        "diverged",
        "worker_without_records",
        "lr_differs_from_plan",
        "loss_not_finite",
        "restarts",
        "batch_beyond_noise_scale",
    ]
