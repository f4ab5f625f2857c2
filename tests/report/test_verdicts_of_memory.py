"""Verdicts on memory near its limit, merged records, trackers, and a loss that was not checked."""

from dataclasses import replace

import pytest
from made_events import make_event
from synthetic import find_again as find

from scaler.metrics.events import Event
from scaler.report.run.model import Report, Verdict, WorkerRow


def workers(sound: Report, device: str, *peaks: float, limit: float | None = 16.0, node: str = "a") -> list[WorkerRow]:
    row = sound.workers[0]
    values = {"device": device, "memory_limit_gib": limit, "node": node}
    return [replace(row, rank=rank, peak_memory_gib=peak, **values) for rank, peak in enumerate(peaks)]


def test_a_gpu_that_was_nearly_full(sound: Report) -> None:
    (verdict,) = find(sound, workers=workers(sound, "NVIDIA L4", 14.39, 14.5))
    assert verdict == Verdict(
        code="memory_near_limit",
        rank=1,
        message="The GPU of rank 1 was nearly out of memory.",
        evidence="14.5 of 16 GiB (91%); 1 of 2 are above 90%",
        next="Lower scale.per_worker_batch_size and raise scale.grad_accum_steps: the global batch and the "
        "learning rate stay the same.",
    )
    assert find(sound, workers=workers(sound, "NVIDIA L4", 14.39, 14.39)) == ()


def test_a_machine_is_filled_by_all_of_its_workers(sound: Report) -> None:
    (verdict,) = find(sound, workers=workers(sound, "cpu", 7.2, 7.3))
    assert (verdict.code, verdict.rank) == ("memory_near_limit", None)
    assert verdict.message == "The machine a was nearly out of memory."
    assert verdict.evidence == "its 2 workers held at most 14.5 of 16 GiB (91%): the sum of their peaks"
    assert find(sound, workers=workers(sound, "cpu", 7.2, 7.1)) == ()
    apart = [replace(row, node=f"node-{row.rank}") for row in workers(sound, "cpu", 7.2, 7.3)]
    assert find(sound, workers=apart) == ()


def test_unknown_limits_and_workers_that_are_gone_have_no_verdict(sound: Report) -> None:
    assert find(sound, workers=workers(sound, "cpu", 7.2, 7.3, limit=None)) == ()
    assert find(sound, workers=workers(sound, "cpu", 7.0, 7.0, 7.0)) == ()  # the attempt has two workers


def thinned(steps: int, samples_seen: int = 48) -> Event:
    return make_event("records_thinned", samples_seen=samples_seen, steps=steps, reason="12 s behind")


def test_records_that_stand_for_several_steps(sound: Report) -> None:
    (verdict,) = find(sound, events=[thinned(2), thinned(4, samples_seen=96)])
    assert (verdict.code, verdict.rank) == ("records_thinned", None)
    assert verdict.message == "A record stands for up to 4 steps: steps were faster than records could be written."
    assert verdict.evidence == "from 48 samples of attempt 0 on: 12 s behind"


def failed(sink: str, reason: str = "connection refused") -> Event:
    return make_event("tracking_failed", sink=sink, reason=reason)


def test_trackers_that_were_not_reached(sound: Report) -> None:
    (verdict,) = find(sound, events=[failed("mlflow", "first"), failed("wandb"), failed("mlflow")])
    assert (verdict.code, verdict.rank) == ("tracking_failed", None)
    assert verdict.message == "2 trackers did not receive all points; the training did not wait for them."
    assert verdict.evidence == "mlflow: connection refused; wandb: connection refused"


def test_a_loss_that_could_not_be_checked_is_reported(sound: Report) -> None:
    (verdict,) = find(sound, events=[make_event("tried_out", loss_not_checked="the training set has one sample")])
    assert (verdict.code, verdict.rank) == ("loss_not_checked", None)
    assert verdict.evidence == "the training set has one sample"
    assert find(sound, events=[make_event("tried_out", loss_not_checked=None)]) == ()


@pytest.mark.parametrize("kind", ["evaluated", "checkpointed"])
def test_other_events_have_no_verdict(sound: Report, kind: str) -> None:
    assert find(sound, events=[make_event(kind)]) == ()
