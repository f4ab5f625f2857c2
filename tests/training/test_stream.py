"""Training data in their own order: iterables, and sources that read ranges."""

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from groups import run_group
from small_runs import EveryStep, Kept, make_job, make_recipe, new_folder, step_losses, weights_of
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from scaler import Recipe
from scaler.errors import RecipeError, ScalerError
from scaler.job import Job, parse_job
from scaler.metrics.events import data_order
from scaler.metrics.record import Record
from scaler.plan import make_plan
from scaler.training.checkpoints.files import find_checkpoint
from scaler.training.data.batches import batches
from scaler.training.data.stream import Ranges, Stream
from scaler.training.loop import Training
from scaler.training.randomness import seed_everything
from scaler.training.recipe.check import checked_recipe
from scaler.training.start_checks.streams import check_stream
from scaler.training.worker_context import AttemptEnd

SIZE = 54  # no multiple of the global batch; no share has a single sample

Sample = tuple[Tensor, int, int]


def sample(epoch: int, index: int) -> Sample:
    return torch.tensor([float(index % 7), float(index % 3)]), index % 2, epoch * SIZE + index


class Source:
    """Samples in their own order; ``kind`` says what is wrong with it.

    It notes how many samples it has read, and for each epoch that is started, which.
    """

    def __init__(self, kind: str = "", *, rank: int = 0, world_size: int = 1) -> None:
        self.kind, self.rank, self.world_size = kind, rank, world_size
        self.epoch, self.read, self.begun = 0, 0, []

    def __len__(self) -> int:
        return SIZE

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch


class Iterated(Source):
    def __iter__(self) -> Iterator[Sample]:
        self.begun.append(self.epoch)
        order = list(range(SIZE + {"longer": 1, "shorter": -3}.get(self.kind, 0)))
        if self.kind == "shuffled":  # by this process's random numbers, in two ways
            random.shuffle(order)
            order = [order[index] for index in torch.randperm(SIZE).tolist()]
        elif self.kind == "split":  # as if scaler did not share the samples
            order = order[self.rank :: self.world_size] + order[: self.rank]
        elif self.kind == "unseeded":
            order = np.random.default_rng().permutation(SIZE).tolist()
        for index in order:
            self.read += 1
            yield sample(self.epoch, index)


class Seekable(Source):
    def read_range(self, start: int, stop: int) -> list[Sample]:
        self.begun.append(self.epoch)
        self.read += stop - start
        return [sample(self.epoch, index) for index in range(start, stop)][: 1 if self.kind == "shorter" else None]


SOURCES = {"stream": Iterated, "ranges": Seekable}


