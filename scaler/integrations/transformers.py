"""Transformers: a callback that makes ``Trainer.train`` a run of scaler."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate.state import AcceleratorState
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.loss.loss_utils import LOSS_MAPPING, ForCausalLMLoss
from transformers.trainer_callback import ExportableState

from scaler.errors import TrainingError
from scaler.integrations.start import TrainerBatch, mesh_of, start_run
from scaler.job.located import JobLike
from scaler.training.own_loop.loader import samples_of
from scaler.training.own_loop.mesh import read_mesh
from scaler.training.own_loop.torch_scheduler import LoopScheduler

if TYPE_CHECKING:
    from scaler.training.own_loop.loop import OwnLoop

_STATE_FILE = "trainer_state.json"
_SPEEDS = ("epoch", "runtime", "samples_per_second", "steps_per_second", "model_preparation_time")
_IGNORED_LABEL = -100


class ScalerCallback(TrainerCallback, ExportableState):
    """Makes a training a run of scaler: plan, learning rate, records, evaluations, state in checkpoints, report.

        scaled = ScalerCallback("job.yaml")
        trainer = Trainer(model, args, ..., callbacks=[scaled], optimizers=scaled.optimizers(optimizer))

    The samples of each forward of the model in training are counted. The training ends when it has all its samples, or
    after ``args.num_train_epochs``.

    Args:
        job: as in ``scaler.start``. Without ``scale.per_worker_batch_size``, the batch is that of the arguments.
        num_samples: samples in the training set over all processes; None: the length of the loader's data set.
        overrides: as in ``scaler.start``.
        storage: as in ``scaler.start``.

    Attributes:
        run: what ``scaler.start`` returns; None before the training.
    """

    def __init__(
        self,
        job: JobLike,
        *,
        num_samples: int | None = None,
        overrides: Sequence[str] = (),
        storage: str | os.PathLike[str] | None = None,
    ) -> None:
        self.run: OwnLoop | None = None
        self._job, self._overrides, self._storage, self._num_samples = job, overrides, storage, num_samples
        self._batch: TrainerBatch | None = None
        self._is_first = True
        self._hooks: list[Any] = []

    def optimizers(self, optimizer: torch.optim.Optimizer) -> tuple[torch.optim.Optimizer, LoopScheduler]:
        """Return what ``Trainer(optimizers=...)`` takes: the optimizer, and a scheduler whose step does nothing.

        Args:
            optimizer: as tuned at the job's reference.
        """
        return optimizer, LoopScheduler(optimizer)

    def checkpoint(self, trainer: Trainer, path: str | os.PathLike[str]) -> str:
        """Prepare a checkpoint of another number of processes or another batch for ``resume_from_checkpoint``.

        Transformers derives the epoch, and the batches to skip, from the number of steps in the checkpoint. This
        writes the number that the same samples take with the present batch into the checkpoint's
        ``trainer_state.json``. Every process calls this.

        Args:
            trainer: that continues.
            path: a folder ``checkpoint-<step>``.

        Returns:
            ``path``.
        """
        with trainer.args.main_process_first(local=False):
            if trainer.is_world_process_zero():
                file = Path(path) / _STATE_FILE
                state = json.loads(file.read_text())
                steps = trainer.set_initial_training_values(trainer.args, trainer.get_train_dataloader())[1]
                state["global_step"] = int(state["epoch"] * steps + 1e-6)
                beside = file.with_suffix(".part")
                beside.write_text(json.dumps(state, indent=2) + "\n")
                beside.replace(file)
        return os.fspath(path)

    def state(self) -> dict[str, Any]:
        """Return the run's state for the ``trainer_state.json`` of a checkpoint."""
        own = {"job": self._job, "num_samples": self._num_samples}
        plain = {key: value if value is None or isinstance(value, int) else str(value) for key, value in own.items()}
        return {"args": plain, "attributes": {"saved": None if self.run is None else self.run.state_dict()}}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Plan for the batch of the arguments, and begin or continue the run."""
        model, optimizer = kwargs["model"], kwargs["optimizer"]
        _require_loop_scheduler(kwargs["lr_scheduler"])
        self._batch = self._batch_of(args, kwargs["train_dataloader"])
        self.run = start_run(self._job, self._batch, overrides=self._overrides, storage=self._storage)
        self.run.prepare(model, getattr(optimizer, "optimizer", optimizer))
        saved = _saved_in(state)
        if saved is not None:
            self.run.load_state_dict(saved)
        self._is_first = True
        self._hooks = [
            model.register_forward_pre_hook(self._count, with_kwargs=True),
            model.register_forward_hook(self._record, with_kwargs=True),
        ]
        self.run.fetching()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """End the step, and the training where it is over."""
        run = self._its_run
        run.fetching()
        if run.is_over:
            control.should_training_stop = True

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: Mapping[str, Any],
        **kwargs: Any,
    ) -> None:
        """Report the metrics of an evaluation in the training, without the prefix ``eval_``."""
        if self.run is None:
            return
        plain = {name.removeprefix("eval_"): value for name, value in metrics.items()}
        values = {
            name: float(value)
            for name, value in plain.items()
            if isinstance(value, int | float) and not name.endswith(_SPEEDS)
        }
        if values:
            self.run.evaluated(**values)
            self.run.fetching()

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Do not count the time of a checkpoint as a wait for data."""
        self._its_run.fetching()

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Write the report."""
        for hook in self._hooks:
            hook.remove()
        self._its_run.finish()
        self.run = None

    @property
    def _its_run(self) -> "OwnLoop":
        assert self.run is not None
        return self.run

    def _count(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not (model.training and torch.is_grad_enabled()):
            return
        samples = samples_of([*args, *(value for key, value in kwargs.items() if key != "num_items_in_batch")])
        if self._is_first:
            assert self._batch is not None
            self._is_first = False
            self._batch.require_whole(samples)
        self._its_run.count(samples)

    def _record(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        """Record the loss of a forward; a loss per item of the whole step is weighted by this batch's items."""
        if not (model.training and torch.is_grad_enabled()):
            return
        loss = output.get("loss") if isinstance(output, Mapping) else None
        if not isinstance(loss, Tensor):
            return
        items = kwargs.get("num_items_in_batch")
        if items is None:
            self._its_run.record(loss=loss)
            return
        mine = _items_in(model, kwargs)
        self._its_run.record(loss=loss.detach() * items / mine.clamp(min=1), weight=mine)

    def _batch_of(self, args: TrainingArguments, loader: Any) -> TrainerBatch:
        if args.n_gpu > 1:
            raise TrainingError(
                f"the Trainer would train on {args.n_gpu} GPUs in one process.",
                f"Start one process for each: torchrun --nproc-per-node {args.n_gpu} ...",
            )
        samples = self._num_samples
        if samples is None:
            data = loader.dataset
            if not hasattr(data, "__len__"):
                raise TrainingError(
                    f"the training data are a {type(data).__name__} without a length.",
                    "Give the number of samples: ScalerCallback(job, num_samples=...).",
                )
            samples = len(data)
        split = args.accelerator_config.split_batches
        size = args.train_batch_size
        mesh = mesh_of(AcceleratorState())  # which the Trainer has made
        shares = read_mesh(mesh, rank=args.process_index, world_size=args.world_size).data_parallel_size
        return TrainerBatch(
            trainer="the Trainer",
            size=size // shares if split else size,
            accumulation=args.gradient_accumulation_steps,
            processes=args.world_size,
            mesh=mesh,
            num_samples=samples,
            size_key="per_device_train_batch_size",
            accumulation_key="gradient_accumulation_steps",
        )


