"""Attempts of different sizes: what changes with the batch, what stays, and that nothing compounds."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from small_runs import SAMPLES, checkpoint, events_of, make_job, new_folder, records_of, run, step_losses

from scaler.core.resize_ramp import ResizeRamp
from scaler.job import Job
from scaler.metrics.record import Record
from scaler.plan import make_plan

ELASTIC = {"num_workers": {"min": 1, "max": 3}, "per_worker_batch_size": 16}
SGD, ADAM = {"name": "sgd", "momentum": 0.9}, {"name": "adamw"}


def attempts(tmp_path: Path, job: Job, sizes: list[int], *, steps: int = 3) -> tuple[list[list[dict[str, Any]]], Path]:
    """Train in attempts of so many workers and ``steps`` steps each, the last one to the end."""
    folder = new_folder(tmp_path)
    stops = [steps] * (len(sizes) - 1) + [10**9]
    found = [run(tmp_path, size, job, folder=folder, stop_after=stop) for size, stop in zip(sizes, stops, strict=True)]
    return found, folder


def planned(job: Job, size: int, record: Record, ramp: ResizeRamp | None) -> float:
    factor = ramp.at(record.samples_seen) if ramp is not None else 1.0
    return make_plan(job, size).lr_at(record.samples_seen) * factor


def ramp_of(attempt: list[dict[str, Any]]) -> ResizeRamp | None:
    (started,) = events_of(attempt[0], "attempt_started")
    return ResizeRamp.from_dict(started.ramp)


def used_once(found: list[list[dict[str, Any]]]) -> bool:
    """Return whether the records of all attempts cover every epoch exactly once, without a gap or an overlap."""
    records = sorted(
        {(r.samples_seen, r.rank, r.samples) for r in records_of([rank for attempt in found for rank in attempt])}
    )
    steps: dict[int, int] = {}
    for seen, _, samples in records:
        steps[seen] = steps.get(seen, 0) + samples
    ends = [seen + size for seen, size in sorted(steps.items())]
    return all(end == begin for end, begin in zip(ends, sorted(steps)[1:], strict=False)) and ends[-1] == 3 * SAMPLES


@pytest.mark.parametrize(
    ("rule", "optimizer", "schedule"),
    [
        ("linear", SGD, {"name": "cosine", "warmup": {"epochs": 1}}),
        ("sqrt", SGD, {"name": "multi_step", "at": [{"epochs": 1}, {"epochs": 2}], "decay": 0.1}),
        ("adam_sde", ADAM, {"name": "wsd", "warmup": {"samples": 100}}),
    ],
)
def test_the_lr_is_that_of_the_size_whatever_sizes_there_were_before(
    tmp_path: Path, rule: str, optimizer: dict[str, Any], schedule: dict[str, Any]
) -> None:
    job = make_job(
        **ELASTIC,
        rule=rule,
        rewarmup=None,
        schedule=schedule,
        reference={"global_batch_size": 48, "optimizer": optimizer},
    )
    sizes = [1, 3, 1, 2]
    found, folder = attempts(tmp_path, job, sizes, steps=2)
    for size, attempt in zip(sizes, found, strict=True):
        for record in records_of(attempt):
            assert record.lr == planned(job, size, record, None), "to the last bit"
        group = attempt[0]["events"][0]
        assert group.global_batch_size == 16 * size
    assert used_once(found)
    constants = checkpoint(folder)["optimizer"]["param_groups"][0]
    expected = make_plan(job, 2).optimizer
    for name in {"betas", "eps", "weight_decay", "momentum"} & set(expected):
        assert constants[name] == pytest.approx(tuple(expected[name]) if name == "betas" else expected[name], rel=0)


@pytest.mark.parametrize("rule", ["linear", "none"])
def test_a_held_batch_keeps_the_lr_and_the_run_whatever_the_size(tmp_path: Path, rule: str) -> None:
    job = make_job(**ELASTIC, rule=rule, on_resize="hold_global_batch")
    calm = run(tmp_path, 3, job)
    found, _ = attempts(tmp_path, job, [1, 3, 2])
    lrs = {record.samples_seen: record.lr for record in records_of(calm)}
    resized = [record for attempt in found for record in records_of(attempt)]
    assert {record.samples_seen: record.lr for record in resized} == lrs, "to the last bit"
    assert used_once(found)
    losses = [loss for attempt in found for loss in step_losses(attempt)]
    assert losses == pytest.approx(step_losses(calm), abs=1e-4)
    accum = [attempt[0]["events"][0].per_worker_batch_size for attempt in found]
    assert accum == [16, 16, 12], "48 samples: 3 x 16, 1 x 16 a worker, 2 x 12"


def test_a_jump_is_climbed_and_a_fall_is_not(tmp_path: Path) -> None:
    job = make_job(**ELASTIC, rule="linear", schedule={"name": "constant"}, rewarmup={"samples": 200, "above": 1.5})
    (one, three, two), folder = attempts(tmp_path, job, [1, 3, 2])
    assert ramp_of(one) is None
    ramp = ramp_of(three)
    assert ramp is not None
    assert (ramp.start, ramp.stop, ramp.factor) == (48, 248, pytest.approx(1 / 3))
    assert [record.lr for record in records_of(three)] == [planned(job, 3, r, ramp) for r in records_of(three)]
    lrs = [record.lr for record in records_of(three[:1])]
    assert lrs[0] == pytest.approx(records_of(one)[-1].lr), "it begins where the smaller group was"
    assert lrs == sorted(lrs)
    assert lrs[-1] < make_plan(job, 3).peak_lr
    # The learning rate rises to less than 1.5 times that of the ramp: no new ramp, the planned learning rate at once.
    assert ramp_of(two) is None
    assert all(record.lr == planned(job, 2, record, None) for record in records_of(two))
    assert checkpoint(folder)["ramp"] is None


def test_a_crash_on_the_ramp_continues_the_ramp(tmp_path: Path) -> None:
    job = make_job(**ELASTIC, rule="linear", schedule={"name": "constant"}, rewarmup={"samples": 200, "above": 1.5})
    (_, before, after), _ = attempts(tmp_path, job, [1, 3, 3])
    assert ramp_of(before) == ramp_of(after) is not None
    records = [record for attempt in (before, after) for record in records_of(attempt[:1])]
    assert all(record.lr == planned(job, 3, record, ramp_of(before)) for record in records)
    climb = [record.lr for record in records if record.samples_seen < 248]
    assert all(later > earlier for earlier, later in pairwise(climb[:-1]))  # the last one is the epoch's short step


def test_many_resizes_end_where_one_does(tmp_path: Path) -> None:
    """After the ramp, the sizes in between have no effect."""
    job = make_job(**ELASTIC, rule="linear", rewarmup={"steps": 2})
    many, _ = attempts(tmp_path, job, [1, 2, 1, 3], steps=1)
    one, _ = attempts(tmp_path, job, [1, 3], steps=1)
    last = [{r.samples_seen: r.lr for r in records_of(found[-1][:1]) if r.samples_seen > 250} for found in (many, one)]
    shared = set(last[0]) & set(last[1])
    assert shared
    assert all(last[0][seen] == last[1][seen] for seen in shared)


def test_adascale_continues_at_another_size_with_its_progress(tmp_path: Path) -> None:
    job = make_job(
        num_workers={"min": 2, "max": 3}, per_worker_batch_size=16, rule="adascale", schedule={"name": "constant"}
    )
    (two, three), _ = attempts(tmp_path, job, [2, 3], steps=4)
    assert records_of(three)[0].progress > records_of(two)[-1].progress
    assert events_of(three[0], "attempt_started")[0].start_samples == 128
