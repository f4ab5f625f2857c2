"""Small training scripts of many kinds, each with a loop of its own.

The lines that make a script a run of scaler end in ``# +``. A script is a function of a job file. It trains in the
process group that there is, or in one process, and returns the run.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import Dataset, DistributedSampler

from scaler.job import Job, parse_job


@dataclass(frozen=True, kw_only=True, slots=True)
class Kind:
    """A kind of training script.

    Args:
        train: the script.
        optimizer: of the job's reference, and of the script.
        lr: of the reference.
        scale: of the job; without it the global batch is 16, twice the reference's.
        train_length: of the job.
        schedule: of the job.
        samples: that are counted, over all processes.
        steps: of the optimizer.
        differs: why 1 and 2 processes do not train alike at the same global batch; empty: they do.
        evaluates: names of the values that it evaluates.
        records: names of the values that it records besides the loss.
        most_lines: that may be added: 5, or 9 with two optimizers or an evaluation.
    """

    train: Callable[[Job], Any]
    optimizer: Mapping[str, Any]
    lr: float
    scale: Mapping[str, Any] | None = None
    train_length: Mapping[str, Any] | None = None
    schedule: Mapping[str, Any] | None = None
    samples: int
    steps: int
    differs: str = ""
    evaluates: tuple[str, ...] = ()
    records: tuple[str, ...] = ()
    most_lines: int = 5

    def job(self, storage: str) -> Job:
        """Return the job file of the script."""
        values = {
            "name": self.train.__name__.replace("_", "-"),
            "reference": {"global_batch_size": 8, "lr": self.lr, "optimizer": dict(self.optimizer)},
            "scale": dict(self.scale or {"global_batch_size": 16, "rule": "sqrt"}),
            "schedule": dict(self.schedule or {"name": "cosine", "warmup": {"samples": 32}}),
            "train": dict(self.train_length or {"epochs": 2}),
            "storage": storage,
        }
        return parse_job(values, source=self.train.__name__)


def world_size() -> int:
    """Return the number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Return the number of this process."""
    return dist.get_rank() if dist.is_initialized() else 0


def parallel(model: nn.Module, **options: Any) -> Any:
    """Return the model for the processes that there are."""
    return DistributedDataParallel(model, **options) if world_size() > 1 else model


def share_of(data: Dataset[Any], **options: Any) -> DistributedSampler[Any]:
    """Return the sampler of this process: the processes share the order of an epoch."""
    return DistributedSampler(data, num_replicas=world_size(), rank=rank(), **options)


def sum_of(*values: float) -> list[float]:
    """Return sums over all processes."""
    sums = torch.tensor(values, dtype=torch.float64)
    if world_size() > 1:
        dist.all_reduce(sums)
    found: list[float] = sums.tolist()
    return found


def numbers(seed: int, *shape: int) -> torch.Tensor:
    """Return random numbers that do not depend on the process."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def classes(seed: int, samples: int, count: int) -> torch.Tensor:
    """Return random classes that do not depend on the process."""
    return torch.randint(count, (samples,), generator=torch.Generator().manual_seed(seed))
