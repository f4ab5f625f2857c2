"""Evaluations of a sharded model: its workers run equally many batches, and the values are those of one worker."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from groups import run_group
from sharded_models import Net, sharded
from small_runs import Kept, make_job
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.utils.data import IterableDataset, TensorDataset

from scaler import Eval, Recipe
from scaler.plan import make_plan
from scaler.training.activity import Activity
from scaler.training.evaluation.evaluator import Evaluator
from scaler.training.model.average import WeightAverage
from scaler.training.recipe.check import checked_recipe


def rows(count: int, *, seed: int) -> TensorDataset:
    generator = torch.Generator().manual_seed(seed)
    return TensorDataset(torch.randn(count, 6, generator=generator, dtype=torch.float64))


class Sum:
    """A metric object of one's own, whose updates are recorded."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.total = 0.0

    def update(self, values: Tensor) -> None:
        self.total += float(values.sum())

    def compute(self) -> float:
        return self.total


class Forward(IterableDataset[Tensor]):
    """Samples that are read forward."""

    def __len__(self) -> int:
        return 7

    def __iter__(self) -> Any:
        return iter(rows(7, seed=3).tensors[0])


def recipe(model: nn.Module, batches: list[int]) -> Recipe:
    own, in_own_set = Sum(), Sum()
    parts: dict[str, Any] = {}
    try:
        from torchmetrics import MeanMetric

        parts = {"library": MeanMetric().set_dtype(torch.float64)}
    except ImportError:
        pass

    def values(model: nn.Module, batch: Any, total: Sum) -> dict[str, Any]:
        x = batch[0] if isinstance(batch, list | tuple) else batch
        batches.append(len(x))
        output = model(x)
        total.update(output)
        found: dict[str, Any] = {
            "mean": output.mean(),
            "weighted": ((output[:, 0] * x[:, 0] ** 2).sum(), (x[:, 0] ** 2).sum()),
        }
        for metric in parts.values():
            metric.update(output)
        return found | {"rows": output[:, 0], "total": total} | parts

    made = Recipe(
        model=model,
        train_data=rows(4, seed=0),
        loss=lambda model, batch: model(batch[0]).mean(),
        eval_data=rows(11, seed=1),
        evaluate=lambda model, batch: values(model, batch, own),
        metrics=lambda rows, total: {"last": rows[-1], "cubes": (rows**3).sum(), "twice": 2 * total},
        evals={
            "one": rows(1, seed=2),  # fewer samples than workers
            "stream": Forward(),
            "whole": Eval(data=rows(11, seed=4), batch_size=3),
            "single": Eval(data=rows(5, seed=5), batch_size=1),
            "own": Eval(
                data=rows(5, seed=6),
                evaluate=lambda model, batch: {
                    "mean": model(batch[0]).mean(),
                    "total": (in_own_set.update(batch[0]), in_own_set)[1],
                },
            ),
        },
    )
    return checked_recipe(made, "r:build")


def evaluated(rank: int, world_size: int, sizes: Sequence[int]) -> list[Any]:
    """Return the values for several batch sizes, and how many batches this worker ran."""
    models = [Net(seed=3), Net(seed=4)]
    if world_size > 1:
        models = [sharded(model) for model in models]
    model, average = models
    found = []
    for size in sizes:
        plan = make_plan(make_job(num_workers={"min": 1, "max": 3}, per_worker_batch_size=size), world_size)
        batches: list[int] = []
        evaluator = Evaluator(
            recipe(model, batches),
            Kept(rank, world_size, "unused"),
            model,
            cast(WeightAverage, SimpleNamespace(model=average)),
            Activity(),
            is_sharded=world_size > 1,
        )
        values = evaluator.values(plan)
        again = evaluator.values(plan) if size > 1 else values  # begins anew
        found.append((values, again, len(batches)))
    assert world_size == 1 or all(isinstance(p, DTensor) for net in models for p in net.parameters())
    return found


SIZES = [4, 1]


@pytest.mark.parametrize("world_size", [2, 3])
def test_values_are_those_of_one_worker_and_all_workers_run_equally_many_batches(world_size: int) -> None:
    alone = evaluated(0, 1, SIZES)
    groups = run_group(evaluated, world_size, SIZES)
    for place, (expected, _, _) in enumerate(alone):
        assert len(expected) > 60
        for values, again, _ in (found[place] for found in groups):
            assert values == again == pytest.approx(expected, rel=1e-12)
        assert len({found[place][2] for found in groups}) == 1
