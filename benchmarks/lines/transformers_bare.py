"""Transformers: data-parallel training, and nothing else. torchrun --nproc-per-node 2 transformers_bare.py"""

import os
from typing import Any

import task
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import Trainer, TrainingArguments


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
    arguments = TrainingArguments(
        output_dir="/tmp/transformers_bare",
        per_device_train_batch_size=task.BATCH,
        num_train_epochs=int(os.environ.get("STOP_AFTER", task.EPOCHS - 1)) + 1,
        lr_scheduler_type="constant",
        eval_strategy="epoch",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        save_strategy="no",
    )
    trainer = Trainer(
        model,
        arguments,
        train_dataset=task.data(),
        eval_dataset=task.held_out(),
        data_collator=collate,
        compute_metrics=lambda out: {
            "accuracy": task.accuracy(torch.tensor(out.predictions), torch.tensor(out.label_ids))
        },
        optimizers=(optimizer, None),
    )
    trainer.train()


if __name__ == "__main__":
    main()
