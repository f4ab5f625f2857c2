"""Trainings with Transformers are runs: plan, records and report, at one and at two processes."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from groups import run_group
from page import run_script
from small_data import (
    SAMPLES,
    announce,
    evaluations_of,
    job,
    records_of,
    require_continued,
    require_whole_report,
    weights_of,
)
from small_texts import Texts, language_model
from transformers import Trainer, TrainingArguments

import scaler
from scaler.errors import JobFileError, PlanError, TrainingError
from scaler.integrations.transformers import ScalerCallback

ENDS_EARLY = {"train": {"epochs": 3, "stop_after": {"samples": 80}}}


def train(
    folder: str,
    *,
    accumulation: int = 2,
    checkpoint: str | None = None,
    changes: Any = None,
    callback: bool = True,
    **options: Any,
) -> dict[str, Any]:
    """Train as a script does; checkpoints are written every five steps."""
    scaled = ScalerCallback(job(**(changes or {})), storage=folder)
    model = language_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    arguments = TrainingArguments(
        **{
            "output_dir": f"{folder}/checkpoints",
            "per_device_train_batch_size": 4,
            "gradient_accumulation_steps": accumulation,
            "num_train_epochs": 3,
            "save_steps": 5,
            "eval_strategy": "epoch",
            "logging_steps": 5,
            "report_to": "none",
            "use_cpu": True,
            "disable_tqdm": True,
            "train_sampling_strategy": "sequential",
            "dataloader_pin_memory": False,
            **options,
        }
    )
    trainer = Trainer(
        model,
        arguments,
        train_dataset=Texts(),
        eval_dataset=Texts(),
        callbacks=[scaled],
        optimizers=scaled.optimizers(optimizer) if callback else (optimizer, None),
    )
    trainer.train(resume_from_checkpoint=scaled.checkpoint(trainer, checkpoint) if checkpoint else None)
    (run,) = Path(folder).glob("other-*")
    return {"run": str(run), "weights": weights_of(model), "history": trainer.state.log_history}


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
    return {
        "whole": train(f"{folder}/whole", accumulation=1),
        "continued": train(f"{folder}/one", checkpoint=f"{folder}/one/checkpoints/checkpoint-5"),
    }


def test_a_training_has_the_learning_rates_of_the_plan_and_a_whole_report(alone: dict[str, Any]) -> None:
    report = require_whole_report(alone["run"], samples=3 * SAMPLES)
    run, rows = scaler.read_run(alone["run"]), records_of(alone["run"])
    assert (run.plan.global_batch_size, run.plan.grad_accum_steps, report.totals.steps) == (8, 2, 36)
    assert [row["samples"] for row in rows[:12]] == [8] * 11 + [2]
    assert [row["lr"] for row in rows[:11]] == pytest.approx([run.plan.lr_at(8 * step) for step in range(11)])
    assert [event.samples_seen for event in evaluations_of(alone["run"])] == [90, 180, 270]
    assert report.final.eval.keys() == {"loss"}


def test_the_loss_and_the_learning_rate_are_those_that_the_trainer_logs(alone: dict[str, Any]) -> None:
    logged = [entry for entry in alone["history"] if "grad_norm" in entry]
    rows = records_of(alone["run"])
    for entry in logged:
        rows_of_entry = rows[entry["step"] - 5 : entry["step"]]
        assert entry["learning_rate"] == pytest.approx(rows_of_entry[-1]["lr"])
        assert entry["loss"] == pytest.approx(sum(row["loss"] for row in rows_of_entry) / 5, rel=1e-4)


def test_two_processes_train_as_one(alone: dict[str, Any], both: dict[str, Any]) -> None:
    """But for the epoch's last step: accelerate fills it up, and takes 8 samples where one process has 2."""
    report = require_whole_report(both["whole"]["run"], samples=3 * 96 - 16)
    assert len(report.workers) == 2
    lone, pair = records_of(alone["run"]), records_of(both["whole"]["run"])
    for step in range(11):
        mine = [row for row in pair if row["step"] == step]
        mean = sum(row["loss"] * row["weight"] for row in mine) / sum(row["weight"] for row in mine)
        assert mean == pytest.approx(lone[step]["loss"], rel=1e-5)


def test_a_training_continues_on_two_processes_in_the_middle_of_its_warmup(both: dict[str, Any]) -> None:
    """After 40 of 90 samples of the epoch and of 180 of the warmup; steps then have 16 samples."""
    require_continued(both["continued"]["run"], before=(8, 0), after=(16, 40))


def test_a_training_continues_on_one_process_in_the_middle_of_its_warmup(both: dict[str, Any]) -> None:
    """After 80 samples, and with 4 samples a step instead of 8."""
    folder = both["folder"] / "two"
    continued = train(str(folder), accumulation=1, checkpoint=str(folder / "checkpoints" / "checkpoint-10"))
    require_continued(continued["run"], before=(8, 0), after=(4, 80))


def test_another_scheduler_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="the Trainer has a LambdaLR, and scaler writes the learning rate"):
        train(str(tmp_path), callback=False)


def test_an_accumulation_that_is_not_the_jobs_is_refused(tmp_path: Path) -> None:
    message = "the job: scale.grad_accum_steps is 1, and gradient_accumulation_steps is 2."
    with pytest.raises(JobFileError, match=re.escape(message)):
        train(str(tmp_path), changes={"scale": {"per_worker_batch_size": 4, "grad_accum_steps": 1}})


def test_an_optimizer_that_is_not_the_references_is_refused(tmp_path: Path) -> None:
    reference = {"global_batch_size": 8, "lr": 0.1, "optimizer": {"name": "sgd", "momentum": 0.9}}
    with pytest.raises(
        PlanError, match=re.escape("the job's reference.lr is 0.1, and the optimizer of the loop has 0.02")
    ):
        train(str(tmp_path), changes={"reference": reference})


def test_the_script_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_script("a script with Transformers", tmp_path, monkeypatch)
