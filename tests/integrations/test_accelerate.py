"""Trainings with accelerate are runs: plan, records and report, at one and at two processes."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator, DataLoaderConfiguration
from accelerate.state import AcceleratorState, GradientState
from groups import run_group
from page import run_script
from small_data import (
    SAMPLES,
    Data,
    announce,
    job,
    network,
    records_of,
    require_continued,
    require_whole_report,
    weights_of,
)
from torch.nn.functional import mse_loss
from torch.utils.data import DataLoader

import scaler
from scaler.errors import JobFileError, TrainingError
from scaler.integrations.accelerate import prepare

ENDS_EARLY = {"train": {"epochs": 3, "stop_after": {"samples": 80}}}


def train(
    folder: str,
    *,
    accumulation: int = 2,
    checkpoint: str | None = None,
    changes: Any = None,
    split: bool = False,
    even: bool = True,
) -> dict[str, Any]:
    """Train as a script does; a checkpoint is written after five and after ten steps."""
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    accelerator = Accelerator(
        cpu=True,
        gradient_accumulation_steps=accumulation,
        dataloader_config=DataLoaderConfiguration(split_batches=split, even_batches=even),
    )
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    loader = DataLoader(Data(), batch_size=4 * accelerator.num_processes if split else 4)
    run, model, optimizer, loader = prepare(
        accelerator, job(**(changes or {})), model, optimizer, loader, storage=folder
    )
    scheduler = accelerator.prepare(run.scheduler(optimizer.optimizer))
    evaluation = accelerator.prepare(DataLoader(Data(), batch_size=40))
    first, taken = loader, 0
    if checkpoint is not None:
        accelerator.load_state(checkpoint)
        done = run.samples_seen % SAMPLES // (run.batch_size * accelerator.num_processes)
        first = run.prepare(accelerator.skip_first_batches(loader.loader, done))
    while not run.is_over:
        for x, y in first:
            with accelerator.accumulate(model):
                loss = mse_loss(model(x), y)
                scaler.record(loss=loss)
                accelerator.backward(loss)
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()
            if accelerator.sync_gradients:
                taken += 1
                assert scheduler.get_last_lr() == [optimizer.param_groups[0]["lr"]]
                if checkpoint is None and taken in (5, 10):
                    accelerator.save_state(f"{folder}/step-{taken}")
        first = loader
        errors = []
        with torch.no_grad():
            for x, y in evaluation:
                errors.append(accelerator.gather_for_metrics((model(x) - y) ** 2))
        run.evaluated(error=float(torch.cat(errors).mean()), gathered=len(torch.cat(errors)))
    run.finish()
    return {"run": run.state_dict()["run"], "weights": weights_of(model)}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A training in one process: 8 samples a step, in two micro-batches."""
    return train(str(tmp_path_factory.mktemp("alone")))


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """In two processes: the same training, and one that continues that of one process in the middle of its warmup."""
    folder = tmp_path_factory.mktemp("both")
    train(str(folder / "one"), changes=ENDS_EARLY)
    return {"folder": folder, **run_group(_in_two, 2, str(folder))[0]}


def _in_two(rank: int, world_size: int, folder: str) -> dict[str, Any]:
    announce(rank, world_size)
    train(f"{folder}/two", accumulation=1, changes=ENDS_EARLY)
    with pytest.raises(TrainingError, match="the processes get 12, 11 batches in an epoch"):
        train(f"{folder}/uneven", accumulation=1, even=False)
    return {
        "whole": train(f"{folder}/whole", accumulation=1),
        "split": train(f"{folder}/split", accumulation=1, split=True),
        "continued": train(f"{folder}/one", checkpoint=f"{folder}/one/step-5"),
    }


