"""accelerate with a scaled learning rate, warmup, resume, metrics of every process, and a report.

torchrun --nproc-per-node 2 accelerate_full.py FOLDER
"""

import json
import os
import sys
from collections import defaultdict
from math import cos, pi
from pathlib import Path
from time import perf_counter

import task
import torch
from accelerate import Accelerator
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


class Place:
    """How far the training is, for accelerate's checkpoints."""

    def __init__(self) -> None:
        self.seen, self.epoch, self.evaluations = 0, 0, []

    def state_dict(self) -> dict:
        return dict(vars(self))

    def load_state_dict(self, state: dict) -> None:
        vars(self).update(state)


def main() -> None:
    accelerator = Accelerator(cpu=True)
    torch.manual_seed(0)
    inputs, labels = task.held_out().tensors
    model = task.network()
    optimizer = torch.optim.SGD(model.parameters(), lr=task.LR, momentum=task.MOMENTUM)
    loader = DataLoader(task.data(), batch_size=task.BATCH, shuffle=True)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    folder, rank, place = Path(sys.argv[1]), accelerator.process_index, Place()
    folder.mkdir(parents=True, exist_ok=True)
    accelerator.register_for_checkpointing(place)
    if (folder / "checkpoint").exists():
        accelerator.load_state(str(folder / "checkpoint"))
    metrics = (folder / f"rank-{rank}-from-{place.seen}.jsonl").open("w")
    for epoch in range(place.epoch, task.EPOCHS):
        loader.set_epoch(epoch)
        began = perf_counter()
        for x, y in loader:
            wait_s = perf_counter() - began
            samples = int(accelerator.reduce(torch.tensor(len(x)), reduction="sum"))
            lr = lr_at(place.seen, samples, task.BATCH * accelerator.num_processes)
            for group in optimizer.param_groups:
                group["lr"] = lr
            loss = cross_entropy(model(x), y)
            optimizer.zero_grad()
            accelerator.backward(loss)
            optimizer.step()
            row = {"rank": rank, "seen": place.seen, "samples": len(x), "loss": loss.item(), "lr": lr, "wait_s": wait_s}
            place.seen += samples
            metrics.write(json.dumps({**row, "step_s": perf_counter() - began}) + "\n")
            began = perf_counter()
        metrics.flush()
        with torch.no_grad():
            accuracy = task.accuracy(accelerator.unwrap_model(model)(inputs), labels)
        accelerator.print(f"epoch {epoch}: accuracy {accuracy:.3f}")
        place.epoch = epoch + 1
        place.evaluations.append({"seen": place.seen, "accuracy": accuracy})
        accelerator.save_state(str(folder / "checkpoint"))
        if str(epoch) == os.environ.get("STOP_AFTER"):
            break
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        (folder / "evaluations.json").write_text(json.dumps(place.evaluations))
        (folder / "report.md").write_text(report(folder))
    accelerator.end_training()


if __name__ == "__main__":
    main()
