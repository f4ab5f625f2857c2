"""CLIP on handwritten digits (8 x 8 pixels, from scikit-learn): which right half of an image belongs to which left one.

The loss compares all samples of a step with each other, also those of other workers: ``scaler.all_gather``.
"""

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize
from torch.utils.data import TensorDataset

import scaler

TRAIN_SIZE = 1437  # the other 360 are for evaluation; the split is fixed


class TwoTowers(nn.Module):
    """An encoder for each half, and a temperature."""

    def __init__(self, hidden: int, features: int) -> None:
        super().__init__()
        self.left, self.right = (
            nn.Sequential(nn.Linear(32, hidden), nn.ReLU(), nn.Linear(hidden, features)) for _ in range(2)
        )
        self.log_scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        left, right = images.unflatten(1, (8, 8)).split(4, dim=2)
        return normalize(self.left(left.flatten(1)), dim=1), normalize(self.right(right.flatten(1)), dim=1)


def build(hidden: int = 128, features: int = 32) -> scaler.Recipe:
    """Return the two encoders and the digits."""
    digits = load_digits()
    order = torch.randperm(len(digits.target), generator=torch.Generator().manual_seed(0))
    images = torch.tensor(digits.data / 16.0, dtype=torch.float32)[order]
    labels = torch.tensor(digits.target)[order]
    return scaler.Recipe(
        model=TwoTowers(hidden, features),
        train_data=TensorDataset(images[:TRAIN_SIZE]),
        loss=loss,
        loss_over="global_batch",
        eval_data=TensorDataset(images[TRAIN_SIZE:], labels[TRAIN_SIZE:]),
        evaluate=evaluate,
        metrics=metrics,
    )


def loss(model: nn.Module, batch: tuple[Tensor, ...]) -> dict[str, Tensor]:
    """Return CLIP's loss of the rows of all workers, and how often the right half is found among them."""
    left, right = (scaler.all_gather(rows) for rows in model(batch[0]))
    logits = model.log_scale.exp() * left @ right.T
    targets = torch.arange(len(logits), device=logits.device)
    return {
        "loss": (cross_entropy(logits, targets) + cross_entropy(logits.T, targets)) / 2,
        "found": (logits.argmax(1) == targets).float().mean(),
    }


def evaluate(model: nn.Module, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
    """Return the features of both halves; ``metrics`` gets those of all the data."""
    left, right = model(batch[0])
    return {"left": left, "right": right, "labels": batch[1]}


def metrics(left: Tensor, right: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Return how often the right half is found among 360, and how often the nearest other image is the same digit."""
    both = torch.cat([left, right], dim=1)
    near = (both @ both.T).fill_diagonal_(-torch.inf).argmax(1)
    return {
        "found": ((left @ right.T).argmax(1) == torch.arange(len(left))).float().mean(),
        "same_digit": (labels[near] == labels).float().mean(),
    }
