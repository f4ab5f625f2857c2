"""Lightning: a callback that makes ``Trainer.fit`` a run of scaler."""

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from scaler.errors import TrainingError
from scaler.integrations.start import TrainerBatch, start_run
from scaler.job.located import JobLike
from scaler.training.own_loop.loader import samples_of
from scaler.training.own_loop.torch_scheduler import LoopScheduler

if TYPE_CHECKING:
    from scaler.training.own_loop.loop import OwnLoop


class ScalerCallback(Callback):
    """Makes a fit a run of scaler: plan, learning rate, records, evaluations, state in checkpoints, report.

    The module's optimizer is that of the job's reference, and the module has no scheduler. The fit ends when the
    training has all its samples; give ``Trainer(max_epochs=-1)`` to leave that to the job.

    Args:
        job: as in ``scaler.start``. Without ``scale.per_worker_batch_size``, the batch is the loader's.
        num_samples: samples in the training set over all processes; None: the length of the loader's data set.
        batch_size: samples in a batch of the loader; None: the loader's ``batch_size``.
        record_loss: whether to record the loss that ``training_step`` returns. False: it calls ``scaler.record``.
        overrides: as in ``scaler.start``.
        storage: as in ``scaler.start``.

    Attributes:
        run: what ``scaler.start`` returns; None before the fit.
    """

    def __init__(
        self,
        job: JobLike,
        *,
        num_samples: int | None = None,
        batch_size: int | None = None,
        record_loss: bool = True,
        overrides: Sequence[str] = (),
        storage: str | os.PathLike[str] | None = None,
    ) -> None:
        self.run: OwnLoop | None = None
        self._job, self._overrides, self._storage = job, overrides, storage
        self._num_samples, self._batch_size, self._record_loss = num_samples, batch_size, record_loss
        self._batch: TrainerBatch | None = None
        self._saved: dict[str, Any] = {}  # of the checkpoint that is resumed
        self._epoch_start = 0  # samples seen when the epoch began
        self._before: dict[str, Tensor] = {}  # values that were logged before an evaluation
        self._micro_batches = 0  # since the last optimizer step
        self._is_first = True

    def state_dict(self) -> dict[str, Any]:
        """Return the run's state for Lightning's checkpoint."""
        if self.run is None:
            return self._saved
        state = self.run.state_dict()
        return {"run": state, "epoch_samples": state["samples_seen"] - self._epoch_start}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the run's state of a checkpoint until the fit begins."""
        self._saved = state_dict

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Plan for the trainer's batch, and begin or continue the run."""
        _require_automatic(trainer, pl_module)
        self._batch = self._batch_of(trainer)
        self.run = start_run(self._job, self._batch, overrides=self._overrides, storage=self._storage)
        self.run.prepare(pl_module, *trainer.optimizers)
        if self._saved:
            self.run.load_state_dict(self._saved["run"])
            self._epoch_start = self.run.samples_seen - self._saved["epoch_samples"]
            _continue_epoch(
                trainer, self._saved["epoch_samples"] // (self._batch.size * self._batch.data_parallel_size)
            )
        self._micro_batches, self._is_first = 0, True
        self.run.fetching()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remember where the epoch began; Lightning does not call this for an epoch that is continued."""
        self._epoch_start = self._its_run.samples_seen

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Count the samples of a batch."""
        samples = samples_of(batch)
        if self._is_first:
            self._is_first = False
            self._its_batch.require_whole(samples)
        self._its_run.count(samples)
        self._micro_batches += 1

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Make the gradient of an epoch's last step a mean over its own micro-batches.

        Lightning divides each loss by ``accumulate_grad_batches``, also where the epoch ends with fewer.
        """
        taken, self._micro_batches = self._micro_batches, 0
        if taken < self._its_batch.accumulation:
            gradients = [p.grad for p in pl_module.parameters() if p.grad is not None]
            torch._foreach_mul_(gradients, self._its_batch.accumulation / taken)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Record the loss, end the step, and end the fit where the training is over."""
        run = self._its_run
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        if self._record_loss and isinstance(loss, Tensor):
            run.record(loss=loss * self._its_batch.accumulation)  # Lightning has divided it
        run.fetching()
        if run.is_over:
            trainer.should_stop = True

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remember what was logged before an evaluation."""
        self._before = dict(trainer.callback_metrics)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report what ``validation_step`` has logged: the mean over processes."""
        if self.run is None or trainer.sanity_checking or trainer.state.fn != "fit":
            return
        logged = {
            name: value for name, value in trainer.callback_metrics.items() if self._before.get(name) is not value
        }
        if logged:
            means = {name: trainer.strategy.reduce(value.float(), reduce_op="mean") for name, value in logged.items()}
            self.run.evaluated(**{name: float(value) for name, value in means.items()})
            self.run.fetching()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the report."""
        self._its_run.finish()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Write the end of the run, and what ended it."""
        if self.run is not None:
            self.run.finish(exception)

    @property
    def _its_run(self) -> "OwnLoop":
        assert self.run is not None
        return self.run

    @property
    def _its_batch(self) -> TrainerBatch:
        assert self._batch is not None
        return self._batch

    def _batch_of(self, trainer: Trainer) -> TrainerBatch:
        loader = trainer.train_dataloader
        size, samples = self._batch_size, self._num_samples
        if size is None:
            sampler = getattr(loader, "batch_sampler", None)
            size = getattr(loader, "batch_size", None) or getattr(sampler, "batch_size", None)
        if samples is None:
            data: Any = getattr(loader, "dataset", None)
            samples = len(data) if hasattr(data, "__len__") else None
        if size is None or samples is None:
            missing = "batch_size" if size is None else "num_samples"
            raise TrainingError(
                f"the training loader is a {type(loader).__name__} that does not say its {missing}.",
                f"Give it: ScalerCallback(job, {missing}=...).",
            )
        return TrainerBatch(
            trainer="Lightning",
            size=size,
            accumulation=trainer.accumulate_grad_batches,
            processes=trainer.world_size,
            mesh=getattr(trainer.strategy, "device_mesh", None),
            num_samples=samples,
            size_key="the loader's batch_size",
            accumulation_key="Trainer(accumulate_grad_batches)",
        )


