"""accelerate: prepare a training, and make it a run of scaler."""

import os
from collections.abc import Sequence
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from torch.utils.data import DataLoader

from scaler.errors import TrainingError
from scaler.integrations.start import TrainerBatch, mesh_of, start_run
from scaler.job.located import JobLike
from scaler.training.own_loop.mesh import read_mesh
from scaler.training.own_loop.torch_scheduler import LoopScheduler


def prepare(
    accelerator: Accelerator,
    job: JobLike,
    *objects: Any,
    num_samples: int | None = None,
    overrides: Sequence[str] = (),
    storage: str | os.PathLike[str] | None = None,
) -> tuple[Any, ...]:
    """Return a run, then what ``accelerator.prepare`` returns; the training's loader counts its samples.

        run, model, optimizer, loader = prepare(accelerator, "job.yaml", model, optimizer, loader)

    The run's state is in ``accelerator.save_state`` and ``load_state``. Prepare the loaders of evaluations with
    ``accelerator.prepare``.

    Args:
        accelerator: its processes, without those of its mesh that get the same samples, and its accumulation make the
            batch.
        job: as in ``scaler.start``. Without ``scale.per_worker_batch_size``, the batch is the loader's.
        objects: models, optimizers and the training's ``DataLoader``, in any order.
        num_samples: samples in the training set over all processes; None: the length of the loader's data set.
        overrides: as in ``scaler.start``.
        storage: as in ``scaler.start``.

    Raises:
        JobFileError: the job cannot be used, or has another batch.
        PlanError: the optimizer is not the reference's.
        TrainingError: there is not one loader, another scheduler, or the processes have different numbers of batches.
    """
    for each in objects:
        if hasattr(each, "get_last_lr") and not isinstance(each, LoopScheduler):
            raise TrainingError(
                f"accelerate would step a {type(each).__name__}, and scaler writes the learning rate.",
                "Leave it out, and describe the schedule in the job: schedule.name.",
            )
    loaders = [each for each in objects if isinstance(each, DataLoader)]
    if len(loaders) != 1:
        raise TrainingError(
            f"prepare got {len(loaders)} loaders.",
            "Give it the training's DataLoader, and prepare the others with accelerator.prepare.",
        )
    found = accelerator.prepare(*objects)
    prepared = list(found) if len(objects) > 1 else [found]
    at = next(number for number, each in enumerate(objects) if each is loaders[0])
    run = start_run(job, _batch_of(accelerator, prepared[at], num_samples), overrides=overrides, storage=storage)
    _require_equal_lengths(accelerator, prepared[at])
    for number, each in enumerate(prepared):
        if isinstance(each, AcceleratedOptimizer):
            run.prepare(each.optimizer)
        elif number == at:
            prepared[at] = run.prepare(each)
        elif isinstance(each, torch.nn.Module):
            run.prepare(each)
    accelerator.register_for_checkpointing(run)
    return run, *prepared


def _batch_of(accelerator: Accelerator, loader: Any, num_samples: int | None) -> TrainerBatch:
    mesh, processes = mesh_of(accelerator.state), accelerator.num_processes
    shares = read_mesh(mesh, rank=accelerator.process_index, world_size=processes).data_parallel_size
    return TrainerBatch(
        trainer="accelerate",
        size=loader.total_batch_size // shares,
        accumulation=accelerator.gradient_accumulation_steps,
        processes=processes,
        mesh=mesh,
        num_samples=len(loader.dataset) if num_samples is None else num_samples,
        size_key="the loader's batch_size",
        accumulation_key="gradient_accumulation_steps",
    )


def _require_equal_lengths(accelerator: Accelerator, loader: Any) -> None:
    """Refuse loaders of which the processes get different numbers of batches.

    Raises:
        TrainingError: gives the numbers.
    """
    if not hasattr(loader.dataset, "__len__"):
        return
    lengths = accelerator.gather(torch.tensor([len(loader)], device=accelerator.device)).tolist()
    if len(set(lengths)) > 1:
        raise TrainingError(
            f"the processes get {', '.join(map(str, lengths))} batches in an epoch, and every step needs one of each.",
            "Use Accelerator(dataloader_config=DataLoaderConfiguration(even_batches=True)), or drop_last.",
        )
