"""The order of a recipe's own sampler: the same on any number of workers and after a resume."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from groups import run_group
from small_runs import NEVER_STOP, EveryStep, Kept, make_job, new_folder, weights_of
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import (
    BatchSampler,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from scaler import Recipe
from scaler.errors import RecipeError, ScalerError
from scaler.metrics.events import data_order
from scaler.plan import make_plan
from scaler.training.checkpoints.files import find_checkpoint
from scaler.training.data.batches import batches
from scaler.training.loop import Training
from scaler.training.randomness import seed_everything
from scaler.training.recipe.check import checked_recipe

SIZE = 54
WEIGHTS = [1.0, 5.0] * (SIZE // 2)


class Samples(Dataset[Any]):
    def __len__(self) -> int:
        return SIZE

    def __getitem__(self, index: int) -> tuple[Tensor, int, int]:
        return torch.tensor([float(index % 7), float(index % 3)]), index % 2, index


class Epochs:
    """A sampler whose order is ``set_epoch``'s."""

    def __init__(self) -> None:
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return SIZE

    def __iter__(self) -> Iterator[int]:
        return iter(np.random.default_rng(self.epoch).permutation(SIZE))


class Unseeded(Epochs):
    def __iter__(self) -> Iterator[int]:
        return iter(np.random.default_rng().permutation(SIZE))


SAMPLERS: dict[str, Any] = {
    "weighted": lambda: WeightedRandomSampler(WEIGHTS, 40),
    "generator": lambda: RandomSampler(Samples(), generator=torch.Generator().manual_seed(9)),
    "epochs": Epochs,
    "unseeded": Unseeded,
    "list": lambda: list(range(SIZE - 1, -1, -1)),
}
LENGTHS = {"weighted": 40}


def train(rank: int, world_size: int, folder: str, kind: str, stop: int, check_data: bool) -> dict[str, Any]:
    torch.set_num_threads(1)
    job = make_job(
        num_workers={"min": 1, "max": 3},
        global_batch_size=16,
        rewarmup=None,
        train={"num_samples": LENGTHS.get(kind, SIZE), "epochs": 2, "check_data": check_data},
    )
    seed_everything(job.train.seed)
    used: list[int] = []

    def loss(model: nn.Module, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        used.extend(batch[2].tolist())
        return cross_entropy(model(batch[0]), batch[1])

    recipe = checked_recipe(
        Recipe(
            model=nn.Linear(2, 2), train_data=Samples(), sampler=SAMPLERS[kind](), loss=loss, loss_over="micro_batch"
        ),
        "r:build",
    )
    around = Kept(rank, world_size, folder, stop_after=stop)
    try:
        training = Training(recipe, job, make_plan(job, world_size), around)
        training._hand_over.interval = EveryStep()
        saved, _ = find_checkpoint(around.folder)
        if saved is not None:
            training.restore(saved)
        training.run()
    except ScalerError as error:
        return {"error": str(error)}
    return {"used": used, "weights": weights_of(recipe.model), "order": data_order(around.events)}


def run(
    folder: Path, world_size: int, kind: str, *, stop: int = NEVER_STOP, check_data: bool = True
) -> list[dict[str, Any]]:
    arguments = (str(folder), kind, stop, check_data)
    return [train(0, 1, *arguments)] if world_size == 1 else run_group(train, world_size, *arguments)


@pytest.mark.parametrize("kind", ["weighted", "generator", "epochs", "list"])
def test_the_order_is_the_samplers_on_any_number_of_workers_and_after_a_resume(tmp_path: Path, kind: str) -> None:
    (alone,) = run(new_folder(tmp_path), 1, kind)
    size = LENGTHS.get(kind, SIZE)
    assert alone["order"] == "sampler"
    assert len(alone["used"]) == 2 * size, "an epoch is len(sampler)"
    epochs = alone["used"][:size], alone["used"][size:]
    if kind == "list":
        assert epochs == (list(range(SIZE - 1, -1, -1)),) * 2
    else:
        assert epochs[0] != epochs[1], "a new order in each epoch"
    if kind == "epochs":
        assert [list(each) for each in epochs] == [np.random.default_rng(n).permutation(SIZE).tolist() for n in (0, 1)]
    if kind == "weighted":
        assert sum(index % 2 for index in alone["used"]) > size, "odd ones weigh more"
    else:
        assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(SIZE))

    folder = new_folder(tmp_path)
    (first,) = run(folder, 1, kind, stop=4)
    group = run(folder, 3, kind)
    assert sorted([*first["used"], *(index for rank in group for index in rank["used"])]) == sorted(alone["used"])
    assert first["used"] == alone["used"][: len(first["used"])]
    assert group[0]["weights"] == pytest.approx(alone["weights"], abs=1e-6)


REMEDY = (
    "  Build the same data each time, and let the sampler yield the same indices in the same order on every worker and "
    "after a resume, from recipe_args and set_epoch(epoch) only. "
)


