"""A script with a loop of its own that crashes once, and continues from its own checkpoint."""

import os
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.functional import mse_loss
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

import scaler


def main(checkpoint: str, crash_epoch: int = -1) -> None:
    if "WORLD_SIZE" in os.environ:  # as a script for torchrun
        dist.init_process_group()
    path = Path(checkpoint)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200, 3, generator=generator)
    data = TensorDataset(x, x.sum(1, keepdim=True))
    torch.manual_seed(0)
    plain = nn.Linear(3, 1)
    model: nn.Module = DistributedDataParallel(plain)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    run = scaler.start("not read.yaml", num_samples=len(data))
    sampler = DistributedSampler(data, seed=0)
    loader = DataLoader(data, batch_size=run.batch_size, sampler=sampler)
    model, optimizer, loader = run.prepare(model, optimizer, loader)
    first = 0
    if path.exists():
        saved = torch.load(path)
        plain.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        run.load_state_dict(saved["run"])
        first = saved["epoch"]
    for epoch in range(first, 3):
        sampler.set_epoch(epoch)
        for number, (inputs, targets) in enumerate(loader):
            if epoch == crash_epoch and not first and number == 5 and dist.get_rank() == 1:
                os._exit(1)
            loss = mse_loss(model(inputs), targets)
            scaler.record(loss=loss)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        state = {"model": plain.state_dict(), "optimizer": optimizer.state_dict(), "epoch": epoch + 1}
        state["run"] = run.state_dict()
        if dist.get_rank() == 0:
            torch.save(state, path)
    run.evaluated(loss=float(loss.detach()))
    dist.destroy_process_group()
