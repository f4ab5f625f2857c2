"""Which optimizers take the same step on sharded weights as on whole ones: ``OptimizerFacts.works_sharded``."""

import importlib
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from groups import run_group
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from scaler.core.optimizers import OPTIMIZERS, OptimizerFacts

STEPS, LR = 4, 0.01
ROUNDING = 1e-14
BF16 = {"muon": 2e-3}  # it orthogonalizes in bf16: an error of a part of its steps


def build(facts: OptimizerFacts) -> nn.Sequential:
    torch.manual_seed(0)
    biased = not facts.takes_matrices
    layers = [nn.Linear(6, 8, bias=biased), nn.ReLU(), nn.Linear(8, 7, bias=biased)]
    return nn.Sequential(*layers).double()


def train(model: nn.Module, facts: OptimizerFacts, mine: slice) -> list[Tensor]:
    module, name = facts.path.split(":")
    options = {"momentum": 0.9} if facts.name == "sgd" else {}
    optimizer = getattr(importlib.import_module(module), name)(model.parameters(), lr=LR, **options)
    getattr(optimizer, "train", lambda: None)()
    torch.manual_seed(1)
    for _ in range(STEPS):
        x, y = torch.randn(4, 6, dtype=torch.float64)[mine], torch.randint(0, 7, (4,))[mine]

        def closure(x: Tensor = x, y: Tensor = y) -> Tensor:
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x), y)
            loss.backward()
            return loss

        closure()
        optimizer.step(closure if name == "LBFGS" else None)
    return [parameter.detach() for parameter in model.parameters()]


def differences(rank: int, world_size: int) -> dict[str, float | None]:
    """The largest difference of a weight for each optimizer; None: it raised an error."""
    mesh, found = init_device_mesh("cpu", (world_size,), mesh_dim_names=("shard",)), {}
    for name, facts in OPTIMIZERS.items():
        model = build(facts)
        for layer in (model[0], model[2], model):
            fully_shard(layer, mesh=mesh)
        try:
            sharded: Sequence[Any] = train(model, facts, slice(2 * rank, 2 * rank + 2))
        except (RuntimeError, AssertionError):  # of DTensor: NotImplementedError is a RuntimeError
            found[name] = None
            continue
        whole = train(build(facts), facts, slice(None))
        assert all(isinstance(weight, DTensor) for weight in sharded)
        found[name] = max(float((a - b.full_tensor()).abs().max()) for a, b in zip(whole, sharded, strict=True))
    return found


def test_the_table_says_which_optimizers_work_on_sharded_weights() -> None:
    pytest.importorskip("pytorch_optimizer")
    for found in run_group(differences, 2):
        works = {name: value is not None and value < BF16.get(name, ROUNDING) for name, value in found.items()}
        assert works == {name: facts.works_sharded for name, facts in OPTIMIZERS.items()}, found
