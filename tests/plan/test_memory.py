"""The memory of weights, gradients and optimizer state, and what the optimizers really keep."""

import importlib
from collections.abc import Callable
from typing import Any

import pytest
import torch

from scaler.core.optimizers import OPTIMIZERS
from scaler.job import Job
from scaler.plan import make_plan

Digits = Callable[..., Job]
GIB = 2**30
SIZES = {"embed": GIB, "body": 2 * GIB, "bias": 0}  # numbers of elements: 4 bytes each
COUNTED = [
    *((name, {}) for name, row in OPTIMIZERS.items() if row.state_tensors is not None),
    *(("sgd", {"momentum": 0.9}), ("rmsprop", {"momentum": 0.9}), ("rmsprop", {"centered": True})),
    *((name, {"amsgrad": True}) for name in ("adam", "adamw")),
]


@pytest.mark.parametrize(("name", "options"), COUNTED)
def test_an_optimizer_keeps_as_many_tensors_as_the_table_says(name: str, options: dict[str, Any]) -> None:
    row = OPTIMIZERS[name]
    module, cls = row.path.split(":")
    weight = torch.nn.Parameter(torch.randn(8, 4))
    optimizer = getattr(importlib.import_module(module), cls)([weight], lr=0.01, **options)
    getattr(optimizer, "train", lambda: None)()
    for _ in range(2):
        gradient = torch.randn(8, 4)
        weight.grad = gradient.to_sparse(1) if cls == "SparseAdam" else gradient
        optimizer.step()
    kept = [value for value in optimizer.state[weight].values() if torch.is_tensor(value) and value.shape == (8, 4)]
    assert len(kept) == row.states({**row.defaults, **options})


@pytest.mark.parametrize(
    ("overrides", "parts", "worker"),
    [
        (["reference.optimizer={name: adamw}"], (12, 12, 24, 0), 48),  # 16 bytes a parameter, on each worker
        (["reference.optimizer={name: sgd}"], (12, 12, 0, 0), 24),
        (["reference.optimizer={name: sgd, momentum: 0.9}"], (12, 12, 12, 0), 36),
        (["reference.optimizer={name: adamw}", "train.ema={decay: 0.9}"], (12, 12, 24, 12), 60),
        (["reference.optimizer={name: adamw}", "groups=[{match: embed, freeze: true}]"], (12, 8, 16, 0), 36),
        (["reference.optimizer={name: adamw}", "train.strategy=fsdp"], (12, 12, 24, 0), 12),  # a quarter
        (["reference.optimizer={name: adamw}", "train.strategy=fsdp", "scale.mesh={shard: 2}"], (12, 12, 24, 0), 24),
        (  # of each, what its optimizer keeps
            [
                "reference.optimizer={name: adamw}",
                "reference.optimizers={e: {match: [embed], lr: 0.1, optimizer: {name: sgd}}}",
            ],
            (12, 12, 16, 0),
            40,
        ),
    ],
)
def test_memory_by_example(digits: Digits, overrides: list[str], parts: tuple[int, ...], worker: int) -> None:
    plan = make_plan(digits("scale.num_workers=4", "scale.rule=sqrt", *overrides), parameters=SIZES)
    memory = plan.memory
    assert memory is not None
    found = (memory.weights_gib, memory.gradients_gib, memory.optimizer_gib, memory.average_gib)
    assert found == parts
    assert (memory.worker_gib, memory.num_parameters, memory.ddp_gib) == (worker, 3 * GIB, sum(parts))


def test_the_reason_names_the_other_strategy(digits: Digits) -> None:
    adamw = ("scale.num_workers=4", "scale.rule=sqrt", "reference.optimizer={name: adamw}")
    assert make_plan(digits(*adamw), parameters=SIZES).reasons["memory"] == (
        "a worker, without activations: weights 12 + gradients 12 + optimizer 24; with fsdp 12 GiB"
    )
    assert make_plan(digits(*adamw, "train.strategy=fsdp"), parameters=SIZES).reasons["memory"] == (
        "a worker, without activations: 1/4 of weights 12 + gradients 12 + optimizer 24; with ddp 48 GiB"
    )


def test_memory_that_is_not_known_or_little_is_not_shown(digits: Digits) -> None:
    own = make_plan(digits("reference.optimizer={name: 'my_pkg:Mine'}", "scale.rule=sqrt"), parameters=SIZES)
    little = make_plan(digits(), parameters={"a": 1000})
    assert own.memory is None
    assert little.memory is not None
    assert "memory" not in own.reasons | little.reasons
    assert make_plan(digits()).memory is None
    assert make_plan(digits("scale.mesh={tensor: 2}"), parameters=SIZES).memory is None, "the script divides it further"
