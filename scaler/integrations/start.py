"""Start a run whose batch is the one that another trainer uses."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scaler.api.start import start
from scaler.errors import JobFileError, TrainingError
from scaler.job import Job, apply_overrides
from scaler.job.located import JobLike, job_file
from scaler.job.reading import read_file, read_values
from scaler.training.own_loop.mesh import read_mesh

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

    from scaler.training.own_loop.loop import OwnLoop


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainerBatch:
    """The batch of a trainer.

    Args:
        trainer: names it in errors.
        size: samples in one forward and backward of one process.
        accumulation: forward and backwards for one optimizer step.
        processes: all of them.
        mesh: of the processes; None: each trains on samples of its own.
        num_samples: in the training set, over all processes.
        size_key: where the size is set in the trainer; named in errors.
        accumulation_key: where the accumulation is set in the trainer.
    """

    trainer: str
    size: int
    accumulation: int
    processes: int
    mesh: "DeviceMesh | None"
    num_samples: int
    size_key: str
    accumulation_key: str

    @property
    def data_parallel_size(self) -> int:
        """Processes, or groups of them in a mesh, that train on different samples."""
        return read_mesh(self.mesh, rank=0, world_size=self.processes).data_parallel_size

    @property
    def of_step(self) -> int:
        """Samples per optimizer step, over all processes and micro-batches."""
        return self.size * self.accumulation * self.data_parallel_size

    def require_whole(self, samples: int) -> None:
        """Refuse a first micro-batch that is smaller than the trainer says.

        Args:
            samples: in it, in this process.

        Raises:
            TrainingError: a collator packs or drops samples, or the first dimension is not the samples.
        """
        if samples < self.size and self.num_samples >= self.of_step:
            raise TrainingError(
                f"the first batch has {samples} sample{'' if samples == 1 else 's'} in its first tensor, and "
                f"{self.size_key} is {self.size}.",
                "scaler counts the first dimension of a batch's first tensor; use a collator that keeps it.",
            )


def mesh_of(state: Any) -> "DeviceMesh | None":
    """Return the mesh of accelerate's processes; None: each has samples of its own.

    Args:
        state: an ``AcceleratorState``.

    Raises:
        TrainingError: processes get the same samples, and there is no mesh that says which.
    """
    config = state.parallelism_config
    if state.device_mesh is None and config is not None and config.sp_size > 1:
        raise TrainingError(
            f"ParallelismConfig(sp_size={config.sp_size}) by DeepSpeed has no mesh, so it is not known which processes "
            "get the same samples.",
            "Write the loop with scaler.start(job, mesh=...), which takes a mesh of your own.",
        )
    mesh: DeviceMesh | None = state.device_mesh
    return mesh


def start_run(
    job: JobLike,
    batch: TrainerBatch,
    *,
    overrides: Sequence[str] = (),
    storage: str | os.PathLike[str] | None = None,
) -> "OwnLoop":
    """Start a run with the batch of a trainer; every process calls this.

    Where the job leaves ``scale.per_worker_batch_size`` or ``scale.grad_accum_steps`` out, they are the trainer's.

    Args:
        job: as in ``scaler.start``.
        batch: of the trainer.
        overrides: as in ``scaler.start``.
        storage: as in ``scaler.start``.

    Raises:
        JobFileError: as ``scaler.start``; or the job has another batch than the trainer.
    """
    values, source = _values_of(job, overrides)
    scale = _section(values, "scale")
    tokens = _tokens_per_sample(_section(values, "train"), source)
    counts = "samples" if tokens == 1 else f"tokens, in samples of {tokens} tokens,"
    known = {
        "global_batch_size": (batch.of_step * tokens, f"{batch.trainer}'s steps have", f"{counts} over all processes"),
        "per_worker_batch_size": (batch.size * tokens, f"{batch.size_key} is", f"{counts} in each process"),
        "grad_accum_steps": (batch.accumulation, f"{batch.accumulation_key} is", ""),
    }
    filled = []
    for key, (own, name, unit) in known.items():
        given = scale.get(key)
        if given not in (None, own):
            raise JobFileError(
                f"{source}: scale.{key} is {given}, and {name} {own}{f' {unit}' if unit else ''}.",
                f"Make them equal, or leave scale.{key} out of the job: it is then {batch.trainer}'s.",
            )
        if given is None and key != "global_batch_size":
            filled.append(f"scale.{key}={own}")
    return start(job, num_samples=batch.num_samples, overrides=[*overrides, *filled], storage=storage, mesh=batch.mesh)


def _tokens_per_sample(train: Mapping[str, Any], source: str) -> int:
    """Return the tokens of a sample, in which a job gives its batch sizes; 1: it gives them in samples.

    Raises:
        JobFileError: it counts tokens, and does not say how many a sample has.
    """
    if train.get("unit") != "tokens":
        return 1
    tokens = train.get("tokens_per_sample")
    if not isinstance(tokens, int):
        raise JobFileError(
            f"{source}: train.unit = tokens, and the tokens of a sample are not known.", "Give train.tokens_per_sample."
        )
    return tokens


def _section(values: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section = values.get(name)
    return section if isinstance(section, Mapping) else {}


def _values_of(job: JobLike, overrides: Sequence[str]) -> tuple[Mapping[str, Any], str]:
    """Return what a job says, and the job's name in errors."""
    if isinstance(job, Job):
        values: Mapping[str, Any] = job.model_dump()
        source = "the job"
    else:
        path = job_file(Path(job))
        source = str(path)
        values = read_values(read_file(path), source=source)
    return apply_overrides(values, overrides), source
