"""Iterables that continue at a saved state, and iterables of which every worker reads a part."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from groups import run_group
from recipe_kinds import SIZE, Forward
from small_runs import NEVER_STOP, EveryStep, Kept, checkpoint, make_job, new_folder, weights_of
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import IterableDataset, get_worker_info

from scaler import Recipe
from scaler.errors import RecipeError, ScalerError
from scaler.plan import make_plan
from scaler.training.checkpoints.files import find_checkpoint
from scaler.training.data import reading
from scaler.training.data.batches import batches
from scaler.training.loop import Training
from scaler.training.randomness import seed_everything
from scaler.training.recipe.check import checked_recipe
from scaler.training.start_checks.streams import check_stream


class Buffered(Forward):
    """Loses what its shuffle buffer holds when its state is loaded, as datasets of Hugging Face do."""

    def __iter__(self) -> Iterator[Any]:
        buffer = []
        for sample in super().__iter__():
            buffer.append(sample)
            if len(buffer) > 8:
                yield buffer.pop(int(torch.randint(len(buffer), ())))
        yield from buffer


class Sticky(Forward):
    """A loaded state counts for every iteration of the epoch, as in datasets of Hugging Face."""

    def __init__(self, size: int = SIZE, *, step: int = 1, first: int = 0) -> None:
        super().__init__(size, step=step, first=first)
        self.loaded = 0

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.loaded = state["position"]

    def __iter__(self) -> Iterator[Any]:
        self.position = self.loaded
        return super().__iter__()


class ByRank(Forward):
    """Splits itself among the workers; it has no method ``shard``."""

    shard = None  # type: ignore[assignment]

    def __iter__(self) -> Iterator[Any]:
        rank, size = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        for index, sample in enumerate(super().__iter__()):
            if index % size == rank:
                yield sample


class Whole(Forward):
    """Gives every worker the same part."""

    def shard(self, num_shards: int, index: int) -> Forward:
        return Forward()


SOURCES = {"forward": Forward, "buffered": Buffered, "sticky": Sticky, "by_rank": ByRank, "whole": Whole}


def train(rank: int, world_size: int, folder: str, kind: str, sharded: bool, stop: int) -> dict[str, Any]:
    torch.set_num_threads(1)
    reading.SNAPSHOT_EVERY_S = 0.0
    job = make_job(
        num_workers={"min": 1, "max": 3},
        global_batch_size=16,
        rewarmup=None,
        schedule={"name": "constant"},
        train={"num_samples": SIZE, "epochs": 3},
    )
    seed_everything(job.train.seed)
    used: list[int] = []
    epochs: list[int] = []

    def loss(model: nn.Module, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        used.extend((batch[2] % SIZE).tolist())
        epochs.extend((batch[2] // SIZE).tolist())
        return cross_entropy(model(batch[0]), batch[1])

    source = SOURCES[kind]()
    recipe = checked_recipe(
        Recipe(model=nn.Linear(2, 2), train_data=source, sharded=sharded, loss=loss, loss_over="micro_batch"), "r:build"
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
    return {"used": used, "epochs": epochs, "weights": weights_of(recipe.model), "yielded": source.yielded}


def run(folder: Path, world_size: int, kind: str, *, sharded: bool = False, stop: int = NEVER_STOP) -> Any:
    arguments = (str(folder), kind, sharded, stop)
    return [train(0, 1, *arguments)] if world_size == 1 else run_group(train, world_size, *arguments)


@pytest.mark.parametrize(("kind", "uses_state"), [("forward", True), ("sticky", True), ("buffered", False)])
@pytest.mark.parametrize("world_size", [1, 3])
def test_a_resume_continues_at_the_state_if_it_is_exact_and_else_reads_from_the_start(
    tmp_path: Path, kind: str, uses_state: bool, world_size: int
) -> None:
    (whole,) = run(new_folder(tmp_path), 1, kind)
    folder = new_folder(tmp_path)
    (first,) = run(folder, 1, kind, stop=7)  # 100 samples: in the second epoch
    places = checkpoint(folder)["places"]
    assert (places != [None]) == uses_state
    second = run(folder, world_size, kind)
    used = Counter(number for rank in (first, *second) for number in rank["used"])
    assert used == dict.fromkeys(range(SIZE), 3)
    assert second[0]["weights"] == pytest.approx(whole["weights"], abs=1e-6)
    if world_size == 1:
        assert first["used"] + second[0]["used"] == whole["used"]
        read_twice = second[0]["yielded"] - len(second[0]["used"])
        checked = 4 + 12  # samples that the checks before the first step read
        assert (read_twice == checked) if uses_state else (read_twice >= 100 - SIZE + checked)


@pytest.mark.parametrize("kind", ["forward", "by_rank"])
def test_every_worker_reads_its_own_part_and_a_resume_on_as_many_workers_continues_in_it(
    tmp_path: Path, kind: str
) -> None:
    whole = run(new_folder(tmp_path), 2, kind, sharded=True)
    for rank, found in enumerate(whole):
        assert {number % 2 for number in found["used"]} == {rank}, "of its part only"
        assert Counter(found["used"]) == dict.fromkeys(range(rank, SIZE, 2), 3), "the parts are equal here"
    folder = new_folder(tmp_path)
    first = run(folder, 2, kind, sharded=True, stop=6)
    second = run(folder, 2, kind, sharded=True)
    for rank in (0, 1):
        assert first[rank]["used"] + second[rank]["used"] == whole[rank]["used"]
    assert second[0]["weights"] == whole[0]["weights"]


def test_on_another_number_of_workers_the_parts_are_cut_anew(tmp_path: Path) -> None:
    folder = new_folder(tmp_path)
    run(folder, 2, "forward", sharded=True, stop=6)
    second = run(folder, 3, "forward", sharded=True)
    for rank, found in enumerate(second):
        assert {number % 3 for number in found["used"]} == {rank}
        assert set(found["epochs"][1:]) == {2, 3}, "not those that were begun before, but in a check"
    assert sum(len(found["used"]) for found in second) == 3 * SIZE - 84 + 3, "3: of a check before the first step"


def test_the_same_part_on_two_workers_is_refused(tmp_path: Path) -> None:
    for rank in run(new_folder(tmp_path), 2, "whole", sharded=True):
        assert rank["error"] == (
            "sharded = True, but two workers or data-loading processes read the same part of train_data.\n"
            "  For workers, give it a method shard(num_shards, index), or let __iter__ use "
            "torch.distributed.get_rank(). For train.data_workers above 1, let __iter__ use "
            "torch.utils.data.get_worker_info(). Or leave sharded out."
        )


class ByProcess(IterableDataset[Any]):
    """Splits itself among data-loading processes, as torch asks of an ``IterableDataset``."""

    def __len__(self) -> int:
        return 12

    def __iter__(self) -> Iterator[int]:
        process = get_worker_info()
        number, size = (process.id, process.num_workers) if process is not None else (0, 1)
        return iter(range(number, 12, size))


def recipe_of(data: Any) -> Recipe:
    made = Recipe(model=nn.Linear(1, 1), train_data=data, sharded=True, loss=print)
    return checked_recipe(made, "r")


def read(recipe: Recipe, first: int, stop: int) -> list[list[int]]:
    numbers = [torch.arange(3 * batch, 3 * batch + 3) for batch in range(first, stop)]
    found = batches(recipe, recipe.train_data, numbers, data_workers=2, pin=False, seeds=range(stop))
    return [batch.tolist() for batch in found]


def test_processes_read_parts_in_turn_and_a_resume_continues_with_the_one_whose_turn_it_is() -> None:
    whole = read(recipe_of(ByProcess()), 0, 6)
    assert whole == [[0, 2, 4], [1, 3, 5], [6, 8, 10], [7, 9, 11], [0, 2, 4], [1, 3, 5]]
    first, second = recipe_of(ByProcess()), recipe_of(ByProcess())
    assert read(first, 0, 3) == whole[:3]
    second.train_data.load_places([first.train_data.places()])  # type: ignore[union-attr]
    assert read(second, 3, 6) == whole[3:]


def test_processes_with_the_same_part_are_refused() -> None:
    with pytest.raises(RecipeError, match="two workers or data-loading processes read the same part"):
        check_stream(recipe_of(Forward()), world_size=1, data_workers=2)
    check_stream(recipe_of(ByProcess()), world_size=1, data_workers=2)


def test_a_part_without_samples_is_an_error() -> None:
    class Empty(ByProcess):
        def __iter__(self) -> Iterator[int]:
            return iter(())

    with pytest.raises(RecipeError) as caught:
        read(recipe_of(Empty()), 0, 1)
    assert str(caught.value) == (
        "a worker's part of train_data has no samples.\n"
        "  Use fewer workers or train.data_workers, or more shards; or leave scaler.Recipe(sharded=True) out."
    )
