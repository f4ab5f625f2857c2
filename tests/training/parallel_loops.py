"""Small models that are parallel over a mesh of processes, for loops of one's own."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.pipelining import PipelineStage, ScheduleGPipe
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn.functional import mse_loss
from torch.utils.data import TensorDataset

import scaler
from scaler.job import parse_job
from scaler.metrics.reader import read_records
from scaler.runs import RunFolder

BATCH, SAMPLES = 24, 84  # both can be divided by 2, 3 and 4; an epoch's last step has 12 samples
JOB: dict[str, Any] = {
    "name": "mesh",
    "reference": {"global_batch_size": 8, "lr": 0.02, "optimizer": {"name": "sgd", "momentum": 0.9}},
    "scale": {"global_batch_size": BATCH, "rule": "linear"},
    "schedule": {"name": "cosine", "warmup": {"epochs": 1}},
    "train": {"epochs": 3},
}


def data() -> TensorDataset:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(SAMPLES, 4, generator=generator, dtype=torch.float64)
    return TensorDataset(x, x.sum(1, keepdim=True) + torch.randn(SAMPLES, 1, generator=generator, dtype=torch.float64))


def network() -> nn.Sequential:
    torch.manual_seed(1)
    first = nn.Sequential(nn.Linear(4, 8), nn.Tanh())
    return nn.Sequential(first, nn.Sequential(nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 1))).double()


class Parallel:
    """A model in parallel: it trains on a batch and returns the loss, where it is known.

    Args:
        mesh: of the processes; None: one process.
    """

    def __init__(self, mesh: DeviceMesh | None = None) -> None:
        self.model: nn.Module = network()
        self.shard(mesh)

    def shard(self, mesh: DeviceMesh | None) -> None:
        if mesh is not None:
            for block in self.model:
                fully_shard(block, mesh=mesh)
            fully_shard(self.model, mesh=mesh)

    def train(self, x: Tensor, y: Tensor) -> Tensor | None:
        loss = mse_loss(self.model(x), y)
        loss.backward()
        return loss


class TensorParallelOnly(Parallel):
    """Nothing averages the gradients over ``dp``."""

    def shard(self, mesh: DeviceMesh) -> None:
        plan = {"1.0": ColwiseParallel(), "1.2": RowwiseParallel()}
        parallelize_module(self.model, mesh["tp"], plan)


class TensorParallel(TensorParallelOnly):
    def shard(self, mesh: DeviceMesh) -> None:
        super().shard(mesh)
        for module in (*self.model, self.model):
            fully_shard(module, mesh=mesh["dp"])


class Pipeline(Parallel):
    """Two stages; the last one knows the loss."""

    def shard(self, mesh: DeviceMesh) -> None:
        number = mesh.get_local_rank("pp")
        self.is_last = number == 1
        self.model = self.model[number]
        fully_shard(self.model, mesh=mesh["dp"])
        self.number, self.group = number, mesh.get_group("pp")
        self.schedules: dict[int, ScheduleGPipe] = {}  # by batch size: a stage has one

    def schedule(self, size: int) -> ScheduleGPipe:
        if size not in self.schedules:
            stage = PipelineStage(self.model, self.number, 2, torch.device("cpu"), group=self.group)
            self.schedules[size] = ScheduleGPipe(stage, n_microbatches=2, loss_fn=mse_loss)
        return self.schedules[size]

    def train(self, x: Tensor, y: Tensor) -> Tensor | None:
        losses: list[Tensor] = []
        self.schedule(len(x)).step(*(() if self.is_last else (x,)), target=y if self.is_last else None, losses=losses)
        return torch.stack(losses).mean() if losses else None


def start(storage: str, mesh: DeviceMesh | None, **changes: Any) -> Any:
    return scaler.start(parse_job({**JOB, **changes}, source="job"), num_samples=SAMPLES, storage=storage, mesh=mesh)


def steps_of(run: str) -> list[dict[str, Any]]:
    """Return each step's numbers over all processes: what a report makes of the records."""
    rows = sorted(read_records(RunFolder(run)).to_pylist(), key=lambda row: (row["samples_seen"], row["rank"]))
    steps = []
    for seen in sorted({row["samples_seen"] for row in rows}):
        mine = [row for row in rows if row["samples_seen"] == seen]
        weights = [row["samples"] if row["weight"] is None else row["weight"] for row in mine]
        steps.append(
            {
                "samples": sum(row["samples"] for row in mine),
                "lr": {row["lr"] for row in mine},
                "weight": sum(weights),
                "loss": sum(w * row["loss"] for w, row in zip(weights, mine, strict=True) if w) / sum(weights),
                "norms": [row["grad_norm"] for row in mine],
            }
        )
    return steps
