"""Lightning with a scaled learning rate, warmup, resume, metrics of every process, and a report.

torchrun --nproc-per-node 2 lightning_full.py FOLDER
"""

import json
import os
import sys
from collections import defaultdict
from math import cos, pi
from pathlib import Path
from time import perf_counter

import lightning
import task
import torch
import torch.distributed as dist
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader


def lr_at(seen: int, samples: int, batch: int) -> float:
    peak = task.LR * samples / task.REFERENCE_BATCH
    warmup, total = task.WARMUP_EPOCHS * task.SAMPLES, task.EPOCHS * task.SAMPLES
    if seen < warmup:
        start = min(1.0, task.REFERENCE_BATCH / batch)
        return peak * (start + (1 - start) * seen / warmup)
    return peak * 0.5 * (1 + cos(pi * min(1.0, (seen - warmup) / (total - warmup))))


def report(folder: Path) -> str:
    rows = [json.loads(line) for path in folder.glob("rank-*.jsonl") for line in path.read_text().splitlines()]
    of_rank = defaultdict(list)
    for row in rows:
        of_rank[row["rank"]].append(row)
    lines = ["| rank | steps | samples | samples/s | loss | data wait |", "|---|---|---|---|---|---|"]
    for rank, own in sorted(of_rank.items()):
        samples, time_s = sum(row["samples"] for row in own), sum(row["step_s"] for row in own)
        loss = sum(row["loss"] * row["samples"] for row in own) / samples
        wait = sum(row["wait_s"] for row in own) / time_s
        lines.append(f"| {rank} | {len(own)} | {samples} | {samples / time_s:.0f} | {loss:.4f} | {wait:.0%} |")
    for row in json.loads((folder / "evaluations.json").read_text()):
        lines.append(f"- {row['seen']} samples: accuracy {row['accuracy']:.3f}")
    return "\n".join(lines) + "\n"


class Recorded(lightning.Callback):
    """Writes the learning rate of each step, and the metrics of each process."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.seen, self.evaluations = folder, 0, []

    def state_dict(self) -> dict:
        return {"seen": self.seen, "evaluations": self.evaluations}

    def load_state_dict(self, state: dict) -> None:
        vars(self).update(state)

    def on_train_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        self.metrics = (self.folder / f"rank-{trainer.global_rank}-from-{self.seen}.jsonl").open("w")

    def on_train_epoch_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        self.began = perf_counter()

    def on_train_batch_start(self, trainer: lightning.Trainer, module: lightning.LightningModule, batch, index) -> None:
        self.wait_s = perf_counter() - self.began
        samples = torch.tensor(len(batch[0]))
        dist.all_reduce(samples)
        self.samples, self.lr = int(samples), lr_at(self.seen, int(samples), task.BATCH * trainer.world_size)
        for group in trainer.optimizers[0].param_groups:
            group["lr"] = self.lr

    def on_train_batch_end(self, trainer: lightning.Trainer, module, outputs, batch, index) -> None:
        row = {"rank": trainer.global_rank, "seen": self.seen, "samples": len(batch[0]), "lr": self.lr}
        row |= {"loss": float(outputs["loss"]), "wait_s": self.wait_s, "step_s": perf_counter() - self.began}
        self.metrics.write(json.dumps(row) + "\n")
        self.seen += self.samples
        self.began = perf_counter()

    def on_validation_epoch_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        accuracy = float(trainer.callback_metrics["accuracy"])
        self.evaluations.append({"seen": self.seen, "accuracy": accuracy})

    def on_train_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        self.metrics.close()
        trainer.strategy.barrier()
        if trainer.is_global_zero:
            (self.folder / "evaluations.json").write_text(json.dumps(self.evaluations))
            (self.folder / "report.md").write_text(report(self.folder))


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
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = folder / "last.ckpt"
    saves = ModelCheckpoint(folder, save_last=True, enable_version_counter=False, save_top_k=0)
    trainer = lightning.Trainer(
        callbacks=[Recorded(folder), saves],
        accelerator="cpu",
        devices=world_size,
        strategy="ddp",
        max_epochs=int(os.environ.get("STOP_AFTER", task.EPOCHS - 1)) + 1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(Module(), loader, val_loader, ckpt_path=checkpoint if checkpoint.exists() else None)


if __name__ == "__main__":
    main()
