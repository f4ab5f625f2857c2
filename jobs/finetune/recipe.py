"""Fine-tuning: a backbone trained on the digits 0 to 4, a new head for the digits 5 to 9."""

from collections import OrderedDict

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import TensorDataset

import scaler

OLD, NEW = (0, 1, 2, 3, 4), (5, 6, 7, 8, 9)
TRAIN_SIZE = 100  # of the new digits; few, as is usual in fine-tuning
PRETRAIN_EPOCHS = 30


def build(hidden: int = 128) -> scaler.Recipe:
    """Return a model ``backbone`` + ``head`` and the digits that the backbone has never seen."""
    parts = {"backbone": _pretrained(hidden), "head": nn.Linear(hidden, len(NEW))}
    images, labels = _digits(NEW)
    return scaler.Recipe(
        model=nn.Sequential(OrderedDict(parts)),
        train_data=TensorDataset(images[:TRAIN_SIZE], labels[:TRAIN_SIZE]),
        eval_data=TensorDataset(images[TRAIN_SIZE:], labels[TRAIN_SIZE:]),
        loss=lambda model, batch: cross_entropy(model(batch[0]), batch[1]),
        evaluate=evaluate,
    )


def evaluate(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the mean loss and accuracy of a batch."""
    images, labels = batch
    logits = model(images)
    return {"loss": cross_entropy(logits, labels), "accuracy": (logits.argmax(1) == labels).float().mean()}


def _backbone(hidden: int) -> nn.Module:
    return nn.Sequential(nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU())


def _pretrained(hidden: int) -> nn.Module:
    """Return the backbone, trained on the old digits in a second; a real job would load a file."""
    images, labels = _digits(OLD)
    backbone = _backbone(hidden)
    model = nn.Sequential(backbone, nn.Linear(hidden, len(OLD)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for _ in range(PRETRAIN_EPOCHS):
        for index in torch.randperm(len(labels)).split(32):
            optimizer.zero_grad()
            cross_entropy(model(images[index]), labels[index]).backward()
            optimizer.step()
    return backbone


def _digits(classes: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the images of some digits in a fixed order, and their labels, which start at 0."""
    digits = load_digits()
    images = torch.tensor(digits.data / 16.0, dtype=torch.float32)
    labels = torch.tensor(digits.target)
    chosen = torch.nonzero(torch.isin(labels, torch.tensor(classes))).flatten()
    chosen = chosen[torch.randperm(len(chosen), generator=torch.Generator().manual_seed(0))]
    return images[chosen], labels[chosen] - classes[0]
