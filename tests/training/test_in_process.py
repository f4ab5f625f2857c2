"""One worker in this process: what its run folder says."""

from pathlib import Path

import pytest

from scaler.errors import RecipeError
from scaler.job import dump_job, load_job
from scaler.metrics.reader import read_events
from scaler.plan import make_plan
from scaler.report.run.write import write_report
from scaler.runs import RunFolder, RunState
from scaler.training.in_process import train_in_process

JOB = """
name: dying
recipe: recipe_dying:build
reference: {global_batch_size: 8, lr: 0.1, optimizer: {name: sgd}}
scale: {num_workers: 1, per_worker_batch_size: 8}
train: {epochs: 1, num_samples: 64}
"""

RECIPE = """
import torch
from torch.utils.data import TensorDataset

from scaler import Recipe


def build():
    data = TensorDataset(torch.zeros(32, 2))
    return Recipe(model=torch.nn.Linear(2, 1), train_data=data, loss=lambda model, batch: model(batch[0]).mean())
"""


def test_an_attempt_that_ends_before_its_first_step_has_a_row_in_the_report(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(JOB)
    (tmp_path / "recipe_dying.py").write_text(RECIPE)
    (tmp_path / "run").mkdir()
    job, folder = load_job(tmp_path / "job.yaml"), RunFolder(str(tmp_path / "run"))
    plan = make_plan(job)
    folder.write("job.yaml", dump_job(job))
    folder.write_json("plan.json", plan.to_dict())
    folder.set_state(RunState.RUNNING, started_at=0.0)
    with pytest.raises(RecipeError, match="32"):
        train_in_process(job, plan, folder, recipe_folder=tmp_path, on_hand_over=lambda records, events: None)
    folder.set_state(RunState.FAILED, failure="32 samples")
    (started,) = read_events(folder)
    assert (started.kind, started.world_size, started.start_samples) == ("worker_started", 1, 0)
    (attempt,) = write_report(folder).attempts
    assert (attempt.attempt, attempt.world_size, attempt.ended_by) == (0, 1, "failed")
    assert (attempt.start_samples, attempt.end_samples, attempt.global_batch_size) == (0, 0, 8)
