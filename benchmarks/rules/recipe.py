"""The recipe of the comparison: handwritten digits and a small MLP with smooth units."""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import TensorDataset

import scaler

TRAIN_SIZE = 1280  # 517 are held out; the split is fixed


def build() -> scaler.Recipe:
    """Return an MLP 64-32-10 with tanh, evaluated on its training data: the rules are about the training loss."""
    train, _ = _parts()
    return scaler.Recipe(
        model=nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10)),
        train_data=train,
        eval_data=train,
        loss=lambda model, batch: cross_entropy(model(batch[0]), batch[1]),
    )


def digits(hidden: int = 64) -> scaler.Recipe:
    """Return an MLP 64-hidden-hidden-10 with ReLU, evaluated on the held-out digits: the recipe of the experiments."""
    train, test = _parts()
    return scaler.Recipe(
        model=nn.Sequential(
            nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, 10)
        ),
        train_data=train,
        eval_data=test,
        loss=lambda model, batch: cross_entropy(model(batch[0]), batch[1]),
        evaluate=evaluate,
    )


def evaluate(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the mean loss and accuracy of a batch."""
    logits = model(batch[0])
    return {"loss": cross_entropy(logits, batch[1]), "accuracy": (logits.argmax(1) == batch[1]).float().mean()}


def held_out(model: nn.Module) -> float:
    """Return the accuracy on the held-out digits."""
    _, test = _parts()
    with torch.no_grad():
        return float(evaluate(model, test.tensors)["accuracy"])


def noise_scale(model: nn.Module) -> float:
    """Return the gradient noise scale on the training data, exactly: from the gradient of every sample."""
    images, labels = build().train_data.tensors  # type: ignore[attr-defined]
    weights = {name: tensor.detach() for name, tensor in model.named_parameters()}

    def loss(weights: dict[str, torch.Tensor], image: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        return cross_entropy(torch.func.functional_call(model, weights, image[None]), label[None])

    found = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))(weights, images, labels)
    gradients = torch.cat([gradient.flatten(1) for gradient in found.values()], dim=1).double()
    signal = float(gradients.mean(0).square().sum())
    return float(gradients.square().sum(1).mean() - signal) / signal


def _parts() -> tuple[TensorDataset, TensorDataset]:
    """Return the images and labels for training, and those that are held out."""
    data = load_digits()
    order = torch.randperm(len(data.target), generator=torch.Generator().manual_seed(0))
    images = torch.tensor(data.data / 16.0, dtype=torch.float32)[order]
    labels = torch.tensor(data.target)[order]
    return TensorDataset(images[:TRAIN_SIZE], labels[:TRAIN_SIZE]), TensorDataset(
        images[TRAIN_SIZE:], labels[TRAIN_SIZE:]
    )
