"""The metadata of a checkpoint, as JSON: which tensors it has, in which parts, and where the bytes of each part are.

    {"tensors": {"model/weight": {"dtype": "float32", "shape": [8, 2], "parts": [
        {"offsets": [0, 0], "shape": [4, 2], "file": "model-00000.bin", "start": 0}, ...]}}}

The bytes of a part are its elements in row-major order. ``torch.distributed.checkpoint`` writes a pickle instead, which
could run code when it is read.
"""

import json
from collections.abc import Iterable, Mapping
from math import prod
from typing import Any, NamedTuple

import torch
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.storage import WriteResult


class Part(NamedTuple):
    """A part of a tensor, and where its bytes are."""

    file: str
    start: int
    shape: torch.Size
    dtype: torch.dtype

    @property
    def end(self) -> int:
        """The position after the last byte."""
        return self.start + prod(self.shape) * self.dtype.itemsize


class Index(NamedTuple):
    """The tensors of a checkpoint."""

    metadata: Metadata  # as torch's planner takes it
    parts: Mapping[MetadataIndex, Part]


def to_json(metadata: Metadata, results: Iterable[WriteResult]) -> bytes:
    """Return the metadata of a checkpoint as JSON.

    Args:
        metadata: as torch's planner made it.
        results: of all workers; ``storage_data`` is the file of a part, and the position of its first byte.
    """
    places: dict[MetadataIndex, tuple[str, int]] = {result.index: result.storage_data for result in results}
    tensors: dict[str, Any] = {}
    for name, about in metadata.state_dict_metadata.items():
        assert isinstance(about, TensorStorageMetadata)
        parts = []
        for chunk in about.chunks:
            file, start = places[MetadataIndex(name, chunk.offsets)]
            parts.append({"offsets": chunk.offsets, "shape": chunk.sizes, "file": file, "start": start})
        dtype = str(about.properties.dtype).removeprefix("torch.")
        tensors[name] = {"dtype": dtype, "shape": about.size, "parts": parts}
    return json.dumps({"tensors": tensors}, separators=(",", ":")).encode()


def from_json(data: bytes) -> Index:
    """Return what ``to_json`` wrote.

    Raises:
        AttributeError, KeyError, TypeError, ValueError: it was altered.
    """
    found: dict[str, Any] = {}
    parts: dict[MetadataIndex, Part] = {}
    for name, about in json.loads(data)["tensors"].items():
        dtype = getattr(torch, about["dtype"])
        if not isinstance(dtype, torch.dtype):
            raise TypeError(f"{about['dtype']} is no dtype of torch")
        chunks = [
            ChunkStorageMetadata(torch.Size(part["offsets"]), torch.Size(part["shape"])) for part in about["parts"]
        ]
        found[name] = TensorStorageMetadata(TensorProperties(dtype=dtype), torch.Size(about["shape"]), chunks)
        for chunk, part in zip(chunks, about["parts"], strict=True):
            parts[MetadataIndex(name, chunk.offsets)] = Part(str(part["file"]), int(part["start"]), chunk.sizes, dtype)
    return Index(Metadata(found), parts)
