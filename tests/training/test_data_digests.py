"""Data that differ between workers or attempts are refused at the start."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from groups import run_group
from small_runs import in_this_process, make_job
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset

from scaler import Recipe
from scaler.errors import RecipeError
from scaler.training.checkpoints.files import find_checkpoint
from scaler.training.start_checks.data_digests import data_digests, digest, require_same_data


class Made(Dataset[Any]):
    """Samples that a function makes from their index."""

    def __init__(self, make: Callable[[int], Any]) -> None:
        self._make = make

    def __len__(self) -> int:
        return 20

    def __getitem__(self, index: int) -> Any:
        return self._make(index)


def recipe_of(data: Any) -> Recipe:
    return Recipe(model=nn.Linear(1, 1), train_data=data, loss=lambda model, batch: model(batch[0]).pow(2).mean())


def compare(rank: int, world_size: int, kind: str, data_workers: int) -> str:
    own = np.random.default_rng(rank)
    kinds: dict[str, Any] = {
        "alike": Made(lambda index: (torch.ones(1) * index, "a")),
        "one sample": Made(lambda index: (torch.ones(1) * index, "b" if rank == 1 and index == 19 else "a")),
        "tensors": TensorDataset(torch.arange(20.0).roll(rank)[:, None]),
        "augmented": Made(lambda index: torch.ones(1) + torch.rand(1) + float(np.random.rand())),
        "random by itself": Made(lambda index: torch.ones(1) * float(own.random())),
    }
    recipe = recipe_of(kinds[kind])
    try:
        require_same_data(
            recipe,
            data_digests(recipe, data_workers=data_workers),
            world_size=world_size,
            data_workers=data_workers,
        )
    except RecipeError as error:
        return str(error)
    return "alike"


REMEDY = (
    "\n  Build the same data each time, from recipe_args and the job's seed only: a set and os.listdir have no order, "
    "sorted(...) has. train.check_data: false trains on it anyway."
)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("alike", "alike"),
        (
            "one sample",
            f"train_data differs between workers: sample 19 on rank 1 differs from that on rank 0.{REMEDY}",
        ),
        ("tensors", f"train_data differs between workers: sample 0 on rank 1 differs from that on rank 0.{REMEDY}"),
        ("augmented", "alike"),  # each sample draws from a seed of its own
        ("random by itself", "alike"),  # it cannot be compared
    ],
)
def test_workers_compare_a_few_samples(kind: str, text: str) -> None:
    assert set(run_group(compare, 2, kind, 0)) == {text}


@pytest.mark.parametrize("changed", [True, False])
@pytest.mark.parametrize("check", [True, False])
def test_a_run_continues_with_the_data_that_it_began_with(tmp_path: Path, changed: bool, check: bool) -> None:
    job = make_job(per_worker_batch_size=8, train={"num_samples": 20, "epochs": 2, "check_data": check})
    first = recipe_of(TensorDataset(torch.arange(20.0)[:, None]))
    in_this_process(tmp_path, first, make_job(per_worker_batch_size=8, train={"num_samples": 20, "epochs": 1}))[0].run()
    second = recipe_of(TensorDataset(torch.arange(20.0).roll(int(changed))[:, None]))
    training, around = in_this_process(tmp_path, second, job)
    found, _ = find_checkpoint(around.folder)
    assert found is not None
    training.restore(found)
    if changed and check:
        with pytest.raises(
            RecipeError, match=r"^train_data differs from the data that the run began with: sample 0 is different"
        ):
            training.run()
    else:
        training.run()
        assert training.samples_seen == 40


@dataclass
class Sample:
    x: Tensor
    label: str


def test_a_digest_sees_content_and_structure_and_no_address() -> None:
    values = [
        Sample(torch.ones(2), "a"), Sample(torch.ones(2), "b"), {"x": 1}, {"x": 1.0}, {"y": 1}, [1], [1, 2], [[1], 2],
        torch.ones(2), torch.ones(2, dtype=torch.float64), torch.ones(1, 2), torch.eye(2).to_sparse(), np.ones(2),
        np.ones(2, dtype=np.int64), np.float32(1), "1", 1, True, b"1", None, np.array(["a"], dtype=object),
    ]  # fmt: skip
    assert len({digest(value) for value in values}) == len(values)
    assert digest(object()) == digest(object())


@pytest.mark.parametrize("data_workers", [0, 1])
def test_a_sample_that_cannot_be_loaded_is_left_to_the_training(data_workers: int) -> None:
    def fail(index: int) -> Any:
        if index == 0:
            raise KeyError(index)
        return index

    found = data_digests(recipe_of(Made(fail)), data_workers=data_workers)
    assert sorted(found["train_data"]) == [6, 13, 19]