def test_a_training_has_the_learning_rates_of_the_plan_and_a_whole_report(alone: dict[str, Any]) -> None:
    report = require_whole_report(alone["run"], samples=3 * SAMPLES)
    run, rows = scaler.read_run(alone["run"]), records_of(alone["run"])
    assert (run.plan.global_batch_size, run.plan.grad_accum_steps, report.totals.steps) == (8, 2, 36)
    assert [row["samples"] for row in rows[:12]] == [8] * 11 + [2]
    assert [row["lr"] for row in rows[:11]] == pytest.approx([run.plan.lr_at(8 * step) for step in range(11)])
    assert report.final.eval["gathered"] == SAMPLES


@pytest.mark.parametrize("kind", ["whole", "split"])
def test_two_processes_train_as_one(alone: dict[str, Any], both: dict[str, Any], kind: str) -> None:
    """But for the epoch's last step: accelerate fills it up, and takes 8 samples where one process has 2."""
    report = require_whole_report(both[kind]["run"], samples=3 * 96 - 16)
    assert len(report.workers) == 2
    assert report.final.eval["gathered"] == SAMPLES
    lone, pair = records_of(alone["run"]), records_of(both[kind]["run"])
    for step in range(11):
        mine = [row for row in pair if row["step"] == step]
        assert sum(row["loss"] for row in mine) / 2 == pytest.approx(lone[step]["loss"], rel=1e-5)


def test_a_training_continues_on_two_processes_in_the_middle_of_its_warmup(both: dict[str, Any]) -> None:
    """After 40 of 90 samples of the epoch and of 180 of the warmup; steps then have 16 samples."""
    require_continued(both["continued"]["run"], before=(8, 0), after=(16, 40))


def test_a_training_continues_on_one_process_in_the_middle_of_its_warmup(both: dict[str, Any]) -> None:
    """After 80 samples, and with 4 samples a step instead of 8."""
    folder = both["folder"] / "two"
    continued = train(str(folder), accumulation=1, checkpoint=str(folder / "step-10"))
    require_continued(continued["run"], before=(8, 0), after=(4, 80))


def parts(accelerator: Accelerator) -> tuple[torch.nn.Module, torch.optim.Optimizer, Any]:
    model = network()
    return model, torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9), DataLoader(Data(), batch_size=4)


def test_another_scheduler_is_refused(tmp_path: Path) -> None:
    accelerator = Accelerator(cpu=True)
    model, optimizer, loader = parts(accelerator)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
    with pytest.raises(
        TrainingError, match="accelerate would step a ExponentialLR, and scaler writes the learning rate"
    ):
        prepare(accelerator, job(), model, optimizer, loader, scheduler, storage=tmp_path)


def test_one_loader_is_needed(tmp_path: Path) -> None:
    accelerator = Accelerator(cpu=True)
    model, optimizer, loader = parts(accelerator)
    with pytest.raises(TrainingError, match=r"prepare got 2 loaders\."):
        prepare(accelerator, job(), model, optimizer, loader, loader, storage=tmp_path)


def test_a_batch_that_is_not_the_jobs_is_refused(tmp_path: Path) -> None:
    accelerator = Accelerator(cpu=True)
    message = "the job: scale.per_worker_batch_size is 16, and the loader's batch_size is 4 samples in each process."
    with pytest.raises(JobFileError, match=re.escape(message)):
        prepare(accelerator, job(scale={"per_worker_batch_size": 16}), *parts(accelerator), storage=tmp_path)


def test_a_job_in_tokens_has_the_batch_of_the_loader_in_tokens(tmp_path: Path) -> None:
    accelerator = Accelerator(cpu=True)
    train = {"unit": "tokens", "tokens_per_sample": 100, "epochs": 1}
    in_tokens = job(scale={"per_worker_batch_size": 800}, train=train)
    message = "per_worker_batch_size is 800, and the loader's batch_size is 400 tokens, in samples of 100 tokens,"
    with pytest.raises(JobFileError, match=re.escape(message)):
        prepare(accelerator, in_tokens, *parts(accelerator), storage=tmp_path)


def test_the_script_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    run_script("a script with accelerate", tmp_path, monkeypatch)
