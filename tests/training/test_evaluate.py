"""Evaluation shared among workers."""

from typing import Any

import pytest
import torch
from groups import run_group
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from scaler import Recipe
from scaler.training.activity import Activity
from scaler.training.evaluation.loop import evaluate

SAMPLES = 11


def recipe(kind: str) -> Recipe:
    data = TensorDataset(torch.arange(SAMPLES, dtype=torch.float32))

    def positives_only(model: nn.Module, batch: tuple[Tensor]) -> dict[str, Tensor]:
        """The mean, and a second value where a batch has any sample above 8."""
        found = {"mean": batch[0].mean()}
        return found | ({"high": (batch[0] > 8).float().mean()} if (batch[0] > 8).any() else {})

    def weighted(model: nn.Module, batch: tuple[Tensor]) -> tuple[Tensor, Tensor]:
        return (batch[0] * batch[0]).sum(), batch[0].sum()

    return Recipe(
        model=nn.Linear(1, 1),
        train_data=data,
        eval_data=data,
        loss=weighted if kind == "weighted" else (lambda model, batch: batch[0].mean()),
        evaluate=positives_only if kind == "named" else None,
    )


def on_rank(rank: int, world_size: int, kind: str) -> dict[str, float]:
    made = recipe(kind)
    device = torch.device("cpu")
    return evaluate(
        made, made.model, rank=rank, world_size=world_size, batch_size=3, device=device, activity=Activity()
    )


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize(
    ("kind", "name", "expected"),
    [
        ("loss", "loss", 5.0),  # the mean over all 11, whatever the batches
        ("weighted", "loss", 385 / 55),  # sum of squares over sum
        ("named", "mean", 5.0),
    ],
)
def test_the_mean_is_over_every_sample_on_any_number_of_workers(
    world_size: int, kind: str, name: str, expected: float
) -> None:
    for found in run_group(on_rank, world_size, kind):
        assert found[name] == pytest.approx(expected)


def test_a_value_that_only_some_workers_have_is_averaged_over_those_batches() -> None:
    first, second = run_group(on_rank, 2, "named")
    assert first == second
    assert first["high"] == pytest.approx(1.0)  # the batch of 9 and 10


def test_more_workers_than_samples_evaluate_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[Any] = run_group(on_rank, SAMPLES + 1, "loss")
    assert {value["loss"] for value in found} == {5.0}
