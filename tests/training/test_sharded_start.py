"""Checks before the first step of a sharded model: the same forward passes on every worker, and nothing changes."""

import copy
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
import torch
import torch.distributed as dist
from groups import run_group
from sharded_models import Net, sharded
from small_runs import SAMPLES, Kept, make_job
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.utils.data import TensorDataset

from scaler import Recipe
from scaler.plan import make_plan
from scaler.training.activity import Activity
from scaler.training.evaluation.evaluator import Evaluator
from scaler.training.model.untouched import untouched
from scaler.training.process_group import is_lost_peer, leave_group
from scaler.training.randomness import random_state
from scaler.training.recipe.check import checked_recipe
from scaler.training.start_checks import shared_failure
from scaler.training.start_checks.start import check_start

CPU = torch.device("cpu")


def data() -> TensorDataset:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(SAMPLES, 6, generator=generator, dtype=torch.float64)
    return TensorDataset(inputs, (inputs.sum(1) > 0).long())


def mean(model: nn.Module, batch: Any) -> Tensor:
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


def summed(model: nn.Module, batch: Any) -> Tensor:
    return nn.functional.cross_entropy(model(batch[0]), batch[1], reduction="sum")


def of_32_samples(model: nn.Module, batch: Any) -> Tensor:
    """Fails inside a forward pass, after the first block has gathered its weights."""
    hook = model.blocks[1].register_forward_pre_hook(fail) if len(batch[0]) != 32 else None  # type: ignore[union-attr,index,operator]
    try:
        return mean(model, batch)
    finally:
        if hook is not None:
            hook.remove()


def fail(*_: Any) -> None:
    raise ValueError("this loss takes 32 samples")


def on_rank_1(model: nn.Module, batch: Any) -> Tensor:
    if dist.get_rank() == 1:
        fail()
    return mean(model, batch)


def other_values(model: nn.Module, batch: Any) -> Tensor:
    """Rank 1 computes a sum, and must still run the same forward passes as rank 0."""
    return (summed if dist.get_rank() == 1 else mean)(model, batch)


def in_bf16_only(model: nn.Module, batch: Any) -> Tensor:
    if not torch.is_autocast_enabled("cpu"):
        return of_32_samples(model, (batch[0][:1].float(), batch[1][:1]))
    return mean(model, batch)


def by_a_method(model: nn.Module, batch: Any) -> Tensor:
    return model.encode(batch[0]).square().mean()  # type: ignore[no-any-return,operator]


def by_a_weight(model: nn.Module, batch: Any) -> Tensor:
    return (batch[0] @ model.head.weight.T).square().mean() + mean(model, batch)  # type: ignore[no-any-return,union-attr]


LOSSES: dict[str, Callable[..., Tensor]] = {
    loss.__name__: loss
    for loss in (mean, summed, of_32_samples, on_rank_1, other_values, in_bf16_only, by_a_method, by_a_weight)
}


def started(rank: int, world_size: int, name: str, sections: dict[str, Any]) -> str:
    """Return what the checks found, after they have left everything as it was."""
    if name == "on_rank_1":
        shared_failure.WAIT = timedelta(seconds=2)
    model = sharded(Net(norm, nn.Dropout))
    before = copy.deepcopy({key: part(value) for key, value in model.state_dict().items()})
    recipe = checked_recipe(
        Recipe(
            model=model,
            train_data=data(),
            loss=LOSSES[name],
            eval_data=data(),
            evaluate=lambda model, batch: {"right": (model(batch[0]).argmax(1) == batch[1]).float().mean()},
        ),
        "r:build",
    )
    job = make_job(num_workers=world_size, per_worker_batch_size=16, **sections)
    plan, context = make_plan(job, world_size), Kept(rank, world_size, "unused")
    evaluation = Evaluator(recipe, context, model, None, Activity(), is_sharded=True)
    random_numbers, modes = random_state(CPU), [module.training for module in model.modules()]
    try:
        found = check_start(
            recipe,
            job,
            plan,
            context,
            model=model,
            evaluation=evaluation,
            activity=Activity(),
            samples_seen=0,
            digests={},
            is_sharded=True,
        )
        text = found.loss_not_checked or "accepted"
    except Exception as error:
        leave_group()  # as the end of a worker does
        return "the other worker is gone" if is_lost_peer(error) else f"{type(error).__name__}: {error}"
    assert torch.equal(random_state(CPU), random_numbers)
    assert [module.training for module in model.modules()] == modes
    assert all(isinstance(parameter, DTensor) and parameter.grad is None for parameter in model.parameters())
    after = model.state_dict()
    assert all(torch.equal(value, part(after[key])) for key, value in before.items())
    assert gradients(model) == gradients(sharded(Net(norm, nn.Dropout)))
    return text


