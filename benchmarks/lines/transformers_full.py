"""Transformers with a scaled learning rate, warmup, resume, metrics of every process, and a report.

torchrun --nproc-per-node 2 transformers_full.py FOLDER
"""

import json
import os
import sys
from collections import defaultdict
from math import ceil, cos, pi
from pathlib import Path
from time import perf_counter
from typing import Any

import task
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import ExportableState
from transformers.trainer_utils import get_last_checkpoint


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


class Recorded(TrainerCallback, ExportableState):
    """Writes the learning rate of each step, and the metrics of each process."""

    def __init__(self, folder: Path, seen: int = 0, evaluations: list | None = None) -> None:
        self.folder, self.seen, self.evaluations = Path(folder), seen, evaluations or []
        self.samples, self.rank = 0, int(os.environ["RANK"])

    def state(self) -> dict:
        return {
            "args": {"folder": str(self.folder), "seen": self.seen, "evaluations": self.evaluations},
            "attributes": {},
        }

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        self.metrics = (self.folder / f"rank-{self.rank}-from-{self.seen}.jsonl").open("w")

    def on_epoch_begin(self, args, state, control, **kwargs) -> None:
        self.began = perf_counter()

    def on_forward(self, samples: int) -> None:
        self.wait_s, self.samples = perf_counter() - self.began, samples

    def on_pre_optimizer_step(self, args, state, control, optimizer=None, **kwargs) -> None:
        samples = torch.tensor(self.samples)
        dist.all_reduce(samples)
        self.all_samples, self.lr = int(samples), lr_at(self.seen, int(samples), task.BATCH * args.world_size)
        for group in optimizer.param_groups:
            group["lr"] = self.lr

    def on_step_end(self, args, state, control, **kwargs) -> None:
        row = {"rank": self.rank, "seen": self.seen, "samples": self.samples, "lr": self.lr, "loss": self.loss}
        self.metrics.write(json.dumps({**row, "wait_s": self.wait_s, "step_s": perf_counter() - self.began}) + "\n")
        self.seen += self.all_samples
        self.began = perf_counter()

    def on_evaluate(self, args, state, control, metrics=None, **kwargs) -> None:
        self.evaluations.append({"seen": self.seen, "accuracy": metrics["eval_accuracy"]})

    def on_train_end(self, args, state, control, **kwargs) -> None:
        self.metrics.close()
        dist.barrier()
        if self.rank == 0:
            (self.folder / "evaluations.json").write_text(json.dumps(self.evaluations))
            (self.folder / "report.md").write_text(report(self.folder))


class RecordingTrainer(Trainer):
    """Gives each loss of this process to the callback."""

    def compute_loss(self, model, inputs, **kwargs):
        recorded = next(each for each in self.callback_handler.callbacks if isinstance(each, Recorded))
        recorded.on_forward(len(inputs["labels"]))
        loss = super().compute_loss(model, inputs, **kwargs)
        if model.training:
            recorded.loss = float((loss[0] if isinstance(loss, tuple) else loss).detach())
        return loss


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = task.network()

    def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
        logits = self.net(x)
        return {"loss": cross_entropy(logits, labels), "logits": logits}


def collate(samples: list[Any]) -> dict[str, Tensor]:
    return {"x": torch.stack([x for x, _ in samples]), "labels": torch.stack([y for _, y in samples])}


def main() -> None:
    torch.manual_seed(0)
    model = Model()
    optimizer = torch.optim.SGD(model.parameters(), lr=task.LR, momentum=task.MOMENTUM)
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    arguments = TrainingArguments(
        output_dir=str(folder),
        restore_callback_states_from_checkpoint=True,
        per_device_train_batch_size=task.BATCH,
        num_train_epochs=int(os.environ.get("STOP_AFTER", task.EPOCHS - 1)) + 1,
        lr_scheduler_type="constant",
        eval_strategy="epoch",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        save_strategy="epoch",
    )
    last = get_last_checkpoint(str(folder))
    with arguments.main_process_first():
        if last is not None:  # it counts steps, and another number of processes has other steps in an epoch
            path = Path(last, "trainer_state.json")
            state = json.loads(path.read_text())
            state["global_step"] = round(state["epoch"]) * ceil(task.SAMPLES / (task.BATCH * arguments.world_size))
            path.write_text(json.dumps(state))
    trainer = RecordingTrainer(
        model,
        arguments,
        train_dataset=task.data(),
        eval_dataset=task.held_out(),
        data_collator=collate,
        compute_metrics=lambda out: {
            "accuracy": task.accuracy(torch.tensor(out.predictions), torch.tensor(out.label_ids))
        },
        optimizers=(optimizer, None),
        callbacks=[Recorded(folder)],
    )
    trainer.train(resume_from_checkpoint=last)


if __name__ == "__main__":
    main()
