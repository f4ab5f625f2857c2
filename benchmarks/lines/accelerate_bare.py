"""accelerate: data-parallel training, and nothing else. torchrun --nproc-per-node 2 accelerate_bare.py"""

import os

import task
import torch
from accelerate import Accelerator
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader


def main() -> None:
    accelerator = Accelerator(cpu=True)
    torch.manual_seed(0)
    inputs, labels = task.held_out().tensors
    model = task.network()
    optimizer = torch.optim.SGD(model.parameters(), lr=task.LR, momentum=task.MOMENTUM)
    loader = DataLoader(task.data(), batch_size=task.BATCH, shuffle=True)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    for epoch in range(task.EPOCHS):
        for x, y in loader:
            loss = cross_entropy(model(x), y)
            optimizer.zero_grad()
            accelerator.backward(loss)
            optimizer.step()
        with torch.no_grad():
            accuracy = task.accuracy(accelerator.unwrap_model(model)(inputs), labels)
        accelerator.print(f"epoch {epoch}: accuracy {accuracy:.3f}")
        if str(epoch) == os.environ.get("STOP_AFTER"):
            break
    accelerator.end_training()


if __name__ == "__main__":
    main()
