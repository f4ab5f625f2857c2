"""What is said of lives that ended by a fault, and of checkpoints that could not be written or read."""

from dataclasses import replace
from typing import Any

import pytest
from made_events import make_event
from synthetic import find_again as find

from scaler.metrics.events import Event
from scaler.report.run.model import AttemptRow, Report, Verdict

SAFE = "No sample in the weights was lost or counted twice."
BY_KIND = {
    "hung": "Read the log of the rank that hung, logs/rank-N.log in the run's folder: it holds the stack.",
    "out_of_memory": "Begin with a smaller scale.per_worker_batch_size: 8 fitted at the end.",
    "lost": "Look at the cluster's nodes and at the workers' memory.",
    "failed": "Read the log of the rank that failed, logs/rank-N.log in the run's folder.",
    "killed": "See why the process that drove the run went: its machine, or its terminal.",
}


def lives(sound: Report, *endings: str, **values: Any) -> list[AttemptRow]:
    """As many attempts, each 100 samples long; the values are of those that were followed."""
    rows = [
        replace(sound.attempts[0], attempt=index, end_samples=100 * (index + 1), ended_by=ended_by)
        for index, ended_by in enumerate(endings)
    ]
    return [*(replace(row, **values) for row in rows[:-1]), rows[-1]]


@pytest.mark.parametrize(
    ("ended_by", "why"),
    [
        ("lost", "after the loss of a worker"),
        ("hung", "after a hang"),
        ("out_of_memory", "for want of memory"),
        ("failed", "after an error"),
        ("killed", "after the loss of the driver"),
    ],
)
def test_a_group_that_was_restarted(sound: Report, ended_by: str, why: str) -> None:
    cost = {"cause": "rank 1 did it", "redone_samples": 32, "redone_s": 0.25, "restart_s": 3.2}
    (verdict,) = find(sound, attempts=lives(sound, ended_by, "finished", **cost))
    assert verdict == Verdict(
        code="restarts",
        rank=None,
        message=f"The worker group was restarted 1 time {why}.",
        evidence="attempt 0 ended at 132 samples: rank 1 did it; 32 samples done again in 250 ms, restarting took "
        "3.2 s",
        next=f"{BY_KIND[ended_by]} {SAFE}",
    )


def test_a_log_that_nobody_wrote_is_not_named(sound: Report) -> None:
    (verdict,) = find(sound, attempts=lives(sound, "failed", "finished"), logs=frozenset())
    assert verdict.next == f"See what the workers printed where the run was started. {SAFE}"


def test_restarts_are_counted_by_cause(sound: Report) -> None:
    endings = ["lost", "hung", "resized", "out_of_memory", "lost", "lost", "finished"]
    (verdict,) = find(sound, attempts=lives(sound, *endings, redone_samples=10, redone_s=1.0, restart_s=2.0))
    assert verdict.message == (
        "The worker group was restarted 5 times: 1 after a hang, 1 for want of memory, 3 after the loss of a worker."
    )
    assert verdict.evidence == (
        "attempt 0 ended at 110 samples; attempt 1 ended at 210 samples; attempt 3 ended at 410 samples; 2 more; "
        "50 samples done again in 5 s, restarting took 10 s"
    )
    assert verdict.next == f"{BY_KIND['hung']} {BY_KIND['out_of_memory']} {BY_KIND['lost']} {SAFE}"


def test_a_restart_of_which_nothing_is_known_says_no_more(sound: Report) -> None:
    (verdict,) = find(sound, attempts=lives(sound, "lost", "finished"))
    assert verdict.evidence == "attempt 0 ended at 100 samples; no recorded work was done again"


@pytest.mark.parametrize("ended_by", ["resized", "preempted", "terminated", "diverged", "stopped", "finished"])
def test_an_end_that_is_no_fault_is_no_restart(sound: Report, ended_by: str) -> None:
    assert find(sound, attempts=lives(sound, ended_by, "finished", redone_samples=32)) == ()


def test_a_life_that_nothing_followed_is_no_restart(sound: Report) -> None:
    assert find(sound, attempts=lives(sound, "finished", "hung")) == ()


def test_checkpoints_that_could_not_be_written(sound: Report) -> None:
    failed = [
        make_event("checkpoint_failed", samples_seen=48, reason="Permission denied"),
        make_event("checkpoint_failed", samples_seen=96, reason="No space left\n  on device"),
    ]
    (verdict,) = find(sound, events=failed)
    assert verdict == Verdict(
        code="checkpoint_failed",
        rank=None,
        message="2 checkpoints could not be written; the training went on.",
        evidence="the last at 96 samples: No space left on device",
        next="Make room where the run lies, or see that its storage can be written: a restart goes on from the newest "
        "checkpoint that was.",
    )


def passed_over(samples_seen: int, reason: str = "it is torn") -> Event:
    return make_event("checkpoint_passed_over", attempt=1, samples_seen=samples_seen, reason=reason)


@pytest.mark.parametrize(
    ("bad", "start", "message", "evidence"),
    [
        (
            [96],
            64,
            "1 checkpoint could not be read, and was passed over.",
            "at 96 samples: it is torn; went on from the checkpoint at 64 samples",
        ),
        (
            [96, 64],  # none was left
            0,
            "2 checkpoints could not be read, and were passed over.",
            "at 96 samples: it is torn; at 64 samples: it is torn; went on from the start of training",
        ),
        ([96], None, "1 checkpoint could not be read, and was passed over.", "at 96 samples: it is torn"),
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
        next="See what the storage did to it: it is still there, renamed *.bad. The work since the one before was done "
        "again.",
    )


def test_texts_from_outside_are_joined_without_their_full_stops(sound: Report) -> None:
    before = make_event("attempt_started")
    bad = passed_over(96, "its checksum is another.")
    (verdict,) = find(sound, events=[before, bad, make_event("attempt_started", attempt=1)])
    assert verdict.evidence == "at 96 samples: its checksum is another; went on from the start of training"
