"""Whole runs with a rest of an epoch smaller than the batch: a step of its own size, dropped, or carried over."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import SAMPLES, by_step, in_this_process, make_job, new_folder, plan_of, run
from torch import nn
from torch.utils.data import TensorDataset

from scaler import Recipe
from scaler.job import parse_job
from scaler.plan import make_plan

WAYS = ["scale", "drop", "carry"]
SIZES = {
    "scale": [64, 64, 64, 58] * 3,  # 250 samples an epoch
    "drop": [64, 64, 64] * 3,
    "carry": [64] * 11 + [46],
}


@pytest.mark.parametrize("way", WAYS)
def test_two_workers_take_the_planned_steps_and_use_each_sample_as_often_as_promised(tmp_path: Path, way: str) -> None:
    job = make_job(num_workers=2, per_worker_batch_size=32, train={"last_batch": way})
    ranks = run(tmp_path, 2, job, counted=True)
    steps = by_step(ranks)
    assert [sum(record.samples for record in step) for step in steps] == SIZES[way]
    plan = plan_of(job, 2)
    assert plan.total_steps == len(steps)
    for step in steps:
        assert step[0].lr == plan.lr_at(step[0].samples_seen)
        assert step[0].step == plan.steps(step[0].samples_seen)
    asked = Counter(index for rank in ranks for index in rank["asked"])
    if way == "drop":
        assert sum(asked.values()) == 3 * 192
        assert max(asked.values()) <= 3
    else:
        assert asked == dict.fromkeys(range(SAMPLES), 3), "each sample once an epoch"


@pytest.mark.parametrize("way", WAYS)
def test_stopped_in_mid_run_it_is_the_run_that_was_never_stopped(tmp_path: Path, way: str) -> None:
    job = make_job(per_worker_batch_size=64, train={"last_batch": way})
    (calm,) = run(tmp_path, 1, job)
    folder = new_folder(tmp_path)
    for _ in range(3):
        (last,) = run(tmp_path, 1, job, folder=folder, stop_after=4)
    assert last["weights"] == calm["weights"]


@pytest.mark.parametrize("way", WAYS)
def test_at_another_size_it_continues_in_the_same_order(tmp_path: Path, way: str) -> None:
    job = make_job(num_workers={"min": 1, "max": 3}, per_worker_batch_size=40, train={"last_batch": way}, rewarmup=None)
    folder = new_folder(tmp_path)
    found = [run(tmp_path, size, job, folder=folder, stop_after=stop) for size, stop in ((1, 6), (3, 2), (2, 10**9))]
    seen = 0
    for ranks in found:
        for step in by_step(ranks):
            start, size = step[0].samples_seen, sum(record.samples for record in step)
            assert start == seen or (way == "drop" and start % SAMPLES == 0 and seen < start)
            seen = start + size
    assert seen == 3 * SAMPLES or way == "drop"


@pytest.mark.parametrize(
    "optimizer", [{"name": "sgd"}, {"name": "sgd", "momentum": 0.9}, {"name": "adamw"}, {"name": "rmsprop"}]
)
def test_one_sample_too_many_trains_as_well_as_none(tmp_path: Path, optimizer: dict[str, Any]) -> None:
    """Steps of 128 at 16 times the reference's batch: 641 samples end each epoch with a step of one sample."""
    lr = 0.01 if optimizer == {"name": "sgd"} else 0.001
    even, odd = (final_loss(tmp_path, samples, lr, optimizer, epochs=20) for samples in (640, 641))
    assert odd < 1.15 * even + 1e-3, "as good as without the sample"


def test_near_the_largest_stable_learning_rate_one_sample_too_many_breaks_nothing(tmp_path: Path) -> None:
    """SGD with momentum at 16 times 0.01. A whole step of momentum in each short step gave a loss of 2.5, not 0.4."""
    even, odd = (
        final_loss(tmp_path, samples, 0.01, {"name": "sgd", "momentum": 0.9}, epochs=5) for samples in (640, 641)
    )
    assert odd < 1.5 * even


def final_loss(tmp_path: Path, samples: int, lr: float, optimizer: dict[str, Any], *, epochs: int) -> float:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(641, 12, generator=generator)[:samples]
    y = x[:, :1] * 2 - x[:, 1:2] + 0.1 * torch.randn(641, 1, generator=generator)[:samples]
    torch.manual_seed(7)
    model = nn.Sequential(nn.Linear(12, 24), nn.Tanh(), nn.Linear(24, 1))
    recipe = Recipe(
        model=model,
        train_data=TensorDataset(x, y),
        loss=lambda model, batch: nn.functional.mse_loss(model(batch[0]), batch[1]),
    )
    job = parse_job(
        {
            "name": "t",
            "recipe": "r:build",
            "reference": {"global_batch_size": 8, "lr": lr, "optimizer": optimizer},
            "scale": {"global_batch_size": 128},
            "schedule": {"name": "cosine", "warmup": {"epochs": 1}},
            "train": {"epochs": epochs, "num_samples": samples},
        },
        source="job",
    )
    assert make_plan(job, 1).step_size(640) == (1 if samples == 641 else 128)
    training, _ = in_this_process(new_folder(tmp_path), recipe, job)
    training.run()
    with torch.no_grad():
        return float(nn.functional.mse_loss(model(x), y))
