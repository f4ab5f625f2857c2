"""Parameters with a learning rate, a weight decay or freezing of their own, in whole runs."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import (
    SAMPLES,
    checkpoint,
    checkpoints,
    in_this_process,
    make_job,
    make_recipe,
    new_folder,
    plan_of,
    records_of,
    run,
    shapes_of,
)
from torch import nn

from scaler import Recipe
from scaler.errors import RecipeError
from scaler.job import Job
from scaler.plan import make_plan
from scaler.training.loop import Training
from scaler.training.randomness import seed_everything

FIRST = slice(0, 6 * 16 + 16)  # of all weights in one row: layer 0's


def groups_job(*groups: dict[str, Any], workers: int = 1, **others: Any) -> Job:
    return make_job(num_workers=workers, per_worker_batch_size=64 // workers, groups=list(groups), **others)


def first_weights() -> list[float]:
    seed_everything(0)
    return torch.cat([parameter.detach().flatten() for parameter in make_recipe().model.parameters()]).tolist()


def test_each_group_has_its_own_lr_and_weight_decay(tmp_path: Path) -> None:
    optimizer = {"name": "sgd", "momentum": 0.9, "weight_decay": 0.01}
    job = groups_job(
        {"match": "0.*", "lr_ratio": 0.25},
        {"match": "*.bias", "weight_decay": 0.0},
        reference={"optimizer": optimizer},
        schedule={"name": "constant", "warmup": {"epochs": 0}},
        train={"steps": 3},
    )
    folder = new_folder(tmp_path)
    (rank,) = run(tmp_path, 1, job, folder=folder)
    peak = plan_of(job).peak_lr
    assert peak == pytest.approx(0.2)
    assert {record.lr for record in records_of([rank])} == {peak}, "the learning rate of a parameter without a ratio"
    names = list(shapes_of(make_recipe()))
    order = [name for group in plan_of(job).groups for name in group.tensors]
    found = {}
    for group in checkpoint(folder)["optimizer"]["param_groups"]:
        for index in group["params"]:
            found[order[index]] = (group["lr"], group["weight_decay"])
    assert found == {
        "0.weight": (0.25 * peak, 0.01),
        "0.bias": (0.25 * peak, 0.0),
        "2.weight": (peak, 0.01),
        "2.bias": (peak, 0.0),
    }
    assert sorted(found) == sorted(names)


def test_groups_train_as_torch_s_own_groups_do(tmp_path: Path) -> None:
    """Compared with one epoch by hand, with torch alone."""
    schedule = {"name": "constant", "warmup": {"epochs": 0}}
    job = groups_job({"match": "0.*", "lr_ratio": 0.5, "weight_decay": 0.1}, schedule=schedule, train={"steps": 1})
    (rank,) = run(tmp_path, 1, job, counted=True)
    seed_everything(0)
    recipe = make_recipe()
    first, last = recipe.model[0], recipe.model[2]
    optimizer = torch.optim.SGD(
        [{"params": first.parameters(), "lr": 0.1, "weight_decay": 0.1}, {"params": last.parameters(), "lr": 0.2}],
        momentum=0.9,
    )
    inputs, labels = recipe.train_data.tensors  # type: ignore[attr-defined]
    asked = torch.tensor(rank["asked"])
    recipe.loss(recipe.model, (inputs[asked], labels[asked])).backward()
    optimizer.step()
    expected = torch.cat([parameter.detach().flatten() for parameter in recipe.model.parameters()]).tolist()
    assert rank["weights"] == pytest.approx(expected, abs=1e-7)


def test_a_group_s_weight_decay_is_scaled_with_the_batch_where_the_optimizer_s_is(tmp_path: Path) -> None:
    optimizer = {"name": "adamw", "weight_decay": 0.01}
    job = groups_job(
        {"match": "*.bias", "weight_decay": 0.1},
        reference={"lr": 0.001, "optimizer": optimizer},
        rule="sqrt",
        co_scale={"weight_decay": True},
        train={"epochs": 1},
    )
    folder = new_folder(tmp_path)
    run(tmp_path, 1, job, folder=folder)
    decays = sorted(group["weight_decay"] for group in checkpoint(folder)["optimizer"]["param_groups"])
    assert decays == pytest.approx([0.02, 0.2])  # four times the batch, twice the learning rate


def test_layers_further_from_the_output_train_at_lower_lrs(tmp_path: Path) -> None:
    job = make_job(per_worker_batch_size=64, layer_decay={"factor": 0.5, "layers": ["0.*", "2.*"]})
    folder = new_folder(tmp_path)
    run(tmp_path, 1, job, folder=folder)
    lrs = [group["lr"] for group in checkpoint(folder)["optimizer"]["param_groups"]]
    assert lrs[0] == 0.5 * lrs[1]


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_frozen_for_ever_is_not_moved_by_a_single_bit(tmp_path: Path, optimizer: str) -> None:
    reference = {"lr": 0.01, "optimizer": {"name": optimizer, "weight_decay": 0.1}}
    job = groups_job({"match": "0.*", "freeze": True}, reference=reference)
    (rank,) = run(tmp_path, 1, job)
    before = first_weights()
    assert rank["weights"][FIRST] == before[FIRST]
    assert all(now != then for now, then in zip(rank["weights"][FIRST.stop :], before[FIRST.stop :], strict=True))


@pytest.mark.parametrize("workers", [1, 2])
def test_a_frozen_layer_stays_to_the_last_bit_until_its_time_and_trains_from_then_on(
    tmp_path: Path, workers: int
) -> None:
    often = {"every": {"samples": 50}, "keep": 100}
    job = groups_job({"match": "0.*", "freeze": {"epochs": 1}}, workers=workers, checkpoint=often)
    folder = new_folder(tmp_path)
    ranks = run(tmp_path, workers, job, folder=folder)
    assert all(rank["weights"] == ranks[0]["weights"] for rank in ranks)
    start, moved = torch.tensor(first_weights())[FIRST], {}
    for samples, state in checkpoints(folder).items():
        model = state["model"]
        now = torch.cat([model["0.weight"].flatten(), model["0.bias"]])
        moved[samples] = not torch.equal(now, start)
    assert moved == {samples: samples > SAMPLES for samples in moved}
    assert {SAMPLES, SAMPLES + 64} <= set(moved), "also the very step at which it begins"


def test_one_worker_and_two_agree_across_an_unfreezing(tmp_path: Path) -> None:
    ways = [
        run(
            tmp_path,
            workers,
            groups_job(
                {"match": "0.*", "freeze": {"epochs": 1}},
                {"match": "2.bias", "freeze": {"samples": 300}, "lr_ratio": 0.5},
                workers=workers,
            ),
            double=True,
        )[0]
        for workers in (1, 2)
    ]
    assert ways[1]["weights"] == pytest.approx(ways[0]["weights"], abs=1e-12)
    norms = [[record.grad_norm for record in records_of([way])] for way in ways]
    assert norms[1] == pytest.approx(norms[0], abs=1e-12)


def test_a_whole_gradient_s_norm_is_that_of_what_is_trained(tmp_path: Path) -> None:
    frozen, free = (
        records_of(run(tmp_path, 1, groups_job(*groups, train={"steps": 1})))[0].grad_norm
        for groups in ([{"match": "0.*", "freeze": True}], [])
    )
    assert 0.0 < frozen < free


def test_a_recipe_s_groups_are_not_passed_over(tmp_path: Path) -> None:
    recipe = replace(make_recipe(), groups=({"match": "0.*", "lr_ratio": 0.1},))
    with pytest.raises(RecipeError) as caught:
        in_this_process(tmp_path, recipe, make_job(per_worker_batch_size=64))
    assert str(caught.value) == (
        "the recipe has parameter groups, but the job does not use them.\n  Add groups: recipe."
    )


class Around:
    """The worker context of a training that must not start."""

    rank, world_size, attempt, device = 0, 1, 0, torch.device("cpu")


def with_model(*layers: nn.Module) -> Recipe:
    return replace(make_recipe(), model=nn.Sequential(*layers))


@pytest.mark.parametrize(
    ("recipe", "name"),
    [
        (with_model(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3)), "2.bias"),  # another size; the first by name
        (with_model(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 2), nn.Linear(2, 2)), "3.bias"),  # one more
        (with_model(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 2, bias=False)), "2.bias"),  # one less
    ],
)
def test_another_model_than_the_plan_s_is_refused(recipe: Recipe, name: str) -> None:
    job = groups_job({"match": "0.*", "lr_ratio": 0.1})
    with pytest.raises(RecipeError) as caught:
        Training(recipe, job, make_plan(job, 1, parameters=shapes_of(make_recipe())), Around())  # type: ignore[arg-type]
    assert str(caught.value) == (
        f"the model's parameters differ from those that the plan was made for: {name} is different.\n"
        "  The recipe must build the same model each time."
    )
