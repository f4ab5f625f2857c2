"""Plain torch with a scaled learning rate, warmup, resume, metrics of every process, and a report.

torchrun --nproc-per-node 2 torch_full.py FOLDER
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
import torch.distributed as dist
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler


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
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = folder / "checkpoint.pt"
    seen, first_epoch, evaluations = 0, 0, []
    if checkpoint.exists():
        saved = torch.load(checkpoint)
        net.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        seen, first_epoch, evaluations = saved["seen"], saved["epoch"], saved["evaluations"]
    metrics = (folder / f"rank-{rank}-from-{seen}.jsonl").open("w")
    for epoch in range(first_epoch, task.EPOCHS):
        sampler.set_epoch(epoch)
        began = perf_counter()
        for x, y in loader:
            wait_s = perf_counter() - began
            samples = torch.tensor(len(x))
            dist.all_reduce(samples)
            lr = lr_at(seen, int(samples), task.BATCH * dist.get_world_size())
            for group in optimizer.param_groups:
                group["lr"] = lr
            loss = cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            row = {"rank": rank, "seen": seen, "samples": len(x), "loss": loss.item(), "lr": lr, "wait_s": wait_s}
            seen += int(samples)
            metrics.write(json.dumps({**row, "step_s": perf_counter() - began}) + "\n")
            began = perf_counter()
        metrics.flush()
        with torch.no_grad():
            accuracy = task.accuracy(net(inputs), labels)
        if rank == 0:
            print(f"epoch {epoch}: accuracy {accuracy:.3f}")
            evaluations.append({"seen": seen, "accuracy": accuracy})
            state = {"model": net.state_dict(), "optimizer": optimizer.state_dict()}
            state |= {"seen": seen, "epoch": epoch + 1, "evaluations": evaluations}
            torch.save(state, checkpoint.with_suffix(".part"))
            checkpoint.with_suffix(".part").replace(checkpoint)
        if str(epoch) == os.environ.get("STOP_AFTER"):
            break
    dist.barrier()
    if rank == 0:
        (folder / "evaluations.json").write_text(json.dumps(evaluations))
        (folder / "report.md").write_text(report(folder))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
