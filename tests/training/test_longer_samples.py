"""Trainings of jobs that count tokens: the same as in samples, samples that become longer, padding that is counted."""

from pathlib import Path
from typing import Any

import pytest
import torch
from groups import run_group
from small_runs import EveryStep, Kept, new_folder, untimed, weights_of
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset

from scaler import Recipe
from scaler.errors import RecipeError
from scaler.job import parse_job
from scaler.plan import make_plan
from scaler.training.checkpoints.files import find_checkpoint
from scaler.training.loop import Training
from scaler.training.randomness import seed_everything
from scaler.training.worker_context import AttemptEnd

SAMPLES, LENGTH, NO_TARGET = 128, 16, -100  # an epoch of the job with longer samples
LONGER = [
    {"at": {"tokens": 200}, "tokens_per_sample": 8},
    {"at": {"tokens": 512}, "tokens_per_sample": 16},
]


class NextToken(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.token, self.head = nn.Embedding(11, 8), nn.Linear(8, 11)
        self.lengths: list[int] = []

    def forward(self, tokens: Tensor) -> Tensor:
        self.lengths.append(tokens.shape[1])
        return self.head(torch.tanh(self.token(tokens)))


class Rows(Dataset[Any]):
    """The same rows, for processes that load them."""

    def __init__(self, tensors: tuple[Tensor, ...]) -> None:
        self._tensors = tensors

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        return tuple(tensor[index] for tensor in self._tensors)


def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    tokens, targets = batch
    total = nn.functional.cross_entropy(
        model(tokens).flatten(0, 1), targets.flatten(), ignore_index=NO_TARGET, reduction="sum"
    )
    return total, (targets != NO_TARGET).sum()


def cut(batch: tuple[Tensor, Tensor], tokens: int) -> tuple[Tensor, Tensor]:
    return batch[0][:, :tokens], batch[1][:, :tokens]


def make_recipe(*, padded: bool = False, rows: bool = False, **parts: Any) -> Recipe:
    generator = torch.Generator().manual_seed(5)
    tokens = torch.randint(0, 11, (SAMPLES, LENGTH), generator=generator)
    targets = (tokens * 3 + 1) % 11
    if padded:
        targets[:, LENGTH // 4 :] = NO_TARGET  # three of four tokens are padding
    data = (tokens, targets)
    return Recipe(
        model=NextToken(),
        train_data=Rows(data) if rows else TensorDataset(*data),
        eval_data=TensorDataset(tokens[:20], targets[:20]),
        loss=loss,
        **{"sequence_length": cut, **parts},
    )


def values_of(unit: str = "tokens", *, scale: dict[str, Any] | None = None, **train: Any) -> dict[str, Any]:
    """Return the same job in tokens or in samples, with samples of 16 tokens."""
    size = LENGTH if unit == "tokens" else 1
    length: dict[str, Any] = {"unit": "tokens", "tokens_per_sample": LENGTH} if unit == "tokens" else {}
    return {
        "name": "t",
        "recipe": "r:build",
        "reference": {"global_batch_size": 2 * size, "lr": 0.02, "optimizer": {"name": "adamw"}},
        "scale": {"global_batch_size": 8 * size, "per_worker_batch_size": 4 * size, **(scale or {})},
        "schedule": {"name": "cosine", "warmup": {unit: 20 * size}},
        "train": {**length, unit: 200 * size, "num_samples": SAMPLES, "eval_every": {unit: 80 * size}} | train,
        "checkpoint": {"every": {unit: 60 * size}},
    }


LONGER_JOB = values_of(
    scale={"global_batch_size": 64, "per_worker_batch_size": 32},
    tokens_per_sample=4,
    sequence_lengths=LONGER,
    tokens=1024,
)
LONGER_JOB["reference"]["global_batch_size"] = 16
LONGER_JOB["schedule"]["warmup"] = {"tokens": 128}


def train(rank: int, world_size: int, folder: str, values: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    """Train one rank, from the newest checkpoint if there is one; up to ``stop_after`` records."""
    torch.set_num_threads(1)
    options = dict(options)
    around = Kept(rank, world_size, folder, stop_after=options.pop("stop_after", 10**9))
    job = parse_job(values, source="job")
    seed_everything(job.train.seed)
    recipe = make_recipe(**options)
    training = Training(recipe, job, make_plan(job, world_size), around)
    training._hand_over.interval = EveryStep()
    saved, _ = find_checkpoint(around.folder)
    if saved is not None:
        training.restore(saved)
    end = training.run()
    assert isinstance(recipe.model, NextToken)
    return {
        "finished": end is AttemptEnd.FINISHED,
        "records": [tuple(record) for record in around.records],
        "evaluations": [event.samples_seen for event in around.events if event.kind == "evaluated"],
        "weights": weights_of(recipe.model),
        "lengths": recipe.model.lengths,
    }


def run(
    tmp_path: Path, values: dict[str, Any], world_size: int = 1, *, folder: Path | None = None, **options: Any
) -> list[dict[str, Any]]:
    arguments = (str(folder or new_folder(tmp_path)), values, options)
    return [train(0, 1, *arguments)] if world_size == 1 else run_group(train, world_size, *arguments)


def test_a_job_in_tokens_trains_as_the_same_job_in_samples_to_the_last_bit(tmp_path: Path) -> None:
    (tokens,), (samples,) = (run(tmp_path, values_of(unit)) for unit in ("tokens", "samples"))
    assert tokens["weights"] == samples["weights"]
    assert untimed(tokens) == untimed(samples)
    assert tokens["evaluations"] == samples["evaluations"] == [80, 160, 200]


@pytest.mark.parametrize("options", [{}, {"rows": True}], ids=["tensors", "one sample after the other"])
def test_a_training_on_longer_samples_keeps_its_tokens(tmp_path: Path, options: dict[str, Any]) -> None:
    (found,) = run(tmp_path, LONGER_JOB, **options)
    records = sorted(found["records"], key=lambda record: record[3])
    weights = {record[2]: record[-1] for record in records}
    assert set(weights.values()) == {64.0}  # every step has its tokens
    steps = [record[7] for record in records]
    assert steps == [16] * 4 + [8] * 4 + [4] * 8  # 256, 256 and 512 tokens, in samples
    assert {length: found["lengths"].count(length) for length in (4, 8)} == {4: 8, 8: 8}  # two micro-batches a step


@pytest.mark.parametrize("stop_after", [2, 6])
def test_a_stop_before_and_after_longer_samples_changes_no_bit(tmp_path: Path, stop_after: int) -> None:
    (whole,) = run(tmp_path, LONGER_JOB)
    folder = new_folder(tmp_path)
    (first,) = run(tmp_path, LONGER_JOB, folder=folder, stop_after=stop_after)
    (second,) = run(tmp_path, LONGER_JOB, folder=folder, rows=True)
    assert (first["finished"], second["finished"]) == (False, True)
    assert second["weights"] == whole["weights"]
    keys = ("samples_seen", "progress", "lr", "lr_planned", "samples", "loss", "weight")
    together, at_once = ([{key: row[key] for key in keys} for row in untimed(part)] for part in (
        {"records": [*first["records"], *second["records"]]}, whole
    ))  # fmt: skip
    assert together == at_once


def test_longer_samples_on_two_workers_are_the_steps_of_one(tmp_path: Path) -> None:
    (one,) = run(tmp_path, LONGER_JOB)
    folder = new_folder(tmp_path)
    run(tmp_path, LONGER_JOB, 2, folder=folder, stop_after=6)
    ranks = run(tmp_path, LONGER_JOB, 2, folder=folder)
    assert all(rank["finished"] for rank in ranks)
    assert ranks[0]["weights"] == ranks[1]["weights"]
    assert ranks[0]["weights"] == pytest.approx(one["weights"], rel=1e-4, abs=1e-6)


def test_data_loaded_ahead_get_the_tokens_of_the_step_that_takes_them(tmp_path: Path) -> None:
    """A process loads batches of the next length before the last one ends."""
    (plain,) = run(tmp_path, LONGER_JOB, rows=True)
    ahead = {**LONGER_JOB, "train": {**LONGER_JOB["train"], "data_workers": 1}}
    (found,) = run(tmp_path, ahead, rows=True)
    assert found["weights"] == plain["weights"]


def test_padding_is_counted_by_its_weight(tmp_path: Path) -> None:
    (found,) = run(tmp_path, values_of(), padded=True)
    weights = [record[-1] for record in found["records"]]
    assert sum(weights) == 200 * LENGTH / 4


@pytest.mark.parametrize(
    ("train", "recipe", "problem", "remedy"),
    [
        (
            {"tokens_per_sample": 8},
            {"tokens_per_sample": LENGTH, "sequence_length": None},
            "train.tokens_per_sample = 8, but the recipe has tokens_per_sample = 16.",
            "Set train.tokens_per_sample to 16, or leave it out.",
        ),
        (
            {"tokens_per_sample": 8, "sequence_lengths": [{"at": {"tokens": 800}, "tokens_per_sample": 16}]},
            {"sequence_length": None},
            "train.sequence_lengths changes the tokens of a sample, and the recipe has no sequence_length.",
            "Add it: scaler.Recipe(sequence_length=lambda batch, tokens: ..., ...).",
        ),
    ],
)
def test_a_recipe_with_other_tokens_is_refused(
    tmp_path: Path, train: dict[str, Any], recipe: dict[str, Any], problem: str, remedy: str
) -> None:
    job = parse_job(values_of(**train), source="job")
    with pytest.raises(RecipeError) as caught:
        Training(make_recipe(**recipe), job, make_plan(job, 1), Kept(0, 1, str(tmp_path)))
    assert (caught.value.problem, caught.value.remedy) == (problem, remedy)
