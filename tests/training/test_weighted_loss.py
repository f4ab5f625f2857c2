"""A loss that returns ``(sum, weight)`` is recorded, checked, drawn and reported by its weight."""

from typing import Any

import numpy as np
import pytest
import torch
from groups import run_group
from small_runs import Kept, records_of
from synthetic import Tables, records_table
from torch import Tensor, nn
from torch.utils.data import Dataset

from scaler import Recipe
from scaler.cluster.progress import ProgressTracker
from scaler.job import Job, parse_job
from scaler.metrics.curves import Curves
from scaler.metrics.record import Record
from scaler.plan import make_plan
from scaler.report.run.model import Report
from scaler.report.run.summary import summarize
from scaler.training.loop import Training
from scaler.training.recorder import merge_steps

SAMPLES = 64
BATCH = 16
ENDS = [(1, 1), (2, 1), (3, 1), (1, 4), (2, 3)]  # workers, micro-steps


class Ragged(Dataset[Any]):
    """Every other sample is a single row far away, the others are forty rows near 0; one in eight has no row."""

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, index: int) -> tuple[Tensor, float]:
        rows = 0 if index % 8 == 3 else 40 if index % 2 else 1
        return torch.ones(rows, 2), 0.1 if index % 2 else 100.0


def squared_error(model: nn.Module, batch: list[tuple[Tensor, float]]) -> tuple[Tensor, Tensor]:
    rows = torch.cat([inputs for inputs, _ in batch])
    levels = torch.cat([torch.full((len(inputs), 1), level) for inputs, level in batch])
    return ((model(rows) - levels) ** 2).sum(), torch.tensor(float(len(rows)))


def make_job(micro_steps: int, world_size: int) -> Job:
    return parse_job(
        {
            "name": "t",
            "recipe": "r:build",
            "reference": {"global_batch_size": BATCH, "lr": 1e-12, "optimizer": {"name": "sgd"}},
            "scale": {
                "num_workers": world_size,
                "global_batch_size": BATCH,
                "per_worker_batch_size": -(-BATCH // (world_size * micro_steps)),
            },
            "schedule": {"name": "constant"},
            "train": {"epochs": 2, "num_samples": SAMPLES},
        },
        source="job",
    )


def train(rank: int, world_size: int, folder: str, micro_steps: int) -> dict[str, Any]:
    """Train one rank at a learning rate of almost 0; also return the losses that the guard got."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    job, around = make_job(micro_steps, world_size), Kept(rank, world_size, folder)
    model = nn.Linear(2, 1)
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)
    recipe = Recipe(model=model, train_data=Ragged(), loss=squared_error, collate=list)
    shapes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    training = Training(recipe, job, make_plan(job, world_size, parameters=shapes), around)
    add_losses, checked = training._run.controllers.add_losses, []
    training._run.controllers.add_losses = lambda losses: checked.extend(losses) or add_losses(losses)  # type: ignore[method-assign,func-returns-value]
    training.run()
    return {"records": [tuple(record) for record in around.records], "events": around.events, "checked": checked}


@pytest.fixture(scope="module", params=ENDS, ids=lambda ends: f"{ends[0]} workers, {ends[1]} micro-steps")
def ranks(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    (world_size, micro_steps), folder = request.param, str(tmp_path_factory.mktemp("run"))
    if world_size == 1:
        return [train(0, 1, folder, micro_steps)]
    return run_group(train, world_size, folder, micro_steps)


def true_loss(samples: list[int]) -> float:
    """Return sums over weights, of rows at the initial weights, which are 0."""
    rows = [(len(inputs), level**2) for inputs, level in map(Ragged().__getitem__, samples)]
    return sum(count * square for count, square in rows) / sum(count for count, _ in rows)


EPOCH = true_loss(list(range(SAMPLES)))
ROWS = sum(len(Ragged()[index][0]) for index in range(SAMPLES))


def report_of(records: list[Record], ranks: list[dict[str, Any]]) -> Report:
    job = make_job(1, len(ranks))
    status = {"run_id": "t-1", "state": "succeeded", "started_at": None, "ended_at": None}
    events = [event for rank in ranks for event in rank["events"]]
    plan = make_plan(job, len(ranks))
    return summarize(job=job, plan=plan, status=status, records=Tables((records_table(records),)), events=events)


def test_a_step_s_records_have_the_sums_over_the_weights(ranks: list[dict[str, Any]]) -> None:
    records = records_of(ranks)
    for seen in {record.samples_seen for record in records}:
        step = [record for record in records if record.samples_seen == seen]
        assert all((record.loss is None) == (record.weight == 0) for record in step)
        assert all(record.weight is not None and record.loss_weight == record.weight for record in step)
    assert sum(record.loss_weight for record in records) == 2 * ROWS
    total = sum(record.loss * record.loss_weight for record in records if record.loss is not None)
    assert total / sum(record.loss_weight for record in records) == pytest.approx(EPOCH, rel=1e-6)


@pytest.mark.parametrize("merged", [1, 3])
def test_the_report_s_loss_is_the_epoch_s_however_records_are_merged(ranks: list[dict[str, Any]], merged: int) -> None:
    """Workers, micro-steps and merged records do not change the number: the mean over rows, not over samples."""
    records = [
        row for rank in ranks for epoch in (0, 1) for row in merge_steps(records_of([rank])[4 * epoch :][:4], merged)
    ]
    report = report_of(records, ranks)
    assert report.final.train_loss_mean == pytest.approx(EPOCH, rel=1e-6)
    means, weights = np.array(report.series.loss_mean), np.array(report.series.loss_weight)
    assert (means * weights).sum() / weights.sum() == pytest.approx(EPOCH, rel=1e-6)
    assert [verdict.code for verdict in report.verdicts] == [], "a rank without a row has no loss that could be missing"


def test_the_guard_the_live_display_and_the_curves_see_each_step_by_weight(ranks: list[dict[str, Any]]) -> None:
    report = report_of(records_of(ranks), ranks)
    steps = pytest.approx(report.series.loss_mean, rel=1e-6)
    assert max(ranks[0]["checked"]) < 2000, "by samples, a single row of 100 squared counts as much as forty"
    assert [rank["checked"] for rank in ranks] == [ranks[0]["checked"]] * len(ranks)
    assert ranks[0]["checked"] == steps
    curves, tracker = Curves(), ProgressTracker()
    for event in ranks[0]["events"]:
        curves.add_event(event)
        tracker.add([], [event])
    for rank in ranks:
        curves.add(records_of([rank]))
        tracker.add(records_of([rank]), [])
    drawn = [point.values["train/loss_mean"] for point in curves.take(to_the_end=True)]
    assert drawn == steps
    assert tracker.progress().loss_mean == pytest.approx(drawn[-1], rel=1e-9)
