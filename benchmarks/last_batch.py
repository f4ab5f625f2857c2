"""The effect of the last, short batch of an epoch: the digits' MLP with and without one, for each ``last_batch``.

Steps of 256 samples, 32 times the reference's batch of 8, 20 epochs with two of warmup and a cosine, five seeds. 1,280
samples leave no short batch; 1,281 leave one sample, 1,300 leave twenty. Each cell of the table is the final training
loss: mean (smallest to largest).
"""

import statistics
from tempfile import TemporaryDirectory
from typing import Any

import torch
from kept import Kept
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import TensorDataset

from scaler import Recipe
from scaler.job import parse_job
from scaler.plan import make_plan
from scaler.training.loop import Training
from scaler.training.randomness import seed_everything

SEEDS = range(5)
OPTIMIZERS: dict[str, tuple[float, dict[str, Any]]] = {
    "SGD": (0.05, {"name": "sgd"}),
    "SGD, momentum 0.9": (0.005, {"name": "sgd", "momentum": 0.9}),
    "AdamW": (0.001, {"name": "adamw", "weight_decay": 0.0}),
}


def final_loss(samples: int, seed: int, lr: float, optimizer: dict[str, Any], last_batch: str) -> float:
    torch.set_num_threads(1)
    inputs, labels = load_digits(return_X_y=True)
    order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(seed))[:samples]
    x, y = torch.tensor(inputs / 16.0, dtype=torch.float32)[order], torch.tensor(labels)[order]
    seed_everything(seed)
    model = nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10))
    recipe = Recipe(
        model=model,
        train_data=TensorDataset(x, y),
        loss=lambda model, batch: nn.functional.cross_entropy(model(batch[0]), batch[1]),
    )
    job = parse_job(
        {
            "name": "last-batch",
            "recipe": "recipe:build",
            "reference": {"global_batch_size": 8, "lr": lr, "optimizer": optimizer},
            "scale": {"global_batch_size": 256},
            "schedule": {"name": "cosine", "warmup": {"epochs": 2}},
            "train": {"epochs": 20, "seed": seed, "last_batch": last_batch, "num_samples": samples},
            "failures": {"divergence": None},
            "checkpoint": {"every": {"epochs": 1000}},
        },
        source="benchmark",
    )
    with TemporaryDirectory() as folder:
        Training(recipe, job, make_plan(job, 1), Kept(0, 1, folder)).run()
    with torch.no_grad():
        return float(nn.functional.cross_entropy(model(x), y))


def main() -> None:
    print("| optimizer | samples | scale | drop | carry |\n|---|---|---|---|---|")
    for name, (lr, optimizer) in OPTIMIZERS.items():
        for samples in (1280, 1281, 1300):
            cells = []
            for way in ("scale", "drop", "carry"):
                found = [final_loss(samples, seed, lr, optimizer, way) for seed in SEEDS]
                cells.append(f"{statistics.mean(found):.3f} ({min(found):.3f} to {max(found):.3f})")
            print(f"| {name} | {samples:,} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
