"""Handwritten digits with a model that is tensor parallel (2) and sharded (FSDP2); what scaler needs is marked.

torchrun --nproc-per-node 4 train.py         2 x 2 processes; with --nproc-per-node 2, 1 x 2
scaler submit .                              the same in 4 workers
"""

import json
import os
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

import scaler

TRAIN_SIZE = 1437
TENSOR = 2  # processes that share each layer


class Block(nn.Module):
    """Two layers around which the input goes: one is split by its outputs, the other by its inputs."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        inner: Tensor = self.down(torch.relu(self.up(self.norm(x))))
        return x + inner


def main(checkpoint: str | None = None) -> None:
    """Train to the end.

    Args:
        checkpoint: a folder that every process reads; the training continues from its newest checkpoint, and saves
            one after each epoch.
    """
    dist.init_process_group()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    torch.manual_seed(0)
    digits = load_digits()
    images, labels = torch.tensor(digits.data / 16.0, dtype=torch.float32), torch.tensor(digits.target)
    train_data = TensorDataset(images[:TRAIN_SIZE], labels[:TRAIN_SIZE])

    mesh = init_device_mesh(device, (dist.get_world_size() // TENSOR, TENSOR), mesh_dim_names=("dp_shard", "tp"))
    run = scaler.start(Path(__file__).parent, num_samples=len(train_data), mesh=mesh)  # 1: the mesh
    model = nn.Sequential(nn.Linear(64, 64), Block(64), Block(64), nn.Linear(64, 10)).to(device)
    for block in model[1:3]:
        parallelize_module(block, mesh["tp"], {"up": ColwiseParallel(), "down": RowwiseParallel()})
        fully_shard(block, mesh=mesh["dp_shard"])
    fully_shard(model, mesh=mesh["dp_shard"])
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.001, betas=(0.9, 0.95))  # as tuned: scaler scales it

    sampler = DistributedSampler(train_data, run.data_parallel_size, run.data_parallel_rank)  # 2: who trains on what
    loader = DataLoader(train_data, batch_size=run.batch_size, sampler=sampler)
    model, optimizer, loader = run.prepare(model, optimizer, loader)
    epoch = 0
    complete = sorted(Path(checkpoint).glob("epoch-*/.metadata")) if checkpoint is not None else []
    if complete:  # torch writes .metadata last
        weights, moments = get_state_dict(model, optimizer)
        state = {"model": weights, "optimizer": moments, "run": "", "epoch": 0}
        dcp.load(state, checkpoint_id=complete[-1].parent)
        set_state_dict(model, optimizer, model_state_dict=weights, optim_state_dict=moments)
        run.load_state_dict(json.loads(state["run"]))
        epoch = state["epoch"]

    while not run.is_over:
        sampler.set_epoch(epoch)
        for x, y in loader:
            logits, y = model(x.to(device)), y.to(device)
            loss = cross_entropy(logits, y)
            scaler.record(loss=loss, accuracy=(logits.argmax(1) == y).float().mean())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        epoch += 1
        with torch.no_grad():  # with sharded weights, every process computes a forward, or none does
            logits = model(images[TRAIN_SIZE:].to(device)).cpu()
        run.evaluated(accuracy=(logits.argmax(1) == labels[TRAIN_SIZE:]).float().mean())
        if checkpoint is not None:
            weights, moments = get_state_dict(model, optimizer)
            state = {"model": weights, "optimizer": moments, "run": json.dumps(run.state_dict()), "epoch": epoch}
            dcp.save(state, checkpoint_id=Path(checkpoint, f"epoch-{epoch:03}"))


if __name__ == "__main__":
    main()
