"""Find the bright squares in small images: a batch is lists of tensors of different sizes, as in detection.

Images have different widths, and different numbers of boxes. Each cell of a grid predicts whether a square's centre is
in it, and where. The average precision is no mean over samples: evaluate returns the boxes of each image, and metrics
gets those of all images.
"""

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, smooth_l1_loss
from torch.utils.data import Dataset

import scaler

CELL, HEIGHT, SIDE = 8, 32, 6
Sample = tuple[Tensor, Tensor]  # image (1, HEIGHT, width); centres of the squares (n, 2), y and x in pixels


class Squares(Dataset[Sample]):
    """Images of 1 to 4 squares on noise; each is made from its index."""

    def __init__(self, size: int, *, first: int, most: int = 4) -> None:
        self.size, self.first, self.most = size, first, most

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Sample:
        generator = torch.Generator().manual_seed(self.first + index)

        def draw(low: int, high: int) -> int:
            return int(torch.randint(low, high, (), generator=generator))

        rows, columns = HEIGHT // CELL, draw(3, 7)
        image = 0.3 * torch.randn(1, HEIGHT, columns * CELL, generator=generator)
        cells = torch.randperm(rows * columns, generator=generator)[: draw(1, self.most + 1)].tolist()
        corners = []
        for cell in cells:
            y = min(cell // columns * CELL + draw(0, CELL - SIDE + 1), HEIGHT - SIDE)
            x = cell % columns * CELL + draw(0, CELL - SIDE + 1)
            image[:, y : y + SIDE, x : x + SIDE] += 1
            corners.append([y, x])
        return image, torch.tensor(corners, dtype=torch.float32) + SIDE / 2


def collate(samples: list[Sample]) -> tuple[list[Tensor], list[Tensor]]:
    """Return the images and the centres as lists, because their sizes differ."""
    images, centres = zip(*samples, strict=True)
    return list(images), list(centres)


class Detector(nn.Module):
    """Returns (rows, columns, 3) for each image: a logit, and the centre's place in the cell, y and x from 0 to 1."""

    def __init__(self, width: int) -> None:
        super().__init__()
        channels = [1, width, width, width]
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(few, many, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
            for few, many in pairwise(channels)
        )
        self.last = nn.Conv2d(width, 3, 1)

    def forward(self, images: list[Tensor]) -> list[Tensor]:
        """Detect in images of different widths: they are padded to one batch, and cut to their sizes again.

        What a block writes beyond an image's own width is set to 0 again. Else the result for an image would depend on
        the widest image of its batch, and so on the number of workers; scaler finds that before the first step.
        """
        widths = torch.tensor([image.shape[2] for image in images], device=images[0].device)
        widest = int(widths.max())
        values = torch.stack([nn.functional.pad(image, (0, widest - image.shape[2])) for image in images])
        for block in self.blocks:
            values, widths = block(values), widths // 2
            is_inside = torch.arange(values.shape[3], device=values.device) < widths[:, None]
            values = values * is_inside[:, None, None]
        grids = self.last(values).permute(0, 2, 3, 1)
        return [grid[:, :width] for grid, width in zip(grids, widths.tolist(), strict=True)]


def loss(model: nn.Module, batch: tuple[list[Tensor], list[Tensor]]) -> Tensor:
    """Return the mean over images of the loss of all cells and of the squares' places."""
    images, centres = batch
    return torch.stack([_image_loss(*pair) for pair in zip(model(images), centres, strict=True)]).mean()


def _image_loss(grid: Tensor, centres: Tensor) -> Tensor:
    cells = (centres / CELL).long()
    is_square = grid.new_zeros(grid.shape[:2])
    is_square[cells[:, 0], cells[:, 1]] = 1
    places = grid[cells[:, 0], cells[:, 1], 1:]
    return binary_cross_entropy_with_logits(grid[..., 0], is_square) + smooth_l1_loss(places, centres / CELL - cells)


def evaluate(model: nn.Module, batch: tuple[list[Tensor], list[Tensor]]) -> dict[str, Any]:
    """Return the loss, and lists with one tensor an image: centres with their scores, and the true centres."""
    images, centres = batch
    return {"loss": loss(model, batch), "found": [_centres(grid) for grid in model(images)], "centres": centres}


def _centres(grid: Tensor) -> Tensor:
    """Return (n, 3): score, y, x of the cells that are more likely a square than not."""
    y, x = torch.nonzero(grid[..., 0] > 0, as_tuple=True)
    chosen = grid[y, x]
    return torch.stack([chosen[:, 0].sigmoid(), (y + chosen[:, 1]) * CELL, (x + chosen[:, 2]) * CELL], 1)


def average_precision(found: list[Tensor], centres: list[Tensor]) -> dict[str, float]:
    """Return the area under precision over the share that is found; right is a centre within 2 pixels of a true one."""
    scored = []
    for ours, true in zip(found, centres, strict=True):
        left = set(range(len(true)))
        for score, *place in sorted(ours.tolist(), reverse=True):
            near = [index for index in left if torch.dist(torch.tensor(place), true[index]) <= 2]
            left -= set(near[:1])
            scored.append((score, bool(near)))
    right, area, total = 0, 0.0, sum(map(len, centres))
    for rank, (_, is_right) in enumerate(sorted(scored, reverse=True), 1):
        right += is_right
        area += is_right * right / rank
    return {"average_precision": area / total, "found": right / total}


def build(width: int = 16, num_samples: int = 600) -> scaler.Recipe:
    """Return the detector, its training images, and two sets of images to evaluate it on."""
    return scaler.Recipe(
        model=Detector(width),
        train_data=Squares(num_samples, first=0),
        evals={
            "few": Squares(100, first=10**6),
            "many": scaler.Eval(data=Squares(100, first=2 * 10**6, most=8), batch_size=16),
        },
        loss=loss,
        evaluate=evaluate,
        metrics=average_precision,
        collate=collate,
    )
