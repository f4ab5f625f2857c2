"""muP at two widths: groups of the recipe give each parameter its learning rate, and the rule multiplies all of them.

The model is written by muP's table (Yang et al. 2021, https://arxiv.org/abs/2203.03466, table 8, which the ``mup``
package implements). Where ``mup`` is installed, it is compared with the package: ``pip install --no-deps mup``.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import (
    EveryStep,
    checkpoint,
    in_this_process,
    make_job,
    make_recipe,
    new_folder,
    shapes_of,
)
from torch import Tensor, nn

from scaler import Recipe
from scaler.job import Job
from scaler.plan import make_plan
from scaler.runs import RunFolder
from scaler.training.checkpoints.files import find_checkpoint
from scaler.training.randomness import seed_everything

BASE, WIDE = 32, 128
OPTIMIZERS = {
    "adamw": {"name": "adamw", "weight_decay": 0.1},
    "sgd": {"name": "sgd", "momentum": 0.9, "weight_decay": 0.01},
}
CONSTANT = {"name": "constant", "warmup": {"epochs": 0}}


class Mlp(nn.Module):
    """Input, hidden and output layer; the output is multiplied by base width / width, as ``mup.MuReadout`` does."""

    def __init__(self, width: int, *, is_mup: bool = True) -> None:
        super().__init__()
        self.enter, self.hidden, self.leave = nn.Linear(6, width), nn.Linear(width, width), nn.Linear(width, 2)
        self.multiplier = BASE / width if is_mup else 1.0
        if is_mup:
            self.leave.weight.data *= (width / BASE) ** 0.5  # its variance does not depend on the width

    def features(self, inputs: Tensor) -> Tensor:
        return torch.tanh(self.hidden(torch.tanh(self.enter(inputs))))

    def forward(self, inputs: Tensor) -> Tensor:
        output: Tensor = self.leave(self.features(inputs) * self.multiplier)
        return output


def table(optimizer: str, wider: float) -> list[dict[str, Any]]:
    """Return the groups by muP's table, at ``wider`` times the base width; weight decay times lr stays the same."""
    decay = OPTIMIZERS[optimizer]["weight_decay"]
    assert isinstance(decay, float)
    if optimizer == "adamw":
        return [{"match": "hidden.weight", "lr_ratio": 1 / wider, "weight_decay": decay * wider}]
    of_width = ("enter.*", "hidden.bias", "leave.weight")  # tensors with one dimension that is the width
    return [{"match": name, "lr_ratio": wider, "weight_decay": decay / wider} for name in of_width]


def recipe_of(width: int, **groups: Any) -> Recipe:
    seed_everything(0)
    plain = make_recipe()
    model = Mlp(width, is_mup="groups" in groups)
    return Recipe(
        model=model, train_data=plain.train_data, eval_data=plain.eval_data, loss=plain.loss, evaluate=plain.evaluate,
        **groups,
    )  # fmt: skip


def job_of(recipe: Recipe, optimizer: str = "adamw", *, lr: float = 0.01, **others: Any) -> Job:
    reference = {"lr": lr, "optimizer": OPTIMIZERS[optimizer]}
    others = {"per_worker_batch_size": 16, "schedule": CONSTANT, "groups": list(recipe.groups), **others}
    return make_job(reference=reference, **others)


def saved_lrs(folder: Path, recipe: Recipe, job: Job) -> dict[str, tuple[float, float]]:
    """Return the learning rate and the weight decay of each parameter in the newest checkpoint."""
    groups = make_plan(job, 1, parameters=shapes_of(recipe)).groups
    order = [name for group in groups for name in group.tensors] or list(shapes_of(recipe))
    saved = checkpoint(folder)["optimizer"]["param_groups"]
    return {order[index]: (group["lr"], group["weight_decay"]) for group in saved for index in group["params"]}


def own(optimizer: str, width: int, lr: float) -> dict[str, tuple[float, float]]:
    """Return what muP's table gives every parameter at a learning rate."""
    decay = float(OPTIMIZERS[optimizer]["weight_decay"])  # type: ignore[arg-type]
    wider = width / BASE
    ratios = dict.fromkeys(shapes_of(recipe_of(width)), 1.0)
    changed = (
        {"hidden.weight": 1 / wider}
        if optimizer == "adamw"
        else dict.fromkeys(("enter.weight", "enter.bias", "hidden.bias", "leave.weight"), wider)
    )
    return {name: (lr * ratio, decay / ratio) for name, ratio in (ratios | changed).items()}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("width", [BASE, WIDE])
@pytest.mark.parametrize("batch", [16, 64])
def test_the_rule_multiplies_mup_s_learning_rates(tmp_path: Path, optimizer: str, width: int, batch: int) -> None:
    """Four times the batch: twice adamw's learning rate, four times sgd's, of every parameter."""
    recipe = recipe_of(width, groups=table(optimizer, width / BASE))
    job = job_of(recipe, optimizer, per_worker_batch_size=batch, train={"steps": 3})
    in_this_process(tmp_path, recipe, job)[0].run()
    lr = 0.01 * {"adamw": (batch / 16) ** 0.5, "sgd": batch / 16}[optimizer]  # auto: sqrt and linear
    found, expected = saved_lrs(tmp_path, recipe, job), own(optimizer, width, lr)
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert found[name] == pytest.approx(values, rel=1e-12)


