"""Handwritten digits with a training loop of one's own; the five lines that make it a scaler run are marked.

python train.py                              one process
torchrun --nproc-per-node 2 train.py         two processes
"""

import os
from pathlib import Path

import torch
import torch.distributed as dist
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

import scaler

TRAIN_SIZE = 1437


def main() -> None:
    """Train to the end."""
    is_distributed = "WORLD_SIZE" in os.environ
    if is_distributed:
        dist.init_process_group()
    torch.manual_seed(0)
    digits = load_digits()
    images, labels = torch.tensor(digits.data / 16.0, dtype=torch.float32), torch.tensor(digits.target)
    train_data = TensorDataset(images[:TRAIN_SIZE], labels[:TRAIN_SIZE])
    model: nn.Module = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10))
    if is_distributed:
        model = DistributedDataParallel(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.03, momentum=0.9)  # as tuned: scaler scales it

    run = scaler.start(Path(__file__).parent, num_samples=len(train_data))  # 1
    sampler = DistributedSampler(train_data) if is_distributed else None
    loader = DataLoader(train_data, batch_size=run.batch_size, shuffle=sampler is None, sampler=sampler)  # 2
    model, optimizer, loader = run.prepare(model, optimizer, loader)  # 3

    for epoch in range(15):
        if sampler is not None:
            sampler.set_epoch(epoch)
        for x, y in loader:
            logits = model(x)
            loss = cross_entropy(logits, y)
            scaler.record(loss=loss, accuracy=(logits.argmax(1) == y).float().mean())  # 4
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            logits = model(images[TRAIN_SIZE:])
        run.evaluated(accuracy=(logits.argmax(1) == labels[TRAIN_SIZE:]).float().mean())  # 5


if __name__ == "__main__":
    main()