def norm() -> nn.Module:
    return nn.BatchNorm1d(6)


def part(value: Any) -> Tensor:
    found: Tensor = value.to_local() if isinstance(value, DTensor) else value
    return found


def gradients(model: nn.Module) -> list[list[float]]:
    torch.manual_seed(1)
    mean(model, data()[:12]).backward()
    return [part(parameter.grad).flatten().tolist() for parameter in model.parameters()]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("mean", "accepted"),
        ("of_32_samples", "ValueError: this loss takes 32 samples"),
        ("other_values", "accepted"),
        ("summed", "RecipeError: loss(model, batch) is not a mean over the batch's samples: 8 samples give"),
    ],
)
def test_what_the_checks_find_is_the_same_on_all_workers_and_nothing_is_changed(name: str, text: str) -> None:
    first, second = run_group(started, 2, name, {})
    assert first.startswith(text)
    assert second == first


def test_an_exception_on_one_worker_ends_all_with_it() -> None:
    began = time.monotonic()
    assert run_group(started, 2, "on_rank_1", {}) == [
        "the other worker is gone",
        "ValueError: this loss takes 32 samples",
    ]
    assert time.monotonic() - began < 60


def test_a_precision_that_the_model_needs_is_found_by_all_workers() -> None:
    assert run_group(started, 2, "in_bf16_only", {"train": {"precision": "bf16"}}) == ["accepted"] * 2


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("by_a_method", "FSDP state has already been lazily initialized for blocks.0"),
        (
            "by_a_weight",
            "aten.mm.default got mixed torch.Tensor and DTensor, need to convert all torch.Tensor to DTensor before "
            "calling distributed operators!",
        ),
    ],
)
def test_the_whole_text_of_weights_that_are_used_outside_forward(name: str, why: str) -> None:
    text = (
        "RecipeError: train.strategy = fsdp, and the recipe uses weights of the model outside its forward, where a "
        f"worker has only a part of them: {why}\n"
        "  Compute it inside forward: loss and evaluate use what model(...) returns. A method that they call, such as "
        "model.encode, is named in the job: train.fsdp.forward_methods: [encode]."
    )
    assert run_group(started, 2, name, {}) == [text] * 2


def change_and_restore(rank: int, world_size: int) -> bool:
    model = sharded(Net())
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    weight = model.head.weight
    before = part(weight).clone()
    with untouched(model, CPU):
        model(data()[:4][0]).sum().backward()
        with torch.no_grad():
            weight.mul_(2)
        weight.requires_grad_(True)
    assert weight is model.head.weight
    assert torch.equal(part(weight), before)
    model(data()[:4][0])  # leaves the root's weights gathered
    return all(isinstance(value, DTensor) for value in model.state_dict().values()) and all(
        torch.equal(part(parameter.grad), torch.ones_like(part(parameter))) for parameter in model.parameters()
    )


def test_shards_and_their_gradients_are_restored_and_a_state_has_shards_also_after_a_forward() -> None:
    assert run_group(change_and_restore, 2) == [True, True]
