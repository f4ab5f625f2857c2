"""Real trainings whose learning rate was changed in every way that can be replayed: the audit finds no difference."""

from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from scaler.job import Job, dump_job
from scaler.metrics.events import Event
from scaler.metrics.next_attempt import next_attempt
from scaler.metrics.reader import read_run
from scaler.plan import make_plan
from scaler.report.run.model import Report
from scaler.report.run.read import read_report
from scaler.report.run.summary import summarize
from scaler.runs import RunFolder, RunState
from scaler.training.checkpoints.files import find_checkpoint
from scaler.training.loop import Training
from scaler.training.own_loop.group import group_of_processes
from scaler.training.process_context import InProcess
from scaler.training.recipe import Recipe

SAMPLES = 96
SETTINGS = (
    f"train.num_samples={SAMPLES}",
    "train.ema=null",
    "reference.global_batch_size=4",
    "schedule.name=constant",
    "schedule.warmup={samples: 8}",
    "schedule.plateau={metric: loss, mode: max, factor: 0.5, patience: 0, min_factor: 0.01}",  # as good as each time
    "failures.divergence={then: go_back, multiple: null, lr_factor: 0.3}",
    "checkpoint={every: {samples: 24}}",
    "scale.rewarmup={samples: 60}",
)


def train(job: Job, folder: RunFolder, *, diverges_at: int | None = None) -> None:
    """Train one attempt of one worker, with a NaN loss once."""
    calls = 0

    def loss(model: nn.Module, batch: Any) -> torch.Tensor:
        nonlocal calls
        calls += model.training
        value = nn.functional.mse_loss(model(batch[0]), batch[1])
        return value * float("nan") if calls == diverges_at and model.training else value

    torch.manual_seed(0)
    inputs = torch.randn(SAMPLES, 2)
    data = TensorDataset(inputs, inputs.sum(1, keepdim=True))
    recipe = Recipe(
        model=nn.Linear(2, 1),
        train_data=data,
        eval_data=data,
        loss=loss,
        evaluate=lambda model, batch: {"loss": nn.functional.mse_loss(model(batch[0]), batch[1])},
    )
    plan = make_plan(job)
    with closing(InProcess(folder, group=group_of_processes(), device=torch.device("cpu"))) as context:
        training = Training(recipe, job, plan, context)
        start, _ = find_checkpoint(folder)
        context.started(start or 0)
        if start is not None:
            training.restore(start)
        training.run()
    folder.write_json("plan.json", plan.to_dict())


@pytest.fixture
def trained(tmp_path: Path, digits: Callable[..., Job]) -> tuple[RunFolder, Job, Job]:
    """It diverged and went back, finished, and was resumed for longer with four times the batch."""
    (tmp_path / "run").mkdir()
    folder = RunFolder(str(tmp_path / "run"))
    first = digits(*SETTINGS, "scale.per_worker_batch_size=4", "train.epochs=2", workers=1)
    longer = digits(*SETTINGS, "scale.per_worker_batch_size=16", "train.epochs=4", workers=1)
    train(first, folder, diverges_at=30)
    attempt = next_attempt(folder)
    train(longer, folder)
    folder.write("job.yaml", dump_job(first))
    folder.write(f"job-{attempt}.yaml", dump_job(longer))
    folder.set_state(RunState.SUCCEEDED)
    return folder, first, longer


def test_a_training_to_which_everything_happened_has_no_error(trained: tuple[RunFolder, Job, Job]) -> None:
    folder, _, _ = trained
    events = read_run(folder).events
    kinds = [event.kind for event in events]
    assert {"diverged", "lr_lowered"} <= set(kinds)
    assert [event.ramp is None for event in events if event.kind == "attempt_started"] == [True, True, False]
    report = read_report(folder)
    assert (report.lr_audit.max_abs_error, report.lr_audit.as_planned) == (0.0, True)
    assert report.lr_audit.checked_steps > 50
    assert "lr_differs_from_plan" not in [verdict.code for verdict in report.verdicts]


def tampered(folder: RunFolder, first: Job, longer: Job, change: Callable[[Event], Event]) -> Report:
    metrics = read_run(folder)
    events = [change(event) for event in metrics.events]
    assert events != metrics.events
    last = max(event.attempt for event in events if event.kind == "attempt_started")
    return summarize(
        job=first,
        later_jobs={last: longer},
        plan=make_plan(longer),
        status={"run_id": "run", "state": "succeeded"},
        records=metrics.records,
        events=events,
    )


@pytest.mark.parametrize("kind", ["lr_lowered", "attempt_started"])
def test_a_tampered_factor_is_found(trained: tuple[RunFolder, Job, Job], kind: str) -> None:
    def change(event: Event) -> Event:
        if event.kind == kind == "lr_lowered":
            return replace(event, factor=event.factor * 1.01)
        if event.kind == kind and event.ramp is not None:
            return replace(event, ramp={**event.ramp, "factor": event.ramp["factor"] * 1.01})
        return event

    assert not tampered(*trained, change).lr_audit.as_planned


def test_another_factor_of_divergence_in_the_job_is_found(trained: tuple[RunFolder, Job, Job]) -> None:
    folder, first, longer = trained
    divergence = first.failures.divergence
    assert divergence is not None
    failures = first.failures.model_copy(update={"divergence": divergence.model_copy(update={"lr_factor": 0.31})})
    job = first.model_copy(update={"failures": failures})
    assert not tampered(folder, job, longer, lambda event: replace(event, extra={"more": 1})).lr_audit.as_planned
