"""ImageNet and ResNet-50, as in Goyal et al. 2017, https://arxiv.org/abs/1706.02677, section 5.1. Needs torchvision."""

from pathlib import Path

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torchvision.datasets import FakeData, ImageFolder
from torchvision.models import resnet50
from torchvision.transforms import v2

import scaler

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's pixels, for each colour
NUM_CLASSES = 1000


def build(
    data: str = "imagenet",
    image_size: int | None = None,
    fake_data: bool = False,
    fake_size: int = 256,
) -> scaler.Recipe:
    """Return ResNet-50 and ImageNet.

    Args:
        data: folder with ``train/`` and ``val/``, each with one folder for each class; not read with ``fake_data``.
        image_size: side length in pixels of the model's input. None: 224, or 64 with ``fake_data``.
        fake_data: train on random images with random labels; everything runs, but there is nothing to learn.
        fake_size: number of random images for training, and also for evaluation.
    """
    size = image_size or (64 if fake_data else 224)
    if fake_data:
        shape = (3, size, size)
        train_data = FakeData(fake_size, shape, NUM_CLASSES, transform=augment(size))
        eval_data = FakeData(fake_size, shape, NUM_CLASSES, transform=centre(size), random_offset=fake_size)
    else:
        train_data = ImageFolder(Path(data, "train"), transform=augment(size))
        eval_data = ImageFolder(Path(data, "val"), transform=centre(size))
    return scaler.Recipe(
        model=model(),
        train_data=train_data,
        eval_data=eval_data,
        loss=lambda model, batch: cross_entropy(model(batch[0]), batch[1]),
        evaluate=evaluate,
    )


def model() -> nn.Module:
    """Return ResNet-50 with gamma = 0 in the last BatchNorm of every residual block."""
    network = resnet50(zero_init_residual=True)
    nn.init.normal_(network.fc.weight, std=0.01)
    return network


def augment(size: int) -> v2.Transform:
    """Return the training images' transform: a random crop of 8 to 100% of the area, flipped at random."""
    return v2.Compose([v2.RandomResizedCrop(size), v2.RandomHorizontalFlip(), *normalised()])


def centre(size: int) -> v2.Transform:
    """Return the evaluation images' transform: the middle of the image, 224 of 256 pixels."""
    return v2.Compose([v2.Resize(size * 256 // 224), v2.CenterCrop(size), *normalised()])


def normalised() -> list[v2.Transform]:
    return [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]


def evaluate(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the mean loss and the share of images whose most likely class is wrong."""
    images, labels = batch
    logits = model(images)
    return {"loss": cross_entropy(logits, labels), "top1_error": (logits.argmax(1) != labels).float().mean()}
