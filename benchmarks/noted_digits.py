"""The digits with a note of every batch that a worker asks for: which samples a run trained on, and when."""

import json
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset

from scaler.training.recipe import Recipe
from scaler.training.recipe.load import load_recipe

DIGITS = Path(__file__).resolve().parents[1] / "jobs/digits"


class Noted(Dataset[Any]):
    """A ``TensorDataset`` that writes each batch of indices to ``<pid>.jsonl``, so that a kill loses no note.

    Args:
        data: the data.
        notes: the folder of the notes.
        sleep_s: time that each batch takes in addition, so that a run is long enough.
        sleep_until: a file; once it exists, batches no longer take longer. "": always.
    """

    def __init__(self, data: TensorDataset, notes: Path, *, sleep_s: float, sleep_until: str) -> None:
        self._tensors, self._notes = data.tensors, notes
        self._sleep_s, self._sleep_until = sleep_s, sleep_until
        self._file: int | None = None

    def __len__(self) -> int:
        return len(self._tensors[0])

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        return tuple(tensor[index] for tensor in self._tensors)

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[Tensor, ...]]:
        if self._file is None:
            path = self._notes / f"{os.getpid()}.jsonl"
            self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.write(self._file, json.dumps([time.time(), list(indices)]).encode() + b"\n")
        if not (self._sleep_until and os.path.exists(self._sleep_until)):
            time.sleep(self._sleep_s)
        return [self[index] for index in indices]


def build(notes: str, hidden: int = 128, sleep_s: float = 0.0, sleep_until: str = "") -> Recipe:
    """Return the digits' recipe with noted training data."""
    recipe = load_recipe("recipe:build", folder=DIGITS, arguments={"hidden": hidden})
    assert isinstance(recipe.train_data, TensorDataset)
    noted = Noted(recipe.train_data, Path(notes), sleep_s=sleep_s, sleep_until=sleep_until)
    return replace(recipe, train_data=noted, collate=together, loss_over="micro_batch")  # a probe would ask for samples


def together(samples: list[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    """Return samples as one batch."""
    return tuple(torch.stack(parts) for parts in zip(*samples, strict=True))


def read_notes(notes: Path) -> dict[int, list[tuple[float, list[int]]]]:
    """Return pid -> the time and the samples of each batch that was asked for."""
    return {
        int(path.stem): [(moment, indices) for moment, indices in map(json.loads, path.read_text().splitlines())]
        for path in notes.glob("*.jsonl")
    }