def test_an_order_that_differs_between_workers_or_attempts_is_refused(tmp_path: Path) -> None:
    for rank in run(new_folder(tmp_path), 2, "unseeded"):
        assert rank["error"] == (
            "train_data differs between workers: sample 0 on rank 1 differs from that on rank 0.\n"
            f"{REMEDY}train.check_data: false trains on it anyway."
        )
    folder = new_folder(tmp_path)
    run(folder, 1, "unseeded", stop=2)
    (again,) = run(folder, 1, "unseeded")
    assert again["error"].startswith("train_data differs from the data that the run began with: sample ")
    assert again["error"].endswith(f"{REMEDY}--set train.check_data=false trains on it anyway.")


@pytest.mark.parametrize("data_workers", [0, 1])
def test_tensors_in_memory_and_separate_processes_follow_the_sampler(data_workers: int) -> None:
    tensors = TensorDataset(torch.arange(SIZE))
    for data, collate in ((tensors, None), (tensors, torch.utils.data.default_collate)):
        recipe = checked_recipe(
            Recipe(model=nn.Linear(1, 1), train_data=data, sampler=Epochs(), loss=lambda m, b: m, collate=collate), "r"
        )
        numbers = [torch.arange(48, 60)]  # over the end of an epoch
        ((found,),) = batches(recipe, recipe.train_data, numbers, data_workers=data_workers, pin=False, seeds=[3])
        orders = [np.random.default_rng(epoch).permutation(SIZE).tolist() for epoch in (0, 1)]
        assert found.tolist() == orders[0][48:] + orders[1][:6]


def test_a_sampler_leaves_the_random_numbers_of_this_process() -> None:
    recipe = checked_recipe(
        Recipe(model=nn.Linear(1, 1), train_data=Samples(), sampler=WeightedRandomSampler(WEIGHTS, 40), loss=print), "r"
    )
    seed_everything(5)
    before = float(torch.rand(1))
    seed_everything(5)
    list(batches(recipe, recipe.train_data, [torch.arange(4)], data_workers=0, pin=False, seed=1))
    assert float(torch.rand(1)) == before


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[float]:
        return iter([1.0])


@pytest.mark.parametrize(
    ("sampler", "given", "text"),
    [
        (BatchSampler(SequentialSampler(Samples()), 4, drop_last=False), {}, "sampler is a BatchSampler, which yields "
         "batches; the learning rate follows the batch of the job, and scaler makes the batches.\n  Give the order of "
         "the samples, for example sampler=batch_sampler.sampler. For batches by length, yield the indices of one "
         "batch after the other."),
        (DistributedSampler(Samples(), 2, 0), {}, "sampler is a DistributedSampler, which yields one worker's share.\n"
         "  Leave it out, or give the order of all samples."),
        (iter([1]), {}, "sampler is a list_iterator.\n  Give an object whose __iter__ yields the indices of an epoch, "
         "such as a torch Sampler."),
        ([0], {"train_data": Stream(), "num_samples": 1}, "sampler is given, and train_data is a Stream, which has an "
         "order of its own.\n  Leave sampler out, or give a map-style dataset."),
        ([], {}, "sampler is empty.\n  There is nothing to train on."),
        (Stream(), {}, "sampler is a Stream without len().\n  State the samples of an epoch: scaler.Recipe("
         "num_samples=...)."),
        (None, {"sharded": True}, "sharded = True, and train_data is a Samples, of which every worker reads its share "
         "already.\n  Leave sharded out: it is for iterables."),
    ],
)  # fmt: skip
def test_the_whole_text_of_each_refusal(sampler: Any, given: dict[str, Any], text: str) -> None:
    parts = {"train_data": Samples(), **given}
    with pytest.raises(RecipeError) as caught:
        checked_recipe(Recipe(model=nn.Linear(1, 1), loss=print, sampler=sampler, **parts), "r:build")
    assert str(caught.value) == f"r:build: {text}"


@pytest.mark.parametrize(
    ("sampler", "stated", "text"),
    [
        ([[0, 1]], None, "the sampler yields [0, 1], not an index.\n  Yield the index of one sample at a time; scaler "
         "makes the batches."),
        ([torch.tensor(0.5)], None, "the sampler yields tensor(0.5000), not an index.\n  Yield the index of one sample "
         "at a time; scaler makes the batches."),
        ([0, SIZE], None, "the sampler yields the index 54, and train_data has 54 samples.\n  Yield indices from 0 to "
         "53."),
        (map(int, []), 3, "the sampler yields 0 indices in epoch 0, and 3 are stated.\n  Every epoch must have the "
         "number in len(sampler) or scaler.Recipe(num_samples=...)."),
    ],
)  # fmt: skip
def test_the_whole_text_of_what_a_sampler_may_not_yield(sampler: Any, stated: int | None, text: str) -> None:
    class Yields:
        def __iter__(self) -> Iterator[Any]:
            return iter(sampler)

    recipe = checked_recipe(
        Recipe(
            model=nn.Linear(1, 1),
            train_data=Samples(),
            sampler=Yields(),
            loss=print,
            num_samples=stated or len(sampler),
        ),
        "r",
    )
    with pytest.raises(RecipeError) as caught:
        list(batches(recipe, recipe.train_data, [torch.arange(1)], data_workers=0, pin=False))
    assert str(caught.value) == text