class ScaledTrainer(Trainer):
    """A Trainer with scaler's scheduler, for ``args.fsdp``, with which a Trainer takes no ``optimizers``.

        tuned = torch.optim.SGD, {"lr": 0.02, "momentum": 0.9}
        trainer = ScaledTrainer(model, args, ..., callbacks=[scaled], optimizer_cls_and_kwargs=tuned)

    The optimizer is as tuned at the job's reference.
    """

    lr_scheduler: torch.optim.lr_scheduler.LRScheduler | None

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> torch.optim.lr_scheduler.LRScheduler:
        """Return a scheduler whose step does nothing."""
        if self.lr_scheduler is None:
            self.lr_scheduler = LoopScheduler(self.optimizer if optimizer is None else optimizer)
            self._created_lr_scheduler = True
        return self.lr_scheduler


def _saved_in(state: TrainerState) -> Mapping[str, Any] | None:
    """Return the run's state in the checkpoint that is resumed; None: it is a new training."""
    own = state.stateful_callbacks.get(ScalerCallback.__name__)
    first = own[0] if isinstance(own, list) else own
    return first["attributes"]["saved"] if first else None


def _items_in(model: nn.Module, inputs: Mapping[str, Any]) -> Tensor:
    """Return the labels of a batch that have a loss, as the Trainer counts them."""
    labels = inputs.get("shift_labels")
    if labels is None:
        labels = inputs["labels"]
        is_shifted = LOSS_MAPPING.get(getattr(model, "loss_type", None)) is ForCausalLMLoss
        if is_shifted and not getattr(model.config, "is_encoder_decoder", False):
            labels = labels[..., 1:]  # the first label is no prediction
    items: Tensor = (labels != _IGNORED_LABEL).sum()
    return items


def _require_loop_scheduler(scheduler: Any) -> None:
    """Refuse another scheduler.

    Raises:
        TrainingError: names it.
    """
    if not isinstance(scheduler, LoopScheduler):
        raise TrainingError(
            f"the Trainer has a {type(scheduler).__name__}, and scaler writes the learning rate.",
            "Give it scaler's: Trainer(..., optimizers=scaled.optimizers(optimizer)); or with fsdp, ScaledTrainer(..., "
            "optimizer_cls_and_kwargs=...).",
        )
