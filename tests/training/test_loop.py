"""Whole runs through the real loop, in groups of real processes."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from groups import run_group
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset

from scaler import Recipe
from scaler.errors import RecipeError
from scaler.job import Job, parse_job
from scaler.metrics.record import Record
from scaler.plan import make_plan
from scaler.runs import RunFolder
from scaler.training.checkpoint import latest_checkpoint
from scaler.training.loop import Training, seed_everything

SAMPLES = 250  # no multiple of any batch below


class Kept:
    """Surroundings that keep everything in memory."""

    device = torch.device("cpu")

    def __init__(self, rank: int, world_size: int, folder: str, *, stop_after: int | None = None) -> None:
        self.rank, self.world_size, self.folder, self.attempt = rank, world_size, RunFolder(folder), 0
        self.records: list[Record] = []
        self.events: list[Mapping[str, Any]] = []
        self._stop_after = stop_after

    def hand_over(self, records: Sequence[Record], events: Sequence[Mapping[str, Any]]) -> None:
        self.records.extend(records)
        self.events.extend(events)

    def next_attempt(self) -> int:
        return self.attempt + 1

    def settle(self) -> None:
        """Handed over is arrived."""

    def stop_requested(self) -> bool:
        return self._stop_after is not None and len(self.records) >= self._stop_after


class Seen(Dataset[Any]):
    """The same data sample by sample, noting each index that is asked for."""

    def __init__(self, tensors: tuple[Tensor, Tensor]) -> None:
        self.tensors, self.asked = tensors, []

    def __len__(self) -> int:
        return len(self.tensors[0])

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        self.asked.append(index)
        return self.tensors[0][index], self.tensors[1][index]


def make_recipe(*, counted: bool = False, loss: Any = None, norm: bool = False) -> Recipe:
    generator = torch.Generator().manual_seed(3)
    inputs = torch.randn(SAMPLES, 6, generator=generator)
    labels = (inputs.sum(1) > 0).long()
    data: Dataset[Any] = Seen((inputs, labels)) if counted else TensorDataset(inputs, labels)
    return Recipe(
        model=nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16) if norm else nn.Tanh(), nn.Linear(16, 2)),
        train_data=data,
        eval_data=TensorDataset(inputs[:101], labels[:101]),
        loss=loss or (lambda model, batch: nn.functional.cross_entropy(model(batch[0]), batch[1])),
        evaluate=lambda model, batch: {"accuracy": (model(batch[0]).argmax(1) == batch[1]).float().mean()},
    )


def make_job(**scale: Any) -> Job:
    overrides = scale.pop("train", {})
    return parse_job(
        {
            "name": "t",
            "recipe": "r:build",
            "reference": {"global_batch_size": 16, "lr": 0.05, "optimizer": {"name": "sgd", "momentum": 0.9}},
            "scale": scale,
            "schedule": {"name": "cosine", "warmup": {"epochs": 1}},
            "train": {"epochs": 3, "num_samples": SAMPLES, **overrides},
        },
        source="job",
    )


def train(
    rank: int, world_size: int, folder: str, job: dict[str, Any], counted: bool = False, norm: bool = False
) -> dict[str, Any]:
    """Train one rank to the end; everything a test may ask about."""
    parsed = parse_job(job, source="job")
    seed_everything(parsed.train.seed)
    recipe = make_recipe(counted=counted, norm=norm)
    around = Kept(rank, world_size, folder)
    plan = make_plan(parsed, world_size)
    assert Training(recipe, parsed, plan, around).run()
    weights = torch.cat([parameter.detach().flatten() for parameter in recipe.model.parameters()])
    return {
        "records": [tuple(record) for record in around.records],
        "events": around.events,
        "weights": weights.tolist(),
        "buffers": [buffer.tolist() for buffer in recipe.model.buffers()],
        "asked": recipe.train_data.asked if isinstance(recipe.train_data, Seen) else None,
    }


def run(tmp_path: Path, world_size: int, job: Job, **options: Any) -> list[dict[str, Any]]:
    folder = tmp_path / f"w{world_size}-{len(list(tmp_path.iterdir()))}"
    folder.mkdir()
    counted, norm = options.get("counted", False), options.get("norm", False)
    return run_group(train, world_size, str(folder), job.model_dump(), counted, norm)


def records_of(ranks: list[dict[str, Any]]) -> list[Record]:
    return [Record(*record) for rank in ranks for record in rank["records"]]


def step_losses(ranks: list[dict[str, Any]]) -> list[float]:
    """The mean loss of each step, over ranks, weighted by samples."""
    steps: dict[int, list[Record]] = {}
    for record in records_of(ranks):
        steps.setdefault(record.step, []).append(record)
    return [
        sum(r.loss * r.samples for r in steps[step] if r.loss is not None) / sum(r.samples for r in steps[step])
        for step in sorted(steps)
    ]


def accuracies(ranks: list[dict[str, Any]]) -> list[float]:
    return [event["values"]["accuracy"] for event in ranks[0]["events"] if event["kind"] == "evaluated"]


def test_the_same_global_batch_gives_the_same_run_however_it_is_made(tmp_path: Path) -> None:
    """1 x 128, 2 x 64, 1 x 64 with two micro-steps, and 3 workers that do not divide 128: one run."""
    one = run(tmp_path, 1, make_job(num_workers=1, per_worker_batch_size=128))
    others = [
        run(tmp_path, 2, make_job(num_workers=2, per_worker_batch_size=64)),
        run(tmp_path, 1, make_job(num_workers=1, per_worker_batch_size=64, grad_accum_steps=2)),
        run(tmp_path, 3, make_job(num_workers=3, global_batch_size=128, per_worker_batch_size=30)),
    ]
    expected = step_losses(one)
    assert len(expected) == 6  # 3 epochs of 128 and 122
    for other in others:
        assert step_losses(other) == pytest.approx(expected, abs=1e-4)
        assert other[0]["weights"] == pytest.approx(one[0]["weights"], abs=1e-4)
        assert accuracies(other) == pytest.approx(accuracies(one), abs=1e-6)


def test_one_model_is_evaluated_and_saved_also_with_batch_norm(tmp_path: Path) -> None:
    """Each rank has statistics of its own shares; rank 0's are saved, so everyone must evaluate with rank 0's."""
    ranks = run(tmp_path, 2, make_job(num_workers=2, per_worker_batch_size=32), norm=True)
    assert ranks[0]["buffers"] == ranks[1]["buffers"]
    newest = sorted(tmp_path.glob("*/checkpoints/*.pt"))[-1]
    saved = torch.load(newest, weights_only=True)["model"]
    assert saved["1.running_mean"].tolist() == ranks[0]["buffers"][0]


def test_every_rank_ends_with_the_same_bits(tmp_path: Path) -> None:
    ranks = run(tmp_path, 3, make_job(num_workers=3, per_worker_batch_size=7))
    assert ranks[0]["weights"] == ranks[1]["weights"] == ranks[2]["weights"]


def test_each_sample_is_used_exactly_once_an_epoch(tmp_path: Path) -> None:
    ranks = run(tmp_path, 3, make_job(num_workers=3, per_worker_batch_size=16), counted=True)
    asked = [rank["asked"] for rank in ranks]
    per_epoch = [[], [], []]
    for indices, rank in zip(asked, ranks, strict=True):
        position = 0
        for record in (Record(*record) for record in rank["records"]):
            per_epoch[record.samples_seen // SAMPLES] += indices[position : position + record.samples]
            position += record.samples
        assert position == len(indices), "nothing was fetched that was not counted"
    for epoch in per_epoch:
        assert sorted(epoch) == list(range(SAMPLES))
    assert per_epoch[0] != per_epoch[1], "each epoch has an order of its own"


def test_the_recorded_rate_is_the_planned_one_to_the_last_bit(tmp_path: Path) -> None:
    job = make_job(num_workers=2, per_worker_batch_size=32)
    plan = make_plan(job, 2)
    records = records_of(run(tmp_path, 2, job))
    assert len(records) == 2 * plan.total_steps
    assert all(record.lr == plan.lr_at(record.samples_seen) for record in records)


def test_two_identical_runs_give_identical_losses(tmp_path: Path) -> None:
    job = make_job(num_workers=2, per_worker_batch_size=32)
    first, second = run(tmp_path, 2, job), run(tmp_path, 2, job)
    assert step_losses(first) == step_losses(second)
    assert first[0]["weights"] == second[0]["weights"]


def test_another_seed_gives_another_run(tmp_path: Path) -> None:
    job = make_job(num_workers=1, per_worker_batch_size=32)
    other = make_job(num_workers=1, per_worker_batch_size=32, train={"seed": 1})
    assert step_losses(run(tmp_path, 1, job)) != step_losses(run(tmp_path, 1, other))


def test_a_global_batch_smaller_than_the_group_trains(tmp_path: Path) -> None:
    small = make_job(num_workers=3, global_batch_size=2, train={"epochs": 0.1})
    alone = make_job(num_workers=1, global_batch_size=2, train={"epochs": 0.1})
    ranks = run(tmp_path, 3, small)
    assert step_losses(ranks) == pytest.approx(step_losses(run(tmp_path, 1, alone)), abs=1e-5)
    assert {record.samples for record in records_of(ranks) if record.rank == 2} == {0}


def test_the_times_of_a_step_add_up_to_no_more_than_the_step(tmp_path: Path) -> None:
    for record in records_of(run(tmp_path, 2, make_job(num_workers=2, per_worker_batch_size=64))):
        parts = (record.data_wait_s, record.compute_s, record.sync_wait_s)
        assert all(part >= 0 for part in parts)
        assert sum(parts) <= record.step_time_s


def in_this_process(tmp_path: Path, recipe: Recipe, job: Job, **options: Any) -> tuple[Training, Kept]:
    around = Kept(0, 1, str(tmp_path), **options)
    return Training(recipe, job, make_plan(job, 1), around), around


def test_a_resumed_run_equals_one_that_was_never_stopped(tmp_path: Path) -> None:
    job = make_job(num_workers=1, per_worker_batch_size=64, train={"eval_every": {"epochs": 1}})
    (tmp_path / "calm").mkdir()
    (tmp_path / "stopped").mkdir()
    seed_everything(0)
    calm = make_recipe()
    assert in_this_process(tmp_path / "calm", calm, job)[0].run()

    seed_everything(0)
    training, around = in_this_process(tmp_path / "stopped", make_recipe(), job, stop_after=5)
    assert not training.run()
    stopped_at = training.samples_seen
    assert 0 < stopped_at < 3 * SAMPLES
    assert latest_checkpoint(around.folder) == stopped_at

    seed_everything(99)  # what the recipe builds now is overwritten by the checkpoint
    resumed = make_recipe()
    training, _ = in_this_process(tmp_path / "stopped", resumed, job)
    training.restore(stopped_at)
    assert training.run()
    for ours, theirs in zip(resumed.model.parameters(), calm.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_checkpoints_are_kept_as_many_as_asked_for(tmp_path: Path) -> None:
    job = make_job(num_workers=1, per_worker_batch_size=64)
    training, around = in_this_process(tmp_path, make_recipe(), job)
    training.run()
    assert around.folder.names("checkpoints") == [f"{samples:015d}.pt" for samples in (500, 750)]


def test_a_wrong_number_of_samples_is_refused_with_the_right_one(tmp_path: Path) -> None:
    job = make_job(num_workers=1, per_worker_batch_size=64, train={"num_samples": 300})
    with pytest.raises(RecipeError) as caught:
        in_this_process(tmp_path, make_recipe(), job)
    assert str(caught.value) == (
        "train.num_samples = 300, but the recipe's train_data has 250 samples.\n"
        "  Set train.num_samples to 250, or leave it out."
    )


def test_what_was_measured_before_an_error_is_handed_over(tmp_path: Path) -> None:
    calls = 0

    def fails_at_the_fourth(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise ZeroDivisionError
        return nn.functional.cross_entropy(model(batch[0]), batch[1])

    job = make_job(num_workers=1, per_worker_batch_size=64)
    training, around = in_this_process(tmp_path, make_recipe(loss=fails_at_the_fourth), job)
    with pytest.raises(ZeroDivisionError):
        training.run()
    assert [record.step for record in around.records] == [0, 1, 2]


def test_clipping_comes_after_the_gradient_is_whole(tmp_path: Path) -> None:
    clipped = make_job(num_workers=1, per_worker_batch_size=64, train={"clip_grad_norm": 1e-3, "epochs": 0.5})
    seed_everything(0)
    recipe = make_recipe()
    before = [parameter.detach().clone() for parameter in recipe.model.parameters()]
    training, around = in_this_process(tmp_path, recipe, clipped)
    training.run()
    first, second = around.records[0], around.records[1]
    assert first.grad_norm > 0.01, "the recorded norm is that before clipping"
    moved = torch.cat([(b - p).flatten() for b, p in zip(before, recipe.model.parameters(), strict=True)]).norm()
    assert moved <= (first.lr + second.lr * 1.9) * 1e-3 * 1.0001, "two steps of momentum 0.9 on gradients of norm 1e-3"


def test_bf16_trains_and_keeps_weights_in_fp32(tmp_path: Path) -> None:
    job = make_job(num_workers=1, per_worker_batch_size=64, train={"precision": "bf16"})
    recipe = make_recipe()
    training, around = in_this_process(tmp_path, recipe, job)
    training.run()
    assert around.records[-1].loss < around.records[0].loss
    assert {parameter.dtype for parameter in recipe.model.parameters()} == {torch.float32}
