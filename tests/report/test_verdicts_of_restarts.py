"""Verdicts on attempts that ended by a fault, and on checkpoints that could not be written or read."""

from dataclasses import replace
from typing import Any

import pytest
from made_events import make_event
from synthetic import find_again as find

from scaler.metrics.events import Event
from scaler.report.run.model import AttemptRow, Report, Verdict

SAFE = "In the final weights no sample is missing, and none is counted twice."
BY_KIND = {
    "hung": "Read the log of the rank that hung, which has the stack trace: scaler logs digits-1 --rank N.",
    "out_of_memory": "Start with a smaller scale.per_worker_batch_size: the last attempt ran with 8.",
    "lost": "Check the cluster's nodes and the workers' memory.",
    "failed": "Read the log of the rank that failed: scaler logs digits-1 --rank N.",
    "killed": "Find out why the driver process ended: look at its machine and its terminal.",
}


def attempts_ended_by(sound: Report, *causes: str, **values: Any) -> list[AttemptRow]:
    """One attempt of 100 samples for each cause; all but the last have ``values``."""
    rows = [
        replace(sound.attempts[0], attempt=index, end_samples=100 * (index + 1), ended_by=ended_by)
        for index, ended_by in enumerate(causes)
    ]
    return [*(replace(row, **values) for row in rows[:-1]), rows[-1]]


@pytest.mark.parametrize(
    ("ended_by", "why"),
    [
        ("lost", "after the loss of a worker"),
        ("hung", "after a hang"),
        ("out_of_memory", "after running out of memory"),
        ("failed", "after an error"),
        ("killed", "after the loss of the driver"),
    ],
)
def test_a_group_that_was_restarted(sound: Report, ended_by: str, why: str) -> None:
    cost = {"cause": "rank 1 did it", "redone_samples": 32, "redone_s": 0.25, "restart_s": 3.2}
    (verdict,) = find(sound, attempts=attempts_ended_by(sound, ended_by, "finished", **cost))
    assert verdict == Verdict(
        code="restarts",
        rank=None,
        message=f"The worker group was restarted 1 time {why}.",
        evidence="attempt 0 ended at 132 samples: rank 1 did it; 32 samples trained again in 250 ms, restarting took "
        "3.2 s",
        next=f"{BY_KIND[ended_by]} {SAFE}",
    )


def test_a_log_that_does_not_exist_is_not_named(sound: Report) -> None:
    (verdict,) = find(sound, attempts=attempts_ended_by(sound, "failed", "finished"), logs=frozenset())
    assert verdict.next == f"Read the workers' output in the terminal where the run was started. {SAFE}"


def test_restarts_are_counted_by_cause(sound: Report) -> None:
    causes = ["lost", "hung", "resized", "out_of_memory", "lost", "lost", "finished"]
    (verdict,) = find(sound, attempts=attempts_ended_by(sound, *causes, redone_samples=10, redone_s=1.0, restart_s=2.0))
    assert verdict.message == (
        "The worker group was restarted 5 times: 1 after a hang, 1 after running out of memory, 3 after the loss of a "
        "worker."
    )
    assert verdict.evidence == (
        "attempt 0 ended at 110 samples; attempt 1 ended at 210 samples; attempt 3 ended at 410 samples; 2 more; "
        "50 samples trained again in 5 s, restarting took 10 s"
    )
    assert verdict.next == f"{BY_KIND['hung']} {BY_KIND['out_of_memory']} {BY_KIND['lost']} {SAFE}"


def test_a_restart_without_a_known_cost(sound: Report) -> None:
    (verdict,) = find(sound, attempts=attempts_ended_by(sound, "lost", "finished"))
    assert verdict.evidence == "attempt 0 ended at 100 samples; no recorded work was trained again"


@pytest.mark.parametrize("ended_by", ["resized", "preempted", "terminated", "diverged", "stopped", "finished"])
def test_an_attempt_that_ended_without_a_fault_is_no_restart(sound: Report, ended_by: str) -> None:
    assert find(sound, attempts=attempts_ended_by(sound, ended_by, "finished", redone_samples=32)) == ()


def test_the_last_attempt_is_no_restart(sound: Report) -> None:
    assert find(sound, attempts=attempts_ended_by(sound, "finished", "hung")) == ()


def test_checkpoints_that_could_not_be_written(sound: Report) -> None:
    failed = [
        make_event("checkpoint_failed", samples_seen=48, reason="Permission denied"),
        make_event("checkpoint_failed", samples_seen=96, reason="No space left\n  on device"),
    ]
    (verdict,) = find(sound, events=failed)
    assert verdict == Verdict(
        code="checkpoint_failed",
        rank=None,
        message="2 checkpoints could not be written; the training continued.",
        evidence="the last at 96 samples: No space left on device",
        next="Free disk space in the run's storage, and check that it can be written to: a restart continues from the "
        "newest checkpoint that was written.",
    )


def passed_over(samples_seen: int, reason: str = "it is torn") -> Event:
    return make_event("checkpoint_passed_over", attempt=1, samples_seen=samples_seen, reason=reason)


@pytest.mark.parametrize(
    ("bad", "start", "message", "evidence"),
    [
        (
            [96],
            64,
            "1 checkpoint could not be read, and was skipped.",
            "at 96 samples: it is torn; continued from the checkpoint at 64 samples",
        ),
        (
            [96, 64],  # none was left
            0,
            "2 checkpoints could not be read, and were skipped.",
            "at 96 samples: it is torn; at 64 samples: it is torn; continued from the start of training",
        ),
        ([96], None, "1 checkpoint could not be read, and was skipped.", "at 96 samples: it is torn"),
    ],
)
def test_a_checkpoint_that_was_passed_over(
    sound: Report, bad: list[int], start: int | None, message: str, evidence: str
) -> None:
    before = make_event("attempt_started")
    after = [make_event("attempt_started", attempt=1, start_samples=start)] if start is not None else []
    (verdict,) = find(sound, events=[before, *(passed_over(samples) for samples in bad), *after])
    assert verdict == Verdict(
        code="checkpoint_passed_over",
        rank=None,
        message=message,
        evidence=evidence,
        next="Find out how the storage damaged the file, which is kept under the name *.bad. The samples after the "
        "previous checkpoint were trained again.",
    )


def test_texts_from_outside_are_joined_without_their_full_stops(sound: Report) -> None:
    before = make_event("attempt_started")
    bad = passed_over(96, "its checksum is another.")
    (verdict,) = find(sound, events=[before, bad, make_event("attempt_started", attempt=1)])
    assert verdict.evidence == "at 96 samples: its checksum is another; continued from the start of training"
