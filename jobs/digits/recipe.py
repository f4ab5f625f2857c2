"""Handwritten digits: 1,797 real images of 8 x 8 pixels that scikit-learn ships, and an MLP."""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import TensorDataset

import scaler

TRAIN_SIZE = 1437  # the other 360 are for evaluation; the split is fixed


def build(hidden: int = 128) -> scaler.Recipe:
    """Return an MLP 64-hidden-hidden-10 and the digits."""
    digits = load_digits()
    order = torch.randperm(len(digits.target), generator=torch.Generator().manual_seed(0))
    images = torch.tensor(digits.data / 16.0, dtype=torch.float32)[order]
    labels = torch.tensor(digits.target)[order]
    return scaler.Recipe(
        model=nn.Sequential(
            nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, 10)
        ),
        train_data=TensorDataset(images[:TRAIN_SIZE], labels[:TRAIN_SIZE]),
        eval_data=TensorDataset(images[TRAIN_SIZE:], labels[TRAIN_SIZE:]),
        loss=lambda model, batch: cross_entropy(model(batch[0]), batch[1]),
        evaluate=evaluate,
    )


def evaluate(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the mean loss and accuracy of a batch, from one forward pass."""
    images, labels = batch
    logits = model(images)
    return {"loss": cross_entropy(logits, labels), "accuracy": (logits.argmax(1) == labels).float().mean()}
