"""The recipe of ``on_gpu.py``: residual blocks on vectors, or convolutions on images, with made-up data."""

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import TensorDataset

import scaler

INPUTS, CLASSES, PIXELS = 64, 10, 16


class Block(nn.Module):
    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.parts = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.dropout(self.parts(x))  # type: ignore[no-any-return]


def vectors(width: int, depth: int, dropout: float) -> nn.Module:
    blocks = nn.Sequential(*(Block(width, dropout) for _ in range(depth)))
    return nn.Sequential(nn.Linear(INPUTS, width), blocks, nn.Linear(width, CLASSES))


def images(width: int, depth: int) -> nn.Module:
    layers: list[nn.Module] = [nn.Conv2d(3, width, 3, padding=1), nn.ReLU()]
    for _ in range(depth):
        layers += [nn.Conv2d(width, width, 3, padding=1), nn.GroupNorm(8, width), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, CLASSES))


def build(
    width: int,
    depth: int,
    samples: int,
    convolutions: bool = False,
    dropout: float = 0.0,
    overflow_at: int | None = None,
) -> scaler.Recipe:
    """Return the recipe.

    Args:
        width: of a block, or channels of a convolution.
        depth: number of blocks or convolutions.
        samples: in the training set.
        convolutions: whether the data are images.
        dropout: of the blocks.
        overflow_at: the step, from 0, whose gradient is infinite; None: no step's.
    """
    generator = torch.Generator().manual_seed(0)
    shape = (3, PIXELS, PIXELS) if convolutions else (INPUTS,)
    inputs = torch.randn(samples, *shape, generator=generator)
    means = inputs.mean((2, 3)) * PIXELS if convolutions else inputs
    labels = (means @ torch.randn(means.shape[1], CLASSES, generator=generator)).argmax(1)
    model = images(width, depth) if convolutions else vectors(width, depth, dropout)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    calls = 0

    def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        nonlocal calls
        found = cross_entropy(model(batch[0]), batch[1])
        if calls == overflow_at:
            found.register_hook(lambda grad: grad * float("inf"))
        calls += 1
        return found

    return scaler.Recipe(
        model=model,
        train_data=TensorDataset(inputs, labels),
        loss=loss,
        loss_over="micro_batch",  # the probe would count as calls
        flops_per_sample=None if convolutions else 6.0 * parameters,
    )
