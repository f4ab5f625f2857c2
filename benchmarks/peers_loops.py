"""One training with each trainer, as its documentation writes it, in a process of a group.

Every function gets a ``Task``, trains it, and returns the task's timed loss. The model, the data, the loss, the
optimizer and the batch are those of the task's job; every trainer shuffles in its own way.
"""

import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset, DistributedSampler

import scaler
from scaler.job import Job, load_job
from scaler.plan import make_plan
from scaler.training.recipe.load import load_recipe

OPTIMIZERS = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}
OWN_KEYS = ("name", "reference", "scale", "schedule")


@dataclass(kw_only=True)
class Timed:
    """A loss that notes when it is called: once a step, so the time between two calls contains all that a loop does."""

    loss: Any
    times: list[float] = field(default_factory=list)
    samples: list[int] = field(default_factory=list)

    def __call__(self, model: nn.Module, batch: Any) -> Tensor:
        self.times.append(perf_counter())
        self.samples.append(len(batch[0]))
        return self.loss(model, batch)  # type: ignore[no-any-return]


class Task:
    """What is trained.

    Args:
        job_file: of a job with a recipe.
        epochs: to train.
        world_size: processes.
    """

    def __init__(self, job_file: str, *, epochs: int, world_size: int) -> None:
        self.job, self.epochs = load_job(job_file), epochs
        recipe = load_recipe(self.job.recipe, folder=Path(job_file).parent, arguments=self.job.recipe_args)
        self.model, self.data, self.loss = recipe.model, recipe.train_data, Timed(loss=recipe.loss)
        plan = make_plan(self.job, world_size)
        self.batch_size, self.peak_lr = plan.per_worker_batch_size, plan.peak_lr
        self.is_distributed = world_size > 1

    def optimizer(self, model: nn.Module, *, is_scaled: bool) -> torch.optim.Optimizer:
        """Return the job's optimizer, with the reference's learning rate or the scaled one."""
        reference = self.job.reference
        lr = self.peak_lr if is_scaled else reference.lr
        return OPTIMIZERS[reference.optimizer.name](model.parameters(), lr=lr, **reference.optimizer.options)

    def own_job(self) -> Job:
        """Return the job for a loop of one's own."""
        values = self.job.model_dump(include=set(OWN_KEYS))
        return Job.model_validate({**values, "train": {"epochs": self.epochs}})

    def loader(self) -> tuple[DataLoader[Any], DistributedSampler[Any] | None]:
        """Return the loader of one process."""
        sampler: DistributedSampler[Any] | None = DistributedSampler(self.data) if self.is_distributed else None
        return DataLoader(self.data, batch_size=self.batch_size, shuffle=sampler is None, sampler=sampler), sampler


def plain(task: Task, *, with_scaler: bool = False) -> Timed:
    """torch's tutorial of DistributedDataParallel; or the same with the lines of ``scaler.start``."""
    torch.manual_seed(0)
    model: nn.Module = DistributedDataParallel(task.model) if task.is_distributed else task.model
    optimizer = task.optimizer(model, is_scaled=not with_scaler)
    loader: Any
    loader, sampler = task.loader()
    with tempfile.TemporaryDirectory() as folder:
        if with_scaler:
            run = scaler.start(task.own_job(), num_samples=len(task.data), storage=folder)
            model, optimizer, loader = run.prepare(model, optimizer, loader)
        for epoch in range(task.epochs):
            if sampler is not None:
                sampler.set_epoch(epoch)
            for batch in loader:
                optimizer.zero_grad()
                loss = task.loss(model, batch)
                if with_scaler:
                    scaler.record(loss=loss)
                loss.backward()
                optimizer.step()
        if with_scaler:
            run.finish()
    return task.loss


def own_loop(task: Task) -> Timed:
    """The same loop with ``scaler.start``."""
    return plain(task, with_scaler=True)


def with_lightning(task: Task) -> Timed:
    """Lightning, without its logger, its progress bar and its checkpoints."""
    import lightning.pytorch as pl

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network = task.model

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return task.loss(self.network, batch)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return task.optimizer(self, is_scaled=True)

    pl.seed_everything(0, verbose=False)
    trainer = pl.Trainer(
        max_epochs=task.epochs,
        accelerator="cpu",
        devices=int(os.environ["WORLD_SIZE"]),
        strategy="ddp",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Module(), DataLoader(task.data, batch_size=task.batch_size, shuffle=True))
    return task.loss


def with_accelerate(task: Task) -> Timed:
    """Accelerate's loop."""
    from accelerate import Accelerator

    torch.manual_seed(0)
    accelerator = Accelerator(cpu=True)
    model, optimizer, loader = accelerator.prepare(
        task.model,
        task.optimizer(task.model, is_scaled=True),
        DataLoader(task.data, batch_size=task.batch_size, shuffle=True),
    )
    for _ in range(task.epochs):
        for batch in loader:
            optimizer.zero_grad()
            loss = task.loss(model, batch)
            accelerator.backward(loss)
            optimizer.step()
    return task.loss


class Items(Dataset[dict[str, Tensor]]):
    """The samples as Transformers takes them."""

    def __init__(self, data: Any) -> None:
        self._data = data

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {f"part{number}": part for number, part in enumerate(self._data[index])}


def with_transformers(task: Task) -> Timed:
    """The Trainer of Transformers, without reports, progress bar and checkpoints."""
    from transformers import Trainer, TrainingArguments

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = task.model

        def forward(self, part0: Tensor, part1: Tensor | None = None) -> dict[str, Tensor]:
            batch = (part0,) if part1 is None else (part0, part1)
            return {"loss": task.loss(self.network, batch)}

    model = Model()
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            num_train_epochs=task.epochs,
            per_device_train_batch_size=task.batch_size,
            lr_scheduler_type="constant",
            max_grad_norm=0.0,
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
            dataloader_pin_memory=False,
        )
        optimizer = task.optimizer(model, is_scaled=True)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
        Trainer(model, arguments, train_dataset=Items(task.data), optimizers=(optimizer, scheduler)).train()
    return task.loss


LOOPS = {
    "plain DDP": plain,
    "scaler.start": own_loop,
    "Lightning": with_lightning,
    "accelerate": with_accelerate,
    "Transformers": with_transformers,
}