def _require_automatic(trainer: Trainer, module: LightningModule) -> None:
    """Refuse modules that write the learning rate, or step, themselves.

    Raises:
        TrainingError: names what the module does.
    """
    if not module.automatic_optimization:
        raise TrainingError(
            f"{type(module).__name__} optimizes manually (automatic_optimization = False), and the callback follows "
            "the steps of Lightning.",
            "Leave the callback out, and call scaler.start, run.prepare and run.count in the module.",
        )
    for config in trainer.lr_scheduler_configs:
        if not isinstance(config.scheduler, LoopScheduler):
            raise TrainingError(
                f"configure_optimizers returns a {type(config.scheduler).__name__}, "
                "and scaler writes the learning rate.",
                "Return the optimizer alone, and describe the schedule in the job: schedule.name.",
            )


def _continue_epoch(trainer: Trainer, done: int) -> None:
    """Let the epoch that is continued have the batches that are left of it, at this number of processes.

    Lightning counts the batches of one process, and a checkpoint has the count of its own number of processes.

    Args:
        trainer: that has loaded a checkpoint.
        done: batches of the epoch that are done, in each of the present processes.
    """
    loop, batches = trainer.fit_loop.epoch_loop, trainer.num_training_batches
    if batches == float("inf"):
        return
    current = loop.batch_progress.current
    done = int(batches) if loop.batch_progress.is_last_batch else min(done, int(batches))
    current.ready = current.started = current.processed = done
    current.completed = done - 1 if loop.restarted_on_train_batch_end else done  # Lightning completes that batch
