"""Trainings with Lightning are runs: plan, records and report, at one and at two processes."""

import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from groups import run_group
from page import run_script
from small_data import (
    SAMPLES,
    Data,
    announce,
    evaluations_of,
    job,
    network,
    records_of,
    require_continued,
    require_whole_report,
    weights_of,
)
from torch.nn.functional import mse_loss
from torch.utils.data import DataLoader, DistributedSampler

import scaler
from scaler.errors import JobFileError, PlanError, TrainingError
from scaler.runs import RunFolder, RunState
from scaler.training.own_loop.torch_scheduler import LoopScheduler

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import lightning.pytorch as pl
    from lightning.pytorch.callbacks import ModelCheckpoint

    from scaler.integrations.lightning import ScalerCallback

pytestmark = [
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:The `srun` command is available"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*your dataloader is not resumable.*"),
]


ENDS_EARLY = {"train": {"epochs": 3, "stop_after": {"samples": 80}}}


class Module(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.network = network()

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return mse_loss(self.network(batch[0]), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("error", mse_loss(self.network(batch[0]), batch[1]), sync_dist=True)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.02, momentum=0.9)


def fit(
    folder: str,
    *,
    processes: int = 1,
    accumulation: int = 2,
    module: pl.LightningModule | None = None,
    checkpoint: str | None = None,
    changes: Any = None,
    **options: Any,
) -> dict[str, Any]:
    """Fit as a script does; checkpoints are written every five steps."""
    scaled = ScalerCallback(job(**(changes or {})), storage=folder)
    module = module or Module()
    trainer = pl.Trainer(
        **{
            "max_epochs": -1,
            "callbacks": [
                scaled,
                ModelCheckpoint(folder, filename="{step}", every_n_train_steps=5, save_top_k=-1),
            ],
            "accelerator": "cpu",
            "devices": processes,
            "strategy": "ddp" if processes > 1 else "auto",
            "accumulate_grad_batches": accumulation,
            "use_distributed_sampler": False,  # it would shuffle
            "logger": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "num_sanity_val_steps": 1,
            **options,
        }
    )
    sampler = DistributedSampler(Data(), shuffle=False) if processes > 1 else None
    loader = DataLoader(Data(), batch_size=4, sampler=sampler)
    trainer.fit(module, loader, DataLoader(Data(), batch_size=45), ckpt_path=checkpoint)
    assert scaled.run is not None
    return {"run": scaled.run.state_dict()["run"], "weights": weights_of(module), "epochs": trainer.current_epoch}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A fit in one process: 8 samples a step, in two micro-batches."""
    folder = tmp_path_factory.mktemp("alone")
    return {"folder": folder, **fit(str(folder))}


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """In two processes: the same fit, and one that continues the fit of one process in the middle of its warmup."""
    folder = tmp_path_factory.mktemp("both")
    fit(str(folder / "one"), changes=ENDS_EARLY)
    return {"folder": folder, **run_group(_in_two, 2, str(folder), str(folder / "one" / "step=5.ckpt"))[0]}


def _in_two(rank: int, world_size: int, folder: str, checkpoint: str) -> dict[str, Any]:
    announce(rank, world_size)
    fit(f"{folder}/two", processes=2, accumulation=1, changes=ENDS_EARLY)
    return {
        "whole": fit(folder, processes=2, accumulation=1),
        "continued": fit(f"{folder}/one", processes=2, checkpoint=checkpoint),
    }


def test_a_fit_has_the_learning_rates_of_the_plan_and_a_whole_report(alone: dict[str, Any]) -> None:
    report = require_whole_report(alone["run"], samples=3 * SAMPLES)
    run, rows = scaler.read_run(alone["run"]), records_of(alone["run"])
    assert (run.plan.global_batch_size, run.plan.grad_accum_steps, report.totals.steps) == (8, 2, 36)
    assert [row["samples"] for row in rows[:12]] == [8] * 11 + [2]
    assert [row["lr"] for row in rows[:11]] == pytest.approx([run.plan.lr_at(8 * step) for step in range(11)])
    assert alone["epochs"] == 3
    assert [event.samples_seen for event in evaluations_of(alone["run"])] == [90, 180, 270]
    assert 0 < report.final.eval["error"] < 2


def test_two_processes_train_as_one(alone: dict[str, Any], both: dict[str, Any]) -> None:
    """Also in the last step of an epoch, which has one of two micro-batches, with 2 of 4 samples."""
    report = require_whole_report(both["whole"]["run"], samples=3 * SAMPLES)
    assert len(report.workers) == 2
    torch.testing.assert_close(both["whole"]["weights"], alone["weights"], rtol=1e-4, atol=1e-5)


def test_a_fit_continues_on_two_processes_in_the_middle_of_its_warmup(
    alone: dict[str, Any], both: dict[str, Any]
) -> None:
    """After 40 of 90 samples of the epoch and of 180 of the warmup; steps then have 16 samples."""
    continued = both["continued"]
    require_continued(continued["run"], before=(8, 0), after=(16, 40))


def test_a_fit_continues_on_one_process_in_the_middle_of_its_warmup(both: dict[str, Any]) -> None:
    """After 80 samples, and with 4 samples a step instead of 8."""
    folder = both["folder"] / "two"
    continued = fit(str(folder), accumulation=1, checkpoint=str(folder / "step=10.ckpt"))
    require_continued(continued["run"], before=(8, 0), after=(4, 80))


class WithScheduler(Module):
    def __init__(self, scheduler: Any) -> None:
        super().__init__()
        self.scheduler = scheduler

    def configure_optimizers(self) -> Any:
        optimizer = super().configure_optimizers()
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": self.scheduler(optimizer), "interval": "step"}}


def test_a_module_may_return_scalers_scheduler(tmp_path: Path) -> None:
    fitted = fit(str(tmp_path), module=WithScheduler(LoopScheduler))
    require_whole_report(fitted["run"], samples=3 * SAMPLES)


class Manual(Module):
    automatic_optimization = False


class OtherOptimizer(Module):
    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.02, momentum=0.5)


@pytest.mark.parametrize(
    ("module", "changes", "error", "message"),
    [
        (Manual, {}, TrainingError, "Manual optimizes manually"),
        (
            lambda: WithScheduler(lambda optimizer: torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)),
            {},
            TrainingError,
            "configure_optimizers returns a ExponentialLR, and scaler writes the learning rate",
        ),
        (
            OtherOptimizer,
            {},
            PlanError,
            "the job's reference.optimizer.momentum is 0.9, and the optimizer of the loop has 0.5",
        ),
        (
            Module,
            {"scale": {"per_worker_batch_size": 8}},
            JobFileError,
            "the job: scale.per_worker_batch_size is 8, and the loader's batch_size is 4 samples in each process.",
        ),
        (
            Module,
            {"scale": {"global_batch_size": 16}},
            JobFileError,
            "the job: scale.global_batch_size is 16, and Lightning's steps have 8 samples over all processes.",
        ),
    ],
)
def test_what_does_not_fit_together_is_refused(
    tmp_path: Path, module: Any, changes: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=re.escape(message)):
        fit(str(tmp_path), module=module(), changes=changes, accumulation=1 if module is Manual else 2)


class Fails(Module):
    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        if self.global_step == 3:
            raise ValueError("the data are wrong")
        return super().training_step(batch, batch_idx)


def test_an_exception_is_in_the_report(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the data are wrong"):
        fit(str(tmp_path), module=Fails())
    (folder,) = tmp_path.glob("other-*")
    assert RunFolder(str(folder)).state() is RunState.FAILED
    assert scaler.read_run(folder).report.totals.samples_seen == 24


def test_the_batch_is_the_trainers_where_the_job_has_none(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(
        "name: other\nreference: {global_batch_size: 8, lr: 0.02, optimizer: {name: sgd, momentum: 0.9}}\n"
        "train: {epochs: 1}\n"
    )
    scaled = ScalerCallback(tmp_path, storage=tmp_path)
    trainer = pl.Trainer(
        max_epochs=3, callbacks=[scaled], accelerator="cpu", accumulate_grad_batches=3, logger=False,
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
    )  # fmt: skip
    trainer.fit(Module(), DataLoader(Data(), batch_size=10), DataLoader(Data(), batch_size=45))
    assert scaled.run is not None
    plan = scaled.run.plan
    assert (plan.per_worker_batch_size, plan.grad_accum_steps, plan.global_batch_size) == (10, 3, 30)
    assert trainer.current_epoch == 1  # the job's, not the trainer's


@pytest.mark.filterwarnings("ignore:.*smaller than the logging interval.*")
def test_the_script_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_script("a script with Lightning", tmp_path, monkeypatch)