def test_the_plan_lists_them_and_a_resume_keeps_them_while_the_batch_grows(tmp_path: Path) -> None:
    recipe = recipe_of(WIDE, groups=table("adamw", WIDE / BASE))
    grows = {"name": "instead_of_decay", "max_global_batch_size": 64}
    schedule = {"name": "multi_step", "at": [{"epochs": 1}], "decay": 0.25, "warmup": {"epochs": 0}}
    options: dict[str, Any] = {"batch_schedule": grows, "schedule": schedule, "train": {"epochs": 2}}
    job = job_of(recipe, **options)
    plan = make_plan(job, 1, parameters=shapes_of(recipe))
    assert [(group.name, group.lr_ratio, group.peak_lr) for group in plan.groups] == [
        ("everything else", 1.0, 0.01),
        ("hidden.weight", 0.25, 0.0025),
    ]
    assert [phase.global_batch_size for phase in plan.phases] == [16, 64]
    folder, lrs = new_folder(tmp_path), []
    for stop_after in (8, 10, 10**9):  # the third attempt begins at the larger batch
        attempt = recipe_of(WIDE, groups=recipe.groups)
        training, around = in_this_process(folder, attempt, job, stop_after=stop_after)
        training._hand_over.interval = EveryStep()
        saved, _ = find_checkpoint(RunFolder(str(folder)))
        if saved is not None:
            training.restore(saved)
        training.run()
        last = around.records[-1]
        assert last.lr == plan.lr_at(last.samples_seen)
        lrs.append(last.lr)
        for name, (lr, _) in saved_lrs(folder, recipe, job).items():
            assert lr == pytest.approx(last.lr * (0.25 if name == "hidden.weight" else 1.0), rel=1e-12)
    short = 0.005 * (58 / 64) ** 0.5  # the last step has 58 samples
    assert lrs == pytest.approx([0.01, 0.005, short]), "at four times the batch a quarter of twice the learning rate"


def moved(tmp_path: Path, width: int, *, is_mup: bool) -> tuple[float, float]:
    """Return how far the features and the outputs have moved after 4 steps, as a mean over samples and units."""
    groups = {"groups": table("adamw", width / BASE)} if is_mup else {}
    recipe = recipe_of(width, **groups)
    inputs = torch.stack([recipe.eval_data[index][0] for index in range(101)])  # type: ignore[index]
    model: Any = recipe.model
    with torch.no_grad():
        before = model.features(inputs), model(inputs)
    in_this_process(new_folder(tmp_path), recipe, job_of(recipe, lr=0.002, train={"steps": 4}))[0].run()
    with torch.no_grad():
        after = model.features(inputs), model(inputs)
    features, outputs = ((now - then).abs().mean().item() for now, then in zip(after, before, strict=True))
    return features, outputs


def test_the_same_learning_rate_moves_the_model_as_far_at_four_times_the_width(tmp_path: Path) -> None:
    """The coordinate check of Yang et al. 2021, appendix D.1; without muP it fails."""
    with_mup = [moved(tmp_path, width, is_mup=True) for width in (BASE, WIDE, 4 * WIDE)]
    without = [moved(tmp_path, width, is_mup=False) for width in (BASE, WIDE, 4 * WIDE)]
    for now, base in zip(with_mup[1] + with_mup[2], 2 * with_mup[0], strict=True):
        assert 0.6 < now / base < 1.6
    for now, base in zip(without[1] + without[2], 2 * without[0], strict=True):
        assert now / base > 2.0


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("width", [BASE, WIDE])
def test_the_learning_rates_are_those_of_the_mup_package(tmp_path: Path, optimizer: str, width: int) -> None:
    mup = pytest.importorskip("mup", reason="mup is not installed; pip install --no-deps mup")

    class Net(Mlp):
        def __init__(self, width: int) -> None:
            super().__init__(width, is_mup=False)
            self.leave = mup.MuReadout(width, 2)

    model = Net(width)
    mup.set_base_shapes(model, Net(BASE), delta=Net(2 * BASE))
    make = {"adamw": mup.MuAdamW, "sgd": mup.MuSGD}[optimizer]
    decay = OPTIMIZERS[optimizer]["weight_decay"]
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = [  # as docs/recipes.md shows
        {"match": names[id(parameter)], "lr_ratio": group["lr"], "weight_decay": group["weight_decay"]}
        for group in make(model.parameters(), lr=1.0, weight_decay=decay).param_groups
        for parameter in group["params"]
    ]
    plain = make_recipe()
    recipe = Recipe(model=model, train_data=plain.train_data, loss=plain.loss, groups=groups)
    job = job_of(recipe, optimizer, per_worker_batch_size=64, train={"steps": 3})
    training, _ = in_this_process(tmp_path, recipe, job)
    training.run()
    theirs = make(model.parameters(), lr=training.plan.peak_lr, weight_decay=decay)
    expected = {
        names[id(parameter)]: (group["lr"], group["weight_decay"])
        for group in theirs.param_groups
        for parameter in group["params"]
    }
    found = saved_lrs(tmp_path, recipe, job)
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert found[name] == pytest.approx(values, rel=1e-12)
    for name, values in own(optimizer, width, training.plan.peak_lr).items():
        assert expected[name] == pytest.approx(values), "the table above is the package's"
