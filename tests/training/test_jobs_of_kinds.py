"""The jobs that show a stream and detection run, in this process."""

from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import Kept

from scaler.job import load_job
from scaler.metrics.events import data_order
from scaler.plan import make_plan
from scaler.training.loop import Training
from scaler.training.recipe.load import load_recipe

JOBS = Path(__file__).parents[2] / "jobs"


def trained(tmp_path: Path, name: str, samples: int, **arguments: Any) -> Kept:
    torch.set_num_threads(1)
    overrides = ["scale.num_workers=1", "train.epochs=1", f"recipe_args.num_samples={samples}", "train.data_workers=0"]
    job = load_job(JOBS / name / "job.yaml", overrides=overrides)
    assert job.recipe is not None
    recipe = load_recipe(job.recipe, folder=JOBS / name, arguments={**job.recipe_args, **arguments})
    around = Kept(0, 1, str(tmp_path))
    Training(recipe, job, make_plan(job, 1, num_samples=samples), around).run()
    return around


@pytest.mark.parametrize(("sharded", "order"), [(False, "stream"), (True, "shards")])
def test_a_stream_in_full_and_in_parts(tmp_path: Path, sharded: bool, order: str) -> None:
    around = trained(tmp_path, "stream", 320, sharded=sharded)
    assert data_order(around.events) == order
    assert sum(record.samples for record in around.records) == 320
    losses = [record.loss for record in around.records]
    assert losses[-1] < losses[0]


def test_detection_evaluates_two_sets_by_average_precision(tmp_path: Path) -> None:
    around = trained(tmp_path, "detection", 64)
    (evaluated,) = [event.values for event in around.events if event.kind == "evaluated"]
    names = ("loss", "average_precision", "found")
    assert sorted(evaluated) == sorted(f"{name}_{value}" for name in ("few", "many") for value in names)
    assert all(0 <= evaluated[f"{name}_average_precision"] <= 1 for name in ("few", "many"))
