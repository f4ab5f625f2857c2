"""Checkpoints in the run's folder: what a restarted worker group goes on from.

They do not go through ``ray.train.report`` (see ``docs/decisions/0003-checkpoints.md``): the same files serve every
surroundings, and nobody waits for a controller.
"""

from collections.abc import Mapping
from io import BytesIO
from typing import Any

import torch

from scaler.runs import RunFolder

FOLDER = "checkpoints"
SCHEMA_VERSION = 1


def save_checkpoint(folder: RunFolder, state: Mapping[str, Any], *, samples_seen: int, keep: int) -> None:
    """Write a checkpoint, then remove all but the newest ``keep``."""
    buffer = BytesIO()
    torch.save({"schema_version": SCHEMA_VERSION, "samples_seen": samples_seen, **state}, buffer)
    folder.write(f"{FOLDER}/{samples_seen:015d}.pt", buffer.getvalue())
    for samples in sorted(_saved(folder))[:-keep]:
        folder.remove(f"{FOLDER}/{samples:015d}.pt")


def latest_checkpoint(folder: RunFolder) -> int | None:
    """Return the ``samples_seen`` of the newest checkpoint, or None when there is none."""
    return max(_saved(folder), default=None)


def load_checkpoint(folder: RunFolder, samples_seen: int) -> dict[str, Any]:
    """Return a checkpoint's state, tensors on the CPU. It is read with ``weights_only``: it cannot run code."""
    raw = BytesIO(folder.read(f"{FOLDER}/{samples_seen:015d}.pt"))
    state: dict[str, Any] = torch.load(raw, map_location="cpu", weights_only=True)
    return state


def _saved(folder: RunFolder) -> list[int]:
    stems = (name.removesuffix(".pt") for name in folder.names(FOLDER) if name.endswith(".pt"))
    return [int(stem) for stem in stems if stem.isdigit()]
