"""Shares of one sample, which BatchNorm cannot normalize, are found at the start from the plan's sizes."""

from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import in_this_process, make_job, make_recipe, plan_of, run
from torch import nn
from torch.utils.data import TensorDataset

from scaler import Recipe
from scaler.errors import RecipeError
from scaler.training.start_checks.batch_norm import first_single_sample_step


def norm_recipe(samples: int, *, images: bool = False) -> Recipe:
    norm = nn.Sequential(nn.Unflatten(1, (1, 2, 3)), nn.BatchNorm2d(1), nn.Flatten()) if images else nn.BatchNorm1d(6)
    model = nn.Sequential(norm, nn.Linear(6, 1))
    data = TensorDataset(torch.randn(samples, 6))
    return Recipe(model=model, train_data=data, loss=lambda model, batch: model(batch[0]).pow(2).mean())


def job_of(samples: int, **scale: Any) -> Any:
    return make_job(**scale, train={"num_samples": samples, "epochs": 2})


def test_a_last_step_of_one_sample_is_refused_before_the_first_step(tmp_path: Path) -> None:
    training, around = in_this_process(tmp_path, norm_recipe(17), job_of(17, per_worker_batch_size=8))
    with pytest.raises(RecipeError) as caught:
        training.run()
    assert str(caught.value) == (
        "BatchNorm needs more than one sample, and the last step of an epoch has 1 sample for 1 worker: one of them "
        "gets a single sample.\n"
        "  Set train.last_batch: drop, or use another number of workers or another global batch."
    )
    assert not around.records


def test_the_number_of_workers_makes_a_share_of_one(tmp_path: Path) -> None:
    ranks = run(tmp_path, 2, make_job(global_batch_size=124), errors=True, norm=True)  # 250 = 2 * 124 + 2
    assert {rank["error"] for rank in ranks} == {
        "RecipeError: BatchNorm needs more than one sample, and the last step of an epoch has 2 samples for 2 workers: "
        "one of them gets a single sample.\n"
        "  Set train.last_batch: drop, or use another number of workers or another global batch."
    }


def test_a_micro_batch_of_one_sample_in_every_step_has_its_own_remedy(tmp_path: Path) -> None:
    job = job_of(16, per_worker_batch_size=1, grad_accum_steps=2)
    with pytest.raises(RecipeError) as caught:
        in_this_process(tmp_path, norm_recipe(16), job)[0].run()
    assert str(caught.value) == (
        "BatchNorm needs more than one sample, and a step of 2 samples on 1 worker in 2 micro-steps gives a forward "
        "pass only one.\n"
        "  Use fewer workers or micro-steps, or a larger batch: each forward pass needs two samples."
    )


def test_a_norm_over_pixels_takes_one_sample_and_its_statistics_are_not_touched_by_the_trial(tmp_path: Path) -> None:
    recipe = norm_recipe(17, images=True)
    training, around = in_this_process(tmp_path, recipe, job_of(17, per_worker_batch_size=8))
    training.run()
    assert len(around.records) == 6
    assert recipe.model[0][1].num_batches_tracked == 6


@pytest.mark.parametrize(
    ("scale", "workers", "expected"),
    [
        ({"per_worker_batch_size": 50}, 1, None),  # 250 in fives
        ({"global_batch_size": 83}, 1, 249),
        ({"global_batch_size": 83}, 3, 249),  # a step of fewer samples than workers
        ({"global_batch_size": 49}, 3, 245),  # the last step has 5 samples: 2, 2 and 1
        ({"global_batch_size": 7, "grad_accum_steps": 4}, 1, 0),
    ],
)
def test_the_first_share_of_one_is_found(scale: dict[str, int], workers: int, expected: int | None) -> None:
    found = first_single_sample_step(plan_of(make_job(**scale), workers), samples_seen=0)
    assert found == expected


def test_a_model_without_norms_trains_on_shares_of_one(tmp_path: Path) -> None:
    training, _ = in_this_process(tmp_path, make_recipe(), make_job(per_worker_batch_size=83))
    training.run()


@pytest.mark.parametrize(
    ("settings", "found"),
    [
        ({"rule": "adascale", "num_workers": 2, "per_worker_batch_size": 32}, None),  # its length is measured
        ({"per_worker_batch_size": 83}, 249),  # 250 samples: 3 x 83 and one
        ({"per_worker_batch_size": 83, "train": {"last_batch": "drop"}}, None),
        ({"per_worker_batch_size": 83, "train": {"last_batch": "carry", "epochs": 3}}, None),  # 9 x 83 and 3
        ({"per_worker_batch_size": 107, "train": {"last_batch": "carry", "epochs": 3}}, 749),  # 7 x 107 and one
    ],
)
def test_the_rest_of_an_epoch_is_found_as_it_will_be_taken(settings: dict[str, Any], found: int | None) -> None:
    plan = plan_of(make_job(**settings), settings.get("num_workers", 1))
    assert first_single_sample_step(plan, samples_seen=0) == found
