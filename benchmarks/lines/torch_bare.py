"""Plain torch: data-parallel training, and nothing else. torchrun --nproc-per-node 2 torch_bare.py"""

import os

import task
import torch
import torch.distributed as dist
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler


def main() -> None:
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    torch.manual_seed(0)
    train_data, (inputs, labels) = task.data(), task.held_out().tensors
    net = task.network()
    model = DistributedDataParallel(net)
    optimizer = torch.optim.SGD(model.parameters(), lr=task.LR, momentum=task.MOMENTUM)
    sampler = DistributedSampler(train_data)
    loader = DataLoader(train_data, batch_size=task.BATCH, sampler=sampler)
    for epoch in range(task.EPOCHS):
        sampler.set_epoch(epoch)
        for x, y in loader:
            loss = cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            accuracy = task.accuracy(net(inputs), labels)
        if rank == 0:
            print(f"epoch {epoch}: accuracy {accuracy:.3f}")
        if str(epoch) == os.environ.get("STOP_AFTER"):
            break
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