class Noting:
    """A loss that notes the samples of each batch."""

    def __init__(self) -> None:
        self.used: list[int] = []

    def __call__(self, model: nn.Module, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        self.used += batch[2].tolist()
        return nn.functional.cross_entropy(model(batch[0]), batch[1])


def recipe_of(source: Any, loss: Any, **given: Any) -> Recipe:
    model = nn.Linear(2, 2)
    return checked_recipe(
        Recipe(model=model, train_data=source, loss=loss, loss_over="micro_batch", **given), "r:build"
    )


def train(rank: int, world_size: int, folder: str, values: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    torch.set_num_threads(1)
    job = parse_job(values, source="job")
    seed_everything(job.train.seed)
    source = SOURCES[options["source"]](options.get("kind", ""), rank=rank, world_size=world_size)
    loss = Noting()
    recipe = recipe_of(source, loss)
    around = Kept(
        rank, world_size, folder, **({"stop_after": options["stop_after"]} if "stop_after" in options else {})
    )
    try:
        training = Training(recipe, job, make_plan(job, world_size), around)
        training._hand_over.interval = EveryStep()
        saved, _ = find_checkpoint(around.folder)
        if saved is not None:
            training.restore(saved)
        end = training.run()
    except ScalerError as error:
        return {"error": str(error)}
    return {
        "error": None,
        "finished": end is AttemptEnd.FINISHED,
        "records": [tuple(record) for record in around.records],
        "used": loss.used,
        "read": source.read,
        "begun": source.begun,
        "weights": weights_of(recipe.model),
        "order": data_order(around.events),
    }


def job_of(**given: Any) -> Job:
    section = {"num_samples": SIZE, "epochs": 3, "check_data": False, **given.pop("train", {})}
    return make_job(num_workers=1, global_batch_size=16, train=section, **given)


def run(folder: Path, world_size: int, job: Job, **options: Any) -> list[dict[str, Any]]:
    arguments = (str(folder), job.model_dump(), options)
    return [train(0, 1, *arguments)] if world_size == 1 else run_group(train, world_size, *arguments)


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize(("last_batch", "total"), [("scale", 3 * SIZE), ("carry", 160)])
def test_a_step_has_the_same_samples_on_any_number_of_workers(
    tmp_path: Path, source: str, last_batch: str, total: int
) -> None:
    job = job_of(train={"last_batch": last_batch, "epochs": None, "samples": total})
    (alone,) = run(new_folder(tmp_path), 1, job, source=source)
    assert alone["used"] == list(range(total)), "in the source's order, each once an epoch"
    assert alone["order"] == source
    group = run(new_folder(tmp_path), 3, job, source=source)
    assert sorted(number for rank in group for number in rank["used"]) == alone["used"]
    for records in zip(*(rank["records"] for rank in group), strict=True):
        samples = [Record(*record).samples for record in records]
        assert max(samples) - min(samples) <= 1
    assert step_losses(group) == pytest.approx(step_losses([alone]), abs=1e-6)
    assert group[0]["weights"] == pytest.approx(alone["weights"], abs=1e-6)
    read = [rank["read"] for rank in group]
    if source == "stream":
        assert max(read) == total
        assert min(read) > total - 16, "every worker reads all of it"
    else:
        assert sum(read) == total


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("kind", ["", "shuffled"])
def test_a_resume_in_an_epoch_continues_with_the_next_sample(tmp_path: Path, source: str, kind: str) -> None:
    job = job_of()
    (whole,) = run(new_folder(tmp_path), 1, job, source=source, kind=kind)
    folder = new_folder(tmp_path)
    (first,) = run(folder, 1, job, source=source, kind=kind, stop_after=6)
    (second,) = run(folder, 1, job, source=source, kind=kind)
    assert not first["finished"]
    assert len(first["used"]) == SIZE + 2 * 16, "in the second epoch"
    assert second["finished"]
    assert first["used"] + second["used"] == whole["used"]
    assert second["weights"] == whole["weights"]
    assert second["begun"][0] == 1, "set_epoch is called before the epoch is read"
    if kind == "shuffled" and source == "stream":
        assert whole["used"][:SIZE] != list(range(SIZE))
        assert sorted(whole["used"]) == list(range(3 * SIZE))
        assert [number % SIZE for number in whole["used"][:SIZE]] != [n % SIZE for n in whole["used"][SIZE : 2 * SIZE]]


def test_a_shuffle_by_this_process_s_random_numbers_is_the_same_on_every_worker(tmp_path: Path) -> None:
    job = job_of(train={"check_data": True})
    (alone,) = run(new_folder(tmp_path), 1, job, source="stream", kind="shuffled")
    group = run(new_folder(tmp_path), 2, job, source="stream", kind="shuffled")
    assert sorted(number for rank in group for number in rank["used"]) == sorted(alone["used"])
    assert group[0]["weights"] == pytest.approx(alone["weights"], abs=1e-6)


REMEDY = (
    "  Every worker reads the whole iterable and takes its share: yield the same samples in the same order on each, "
    "from recipe_args and set_epoch(epoch) only, and leave the split among workers to scaler. train.check_data: false "
    "trains on it anyway."
)


@pytest.mark.parametrize("kind", ["split", "unseeded"])
def test_an_iterable_that_differs_between_workers_is_refused(tmp_path: Path, kind: str) -> None:
    for rank in run(new_folder(tmp_path), 2, job_of(train={"check_data": True}), source="stream", kind=kind):
        assert rank["error"] == (
            f"train_data differs between workers: sample 0 on rank 1 differs from that on rank 0.\n{REMEDY}"
        )


@pytest.mark.parametrize("data_workers", [0, 1])
@pytest.mark.parametrize(
    ("source", "kind", "text"),
    [
        ("stream", "shorter", "train_data ended after 51 samples of epoch 0, and 54 are stated.\n"),
        ("stream", "longer", "train_data has more than 54 samples in epoch 0, and 54 are stated.\n"),
        ("ranges", "shorter", "train_data.read_range(0, 16) returned 1 samples, not 16.\n"),
    ],
)
def test_another_number_of_samples_than_stated_is_an_error(
    tmp_path: Path, source: str, kind: str, text: str, data_workers: int
) -> None:
    job = job_of(train={"data_workers": data_workers})
    (rank,) = run(new_folder(tmp_path), 1, job, source=source, kind=kind)
    assert rank["error"].startswith(text)
    remedies = {
        "stream": "  Every epoch must have the number in len(train_data) or scaler.Recipe(num_samples=...).",
        "ranges": "  It must return the samples of that range; an epoch has 54.",
    }
    assert rank["error"].splitlines()[1] == remedies[source]


@pytest.mark.parametrize(("source", "data_workers"), [("stream", 1), ("ranges", 2)])
def test_separate_processes_read_ahead(tmp_path: Path, source: str, data_workers: int) -> None:
    (here,) = run(new_folder(tmp_path), 1, job_of(), source=source)
    (apart,) = run(new_folder(tmp_path), 1, job_of(train={"data_workers": data_workers}), source=source)
    assert apart["used"] == here["used"]
    assert apart["weights"] == here["weights"]
    assert apart["read"] == 0, "not in this process"


def test_several_processes_for_an_iterable_are_refused(tmp_path: Path) -> None:
    (rank,) = run(new_folder(tmp_path), 1, job_of(train={"data_workers": 2}), source="stream")
    assert rank["error"] == (
        "train.data_workers = 2, but train_data is an iterable, which one process reads.\n"
        "  Set train.data_workers to 1, or give train_data a method read_range(start, stop)."
    )


@pytest.mark.parametrize("kind", SOURCES)
@pytest.mark.parametrize("world_size", [1, 2])
def test_eval_data_may_be_in_its_own_order(tmp_path: Path, kind: str, world_size: int) -> None:
    results = (
        [evaluated(0, 1, str(tmp_path), kind)]
        if world_size == 1
        else run_group(evaluated, world_size, str(tmp_path), kind)
    )
    for values in results[:1]:  # rank 0 has the events
        assert values == pytest.approx([sum(range(SIZE)) / SIZE] * 3), "every sample once, at each evaluation"


def evaluated(rank: int, world_size: int, folder: str, kind: str) -> list[float]:
    torch.set_num_threads(1)
    job = job_of(train={"num_samples": 250, "eval_every": {"epochs": 1}})
    data = SOURCES[kind]()
    recipe = replace(make_recipe(), eval_data=data, evaluate=lambda model, batch: {"mean": batch[2].double().mean()})
    around = Kept(rank, world_size, folder)
    Training(checked_recipe(recipe, "r:build"), job, make_plan(job, world_size), around).run()
    return [event.values["mean"] for event in around.events if event.kind == "evaluated"]


class Plain(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        return iter([1.0])


class Split:
    """What tells a Ray Dataset from other data."""

    def streaming_split(self, n: int) -> list[Any]:
        return [self] * n


@pytest.mark.parametrize(
    ("data", "given", "text"),
    [
        (Plain(), {}, "train_data is a Plain without len().\n  State the samples of an epoch: scaler.Recipe("
         "num_samples=...)."),
        (Iterated(), {"num_samples": 7}, "num_samples = 7, but len(train_data) is 54.\n  Leave num_samples out."),
        (Plain(), {"num_samples": 0}, "num_samples = 0.\n  It must be a number of samples, 1 or more."),
        (DataLoader([1.0]), {}, "train_data is a DataLoader, which yields batches.\n  Give its dataset: "
         "train_data=loader.dataset."),
        (3, {}, "train_data is an int.\n  Give a map-style dataset (len() and [index]), an object with "
         "read_range(start, stop), or an iterable that starts a new epoch at each iter()."),
        (Split(), {"num_samples": 9}, "train_data is a Ray Dataset, whose split among workers depends on their number."
         "\n  Write it once and read the files: dataset.write_parquet(folder). docs/data-sources.md has a class that "
         "reads them, and says what an iterable over dataset.iter_rows() needs."),
        (torch.ones(3), {"eval_data": Plain()}, "eval_data is a Plain without len().\n  State the samples of an epoch: "
         "a method __len__."),
    ],
)  # fmt: skip
def test_the_whole_text_of_each_refusal(data: Any, given: dict[str, Any], text: str) -> None:
    with pytest.raises(RecipeError) as caught:
        recipe_of(data, lambda model, batch: model(batch).mean(), **given)
    assert str(caught.value) == f"r:build: {text}"


def test_random_numbers_of_a_stream_are_separate_from_those_of_this_process() -> None:
    recipe = recipe_of(Iterated("shuffled"), lambda model, batch: model(batch[0]).mean())
    seed_everything(5)
    before = random.random(), float(torch.rand(1)), float(np.random.rand())
    seed_everything(5)
    list(batches(recipe, recipe.train_data, [torch.arange(4)], data_workers=0, pin=False, seed=1))
    assert (random.random(), float(torch.rand(1)), float(np.random.rand())) == before


def test_ranges_are_read_in_as_few_calls_as_there_are_runs_of_numbers() -> None:
    source = Seekable()
    data = Ranges(source, SIZE, name="train_data")
    numbers = [3, 4, 5, 9, 53, 54, 55]
    assert [found[2] for found in data.__getitems__(numbers)] == numbers
    assert source.begun == [0, 0, 0, 1], "the epoch of each call"


def test_a_stream_that_is_asked_for_an_earlier_sample_starts_again() -> None:
    reading = Stream(Iterated(), SIZE, name="train_data").reading(seed=0)
    assert [found[2] for found in reading.samples([5, 2])] == [5, 2]


DOC = Path(__file__).parents[2] / "docs" / "data-sources.md"


def documented(name: str) -> dict[str, Any]:
    """Return what the block of the documentation that defines a class defines."""
    blocks = [block.split("```")[0] for block in DOC.read_text(encoding="utf-8").split("```python\n")[1:]]
    names: dict[str, Any] = {"torch": torch}
    exec(next(block for block in blocks if f"class {name}" in block), names)
    return names


def test_the_class_of_the_documentation_continues_at_its_state(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    path.write_bytes(b"".join(b"%d\n" % number for number in range(30)))
    recipe, again = (recipe_of(documented("Lines")["Lines"](path, 30), lambda model, batch: 0.0) for _ in range(2))
    for made in (recipe, again):
        check_stream(made, world_size=1, data_workers=0)
        assert made.train_data.uses_state

    def read(made: Recipe, start: int, stop: int) -> list[int]:
        numbers = torch.arange(start, stop).split(7)
        found = batches(made, made.train_data, numbers, data_workers=0, pin=False, seeds=range(20))
        return [int(line) for batch in found for line in batch]

    assert read(recipe, 0, 42) == [*range(30), *range(12)]
    again.train_data.load_places([recipe.train_data.places()])
    assert read(again, 42, 70) == [*range(12, 30), *range(10)]


def test_the_class_of_the_documentation_reads_parquet_files_as_ranges(tmp_path: Path) -> None:
    names = documented("ParquetSamples")
    rows = [{"x": [float(number)], "y": number} for number in range(23)]
    paths = [str(tmp_path / name) for name in ("a.parquet", "b.parquet")]
    pq.write_table(pa.Table.from_pylist(rows[:10]), paths[0], row_group_size=4)
    pq.write_table(pa.Table.from_pylist(rows[10:]), paths[1], row_group_size=6)
    recipe = recipe_of(names["ParquetSamples"](reversed(paths)), lambda model, batch: model(batch[0]).mean())
    assert isinstance(recipe.train_data, Ranges)
    assert len(recipe.train_data) == 23
    for numbers in (range(23), range(3, 9), range(8, 19), range(22, 26), [5]):
        assert [label for _, label in recipe.train_data.__getitems__(list(numbers))] == [n % 23 for n in numbers]
