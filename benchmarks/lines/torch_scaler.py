"""Plain torch with scaler.start: a scaled learning rate, warmup, resume, metrics of every process, and a report.

torchrun --nproc-per-node 2 torch_scaler.py FOLDER
"""

import os
import sys
from pathlib import Path

import task
import torch
import torch.distributed as dist
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler

import scaler


def main() -> None:
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    torch.manual_seed(0)
    train_data, (inputs, labels) = task.data(), task.held_out().tensors
    net = task.network()
    model = DistributedDataParallel(net)
    optimizer = torch.optim.SGD(model.parameters(), lr=task.LR, momentum=task.MOMENTUM)
    sampler = DistributedSampler(train_data)
    run = scaler.start(Path(__file__).parent, num_samples=len(train_data), storage=sys.argv[1])
    loader = DataLoader(train_data, batch_size=run.batch_size, sampler=sampler)
    model, optimizer, loader = run.prepare(model, optimizer, loader)
    checkpoint, first_epoch = Path(sys.argv[1], "checkpoint.pt"), 0
    if checkpoint.exists():
        saved = torch.load(checkpoint)
        net.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        run.load_state_dict(saved["run"])
        first_epoch = saved["epoch"]
    for epoch in range(first_epoch, task.EPOCHS):
        sampler.set_epoch(epoch)
        for x, y in loader:
            loss = cross_entropy(model(x), y)
            scaler.record(loss=loss)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            accuracy = task.accuracy(net(inputs), labels)
        run.evaluated(accuracy=accuracy)
        state = {"model": net.state_dict(), "optimizer": optimizer.state_dict()}
        state |= {"run": run.state_dict(), "epoch": epoch + 1}
        if rank == 0:
            print(f"epoch {epoch}: accuracy {accuracy:.3f}")
            torch.save(state, checkpoint)
        if str(epoch) == os.environ.get("STOP_AFTER"):
            break
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
