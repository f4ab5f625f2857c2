"""The order of the samples, and batches of them."""

import os
import random
import signal
from typing import Any

import numpy as np
import pytest
import torch
from small_runs import make_job, plan_of
from torch.utils.data import DataLoader, Dataset, TensorDataset

from scaler import Recipe
from scaler.training.data.batches import batches, is_lost_data_process, to_device
from scaler.training.data.order import EpochOrder, StepIndices


def recipe_for(data: Dataset[Any], **options: Any) -> Recipe:
    return Recipe(
        model=torch.nn.Linear(1, 1), train_data=data, loss=lambda model, batch: model(batch[0]).mean(), **options
    )


class OneByOne(Dataset[Any]):
    """Only ``__getitem__``."""

    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"x": torch.tensor([float(index)]), "id": index}


class ManyAtOnce(OneByOne):
    """Has ``__getitems__`` too, and must not be read one by one."""

    def __init__(self) -> None:
        self.calls: list[list[int]] = []

    def __getitems__(self, indices: list[int]) -> list[dict[str, Any]]:
        self.calls.append(indices)
        return [OneByOne.__getitem__(self, index) for index in indices]

    def __getitem__(self, index: int) -> dict[str, Any]:
        raise AssertionError("asked for one sample")


def test_an_epochs_order_depends_on_seed_and_epoch_alone() -> None:
    first, second = EpochOrder(10, seed=5), EpochOrder(10, seed=5)
    whole = first.slice(0, 10).tolist()
    assert sorted(whole) == list(range(10))
    assert second.slice(10, 10).tolist() != whole
    assert second.slice(4, 3).tolist() == whole[4:7], "also after another epoch was looked at"
    assert EpochOrder(10, seed=6).slice(0, 10).tolist() != whole


class Negative(TensorDataset):
    def __getitem__(self, index: int) -> tuple[torch.Tensor, ...]:
        return tuple(-tensor for tensor in super().__getitem__(index))


def test_a_tensor_dataset_that_does_more_is_asked_for_it() -> None:
    data = Negative(torch.arange(4))
    (batch,) = batches(recipe_for(data), data, [torch.tensor([2, 3])], data_workers=0, pin=False)
    assert batch[0].tolist() == [-2, -3]


def test_tensors_in_memory_are_indexed_a_batch_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TensorDataset, "__getitem__", lambda *_: pytest.fail("per sample"))
    data = TensorDataset(torch.arange(10), torch.arange(10) * 2)
    found = list(batches(recipe_for(data), data, [torch.tensor([3, 1])], data_workers=0, pin=False))
    assert [[tensor.tolist() for tensor in batch] for batch in found] == [[[3, 1], [6, 2]]]


def test_a_dataset_with_getitems_is_asked_once_a_batch() -> None:
    data = ManyAtOnce()
    found = list(batches(recipe_for(data), data, [torch.tensor([3, 1]), torch.tensor([0])], data_workers=0, pin=False))
    assert data.calls == [[3, 1], [0]]
    assert found[0]["x"].tolist() == [[3.0], [1.0]]


@pytest.mark.parametrize("data_workers", [0, 2])
def test_any_other_dataset_is_read_sample_by_sample_in_order(data_workers: int) -> None:
    data = OneByOne()
    indices = [torch.tensor([9, 0]), torch.tensor([5])]
    found = list(batches(recipe_for(data), data, indices, data_workers=data_workers, pin=False))
    assert [batch["id"].tolist() for batch in found] == [[9, 0], [5]]


def test_a_recipes_own_collate_makes_the_batches() -> None:
    data = TensorDataset(torch.arange(4))
    recipe = recipe_for(data, collate=lambda samples: ("made", [int(sample[0]) for sample in samples]))
    assert list(batches(recipe, data, [torch.tensor([2, 3])], data_workers=0, pin=False)) == [("made", [2, 3])]


def test_every_tensor_of_a_nested_batch_moves() -> None:
    batch = {"a": [torch.zeros(1), 3], "b": (torch.zeros(1),)}
    moved = to_device(batch, torch.device("meta"))
    assert moved["a"][0].is_meta
    assert moved["b"][0].is_meta
    assert moved["a"][1] == 3


class Noisy(Dataset[Any]):
    """Adds a random shift to each sample, from all three random streams, as augmentation does."""

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.tensor([index, torch.rand(()).item(), float(np.random.rand()), random.random()]).double()


def drawn(samples_seen: int, *, world_size: int = 1, rank: int = 0) -> list[list[float]]:
    """Return the batches of a data-loading process after a point of training."""
    plan = plan_of(make_job(global_batch_size=4, train={"num_samples": 12, "epochs": 3}), world_size)
    indices = StepIndices(plan, seed=5, rank=rank, samples_seen=samples_seen)
    data = Noisy()
    found = batches(recipe_for(data), data, indices, data_workers=2, pin=False, seeds=indices.seeds())
    return [row for batch in found for row in batch.tolist()]


def test_augmentation_in_loading_processes_differs_from_epoch_to_epoch_and_is_the_same_after_a_resume() -> None:
    whole = drawn(0)
    assert len({tuple(row[1:]) for row in whole}) == len(whole) == 36
    assert sorted(row[0] for row in whole[:12]) == list(range(12))
    for samples_seen in (4, 12, 20):
        assert drawn(samples_seen) == whole[samples_seen:]


def test_workers_draw_different_augmentation() -> None:
    first, second = (drawn(0, world_size=2, rank=rank) for rank in (0, 1))
    assert not {tuple(row[1:]) for row in first} & {tuple(row[1:]) for row in second}


def test_neighbouring_seeds_and_epochs_share_no_order() -> None:
    """torch keeps 32 bits of a seed: a seed and an epoch packed into 64 bits would silently lose the seed."""
    orders = {
        tuple(EpochOrder(20, seed=seed).slice(20 * epoch, 20).tolist()) for seed in range(5) for epoch in range(5)
    }
    assert len(orders) == 25


class _Dies(Dataset[torch.Tensor]):
    def __init__(self, how: str) -> None:
        self.how = how

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> torch.Tensor:
        if self.how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        elif self.how == "exits":
            os._exit(3)
        raise KeyError("no such column")


@pytest.mark.parametrize(("how", "is_lost"), [("killed", True), ("exits", True), ("raises", False)])
def test_a_killed_data_process_is_distinguished_from_an_error_of_the_recipe(how: str, is_lost: bool) -> None:
    loader = DataLoader(_Dies(how), batch_size=2, num_workers=1)
    with pytest.raises((RuntimeError, KeyError)) as caught:
        next(iter(loader))
    assert is_lost_data_process(caught.value) is is_lost
