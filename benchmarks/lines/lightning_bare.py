"""Lightning: data-parallel training, and nothing else. torchrun --nproc-per-node 2 lightning_bare.py"""

import os

import lightning
import task
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader


class Module(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = task.network()

    def training_step(self, batch: list[Tensor], index: int) -> Tensor:
        x, y = batch
        return cross_entropy(self.net(x), y)

    def validation_step(self, batch: list[Tensor], index: int) -> None:
        x, y = batch
        self.log("accuracy", task.accuracy(self.net(x), y), sync_dist=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=task.LR, momentum=task.MOMENTUM)


def main() -> None:
    lightning.seed_everything(0, verbose=False)
    loader = DataLoader(task.data(), batch_size=task.BATCH, shuffle=True)
    val_loader = DataLoader(task.held_out(), batch_size=100)
    world_size = int(os.environ["WORLD_SIZE"])
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=world_size,
        strategy="ddp",
        max_epochs=int(os.environ.get("STOP_AFTER", task.EPOCHS - 1)) + 1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(Module(), loader, val_loader)


if __name__ == "__main__":
    main()
