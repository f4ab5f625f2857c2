"""A run that was stopped and resumed equals a run without a stop exactly, with all its random numbers."""

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from groups import run_group
from small_runs import (
    SAMPLES,
    EveryStep,
    Kept,
    checkpoint,
    events_of,
    in_this_process,
    make_job,
    make_recipe,
    new_folder,
    records_of,
    run,
    untimed,
    weights_of,
)
from torch import Tensor, nn
from torch.utils.data import Dataset

from scaler import Recipe
from scaler.errors import RecipeError
from scaler.job import Job, parse_job
from scaler.plan import make_plan
from scaler.training.checkpoints.files import find_checkpoint
from scaler.training.loop import Training
from scaler.training.randomness import random_state, seed_everything, set_random_state


class Augmented(Dataset[Any]):
    """Inputs with noise of three kinds, as in augmentation."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(3)
        self.inputs = torch.randn(SAMPLES, 6, generator=generator)

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        noise = torch.randn(6) * random.uniform(0.1, 0.2) + float(np.random.normal(0, 0.1)) + random.gauss(0, 0.1)
        return self.inputs[index] + noise, int(self.inputs[index].sum() > 0)


def random_recipe() -> Recipe:
    """Dropout, batch statistics and augmentation."""
    model = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.Dropout(0.3), nn.Linear(16, 2))
    data = Augmented()
    return Recipe(
        model=model,
        train_data=data,
        eval_data=data,
        loss=lambda model, batch: nn.functional.cross_entropy(model(batch[0]), batch[1]),
    )


def train(rank: int, world_size: int, folder: str, values: dict[str, Any], stop_after: int) -> dict[str, Any]:
    torch.set_num_threads(1)
    job = parse_job(values, source="job")
    seed_everything(job.train.seed)
    recipe = random_recipe()
    around = Kept(rank, world_size, folder, stop_after=stop_after)
    training = Training(recipe, job, make_plan(job, world_size), around)
    training._hand_over.interval = EveryStep()
    saved, _ = find_checkpoint(around.folder)
    if saved is not None:
        training.restore(saved)
    end = training.run()
    return {
        "end": end,
        "records": [tuple(record) for record in around.records],
        "events": around.events,
        "weights": weights_of(recipe.model),
    }


def train_group(tmp_path: Path, job: Job, world_size: int, *, stops: list[int]) -> list[dict[str, Any]]:
    """Train in attempts that stop after so many records each, then to the end; return the records of all attempts."""
    folder = str(new_folder(tmp_path))
    attempts = [
        [train(0, 1, folder, job.model_dump(), stop)]
        if world_size == 1
        else run_group(train, world_size, folder, job.model_dump(), stop)
        for stop in [*stops, 10**9]
    ]
    assert [attempt[0]["end"] for attempt in attempts] == ["stopped"] * len(stops) + ["finished"]
    for rank in range(world_size):
        attempts[-1][rank]["records"] = [record for attempt in attempts for record in attempt[rank]["records"]]
        attempts[-1][rank]["events"] = [event for attempt in attempts for event in attempt[rank]["events"]]
    return attempts[-1]


@pytest.mark.parametrize(("world_size", "data_workers"), [(1, 0), (1, 2), (2, 0)])
def test_dropout_and_augmentation_continue_as_if_nothing_had_happened(
    tmp_path: Path, world_size: int, data_workers: int
) -> None:
    job = make_job(
        num_workers=world_size,
        per_worker_batch_size=32,
        grad_accum_steps=2,
        train={"epochs": 2, "data_workers": data_workers, "eval_every": {"samples": 200}},
    )
    calm = train_group(tmp_path, job, world_size, stops=[])
    stopped = train_group(tmp_path, job, world_size, stops=[2, 1])
    for ours, theirs in zip(stopped, calm, strict=True):
        assert untimed(ours) == untimed(theirs)
        assert ours["weights"] == theirs["weights"]
    evaluations = [[event.values for event in events_of(side[0], "evaluated")] for side in (calm, stopped)]
    assert evaluations[0] == evaluations[1]


def test_workers_draw_different_numbers(tmp_path: Path) -> None:
    job = make_job(num_workers=2, per_worker_batch_size=32)
    folder = new_folder(tmp_path)
    run_group(train, 2, str(folder), job.model_dump(), 2)
    rows = checkpoint(folder)["random"]
    assert rows.shape[0] == 2
    python, numpy = slice(0, 8 * 625), slice(8 * 625, 8 * (625 + 624))
    assert not torch.equal(rows[0][python], rows[1][python])
    assert not torch.equal(rows[0][numpy], rows[1][numpy])
    assert not torch.equal(rows[0][8 * 1252 :], rows[1][8 * 1252 :]), "torch's"


def test_on_another_number_of_workers_nobody_s_numbers_are_taken_over(tmp_path: Path) -> None:
    job = make_job(num_workers=2, per_worker_batch_size=32)
    folder = new_folder(tmp_path)
    run_group(train, 2, str(folder), job.model_dump(), 2)
    alone = train(0, 1, str(folder), {**job.model_dump(), "scale": {**job.model_dump()["scale"], "num_workers": 1}}, 2)
    assert records_of([alone])[0].samples_seen > 0


def test_a_state_of_random_numbers_survives_being_bytes() -> None:
    cpu = torch.device("cpu")
    seed_everything(5)
    random.gauss(0, 1)  # leaves a second one behind
    np.random.normal()
    state = random_state(cpu)
    drawn = [random.gauss(0, 1), random.random(), np.random.normal(), np.random.rand(), torch.rand(3).tolist()]
    seed_everything(6)
    set_random_state(state, cpu)
    again = [random.gauss(0, 1), random.random(), np.random.normal(), np.random.rand(), torch.rand(3).tolist()]
    assert drawn == again


@pytest.mark.parametrize("stops", [[1], [4, 2], [1, 1, 1]])
def test_records_and_lrs_of_a_stopped_run_are_those_of_the_calm_one(tmp_path: Path, stops: list[int]) -> None:
    job = make_job(
        num_workers=1,
        per_worker_batch_size=32,
        schedule={"name": "cosine", "warmup": {"epochs": 1}, "plateau": {"metric": "loss", "patience": 0}},
        train={"ema": {"decay": 0.9}, "clip_grad_norm": 0.5, "eval_every": {"samples": 64}},
        reference={"optimizer": {"name": "adamw"}},
    )
    calm = run(tmp_path, 1, job)[0]
    folder, records = new_folder(tmp_path), []
    for stop in [*stops, 10**9]:
        attempt = run(tmp_path, 1, job, folder=folder, stop_after=stop)[0]
        records += untimed(attempt)
    assert records == untimed(calm)
    assert attempt["weights"] == calm["weights"]


def test_a_checkpoint_of_another_model_is_refused_by_name(tmp_path: Path) -> None:
    training, _ = in_this_process(tmp_path, make_recipe(), make_job(per_worker_batch_size=64))
    training.run()
    other = replace(make_recipe(), model=nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 2)))
    training, _ = in_this_process(tmp_path, other, make_job(per_worker_batch_size=64))
    with pytest.raises(RecipeError) as caught:
        training.restore(750)
    assert str(caught.value) == (
        "checkpoint 750 holds another model: 0.weight is (16, 6) in it and (8, 6) in the recipe's model.\n"
        "  Resume with the recipe and recipe_args that the run began with."
    )


def test_a_run_may_continue_in_another_precision(tmp_path: Path) -> None:
    training, _ = in_this_process(tmp_path, make_recipe(), make_job(per_worker_batch_size=64, train={"epochs": 1}))
    training.run()
    for precision in ("fp16", "bf16", "fp32"):
        job = make_job(per_worker_batch_size=64, train={"epochs": 1, "precision": precision})
        training, _ = in_this_process(tmp_path, make_recipe(), job)
        training.restore(250)
