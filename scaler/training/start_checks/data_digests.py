"""Check that the data are the same on every worker and in every attempt, by digests of a few samples.

Data of the right size may still differ: classes numbered in the order of a ``set``, files in the order of
``os.listdir``. Then each worker trains on other data, and so does a resumed run.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import fields, is_dataclass, replace
from hashlib import blake2b
from struct import pack
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset

from scaler.core.seeds import stream_seed
from scaler.errors import RecipeError
from scaler.training.data.batches import batches
from scaler.training.data.sampled import Sampled
from scaler.training.data.shards import Shards
from scaler.training.data.stream import Stream
from scaler.training.randomness import seed_everything
from scaler.training.recipe import Recipe
from scaler.training.recipe.data import datasets

FEW, MANY = 4, 16  # samples to compare: of a dataset that loads them, and of tensors in memory
REMEDY = (
    "Build the same data each time, from recipe_args and the job's seed only: a set and os.listdir have no order, "
    "sorted(...) has."
)

STREAM_REMEDY = (
    "Every worker reads the whole iterable and takes its share: yield the same samples in the same order on each, from "
    "recipe_args and set_epoch(epoch) only, and leave the split among workers to scaler."
)

SAMPLER_REMEDY = (
    "Build the same data each time, and let the sampler yield the same indices in the same order on every worker and "
    "after a resume, from recipe_args and set_epoch(epoch) only."
)

Digests = dict[str, dict[int, str]]
"""Dataset (``train_data``, ``eval_data``, ``evals[NAME]``) -> sample -> digest."""


def data_digests(recipe: Recipe, *, data_workers: int, only: Digests | None = None) -> Digests:
    """Return digests of a few samples of each dataset, without samples that cannot be loaded or read.

    Random augmentation draws the same numbers for a sample each time. The random numbers of this process change.

    Args:
        recipe: its data.
        data_workers: of the job; if there are any, one such process loads the samples, because files that a dataset
            opens here must not be shared with processes that start later.
        only: the datasets and samples to use; None: chosen by the datasets' sizes.
    """
    digests: Digests = {}
    for name, data in datasets(recipe).items():
        if only is not None and name not in only:
            continue
        if isinstance(data, Shards):  # workers have other samples: streams.py checks that they do
            digests[name] = {}
            continue
        if isinstance(data, Stream):
            digests[name] = _of_stream(recipe, data, data_workers=data_workers)
            continue
        in_memory = type(data) is TensorDataset
        chosen = sorted(only[name]) if only is not None else _chosen(len(data), in_memory)
        digested = _Digested(data)
        found: Iterable[str] = map(digested.__getitem__, chosen)
        if data_workers and not in_memory:
            found = DataLoader(
                digested,
                sampler=chosen,
                batch_size=None,
                num_workers=1,
                collate_fn=_unchanged,
                generator=torch.Generator(),
            )
        digests[name] = {index: digest for index, digest in zip(chosen, found, strict=True) if digest}
    return digests


def _of_stream(recipe: Recipe, data: Stream, *, data_workers: int) -> dict[int, str]:
    """Return digests of the first samples of an iterable; none if it raises an exception, which training will show."""
    numbers = torch.arange(min(FEW, len(data)))
    plain = replace(recipe, collate=_unchanged)
    with suppress(Exception):
        (samples,) = batches(plain, data, [numbers], data_workers=min(1, data_workers), pin=False)
        return {index: digest(sample) for index, sample in enumerate(samples)}
    return {}


def require_same_data(recipe: Recipe, mine: Digests, *, world_size: int, data_workers: int) -> None:
    """Raise an error if the data differ between workers; called by all of them.

    A sample that differs between two readings on one worker is random and is not compared. A sample of an iterable is:
    its order must be the same.

    Raises:
        RecipeError: names the first sample that differs, on every worker.
    """
    if world_size == 1:
        return
    all_digests = _gathered(mine, world_size)
    differing = _differing(all_digests)
    if not differing:
        return
    again = _gathered(data_digests(recipe, data_workers=data_workers, only=differing), world_size)
    for name, samples in differing.items():
        for sample in samples:
            first, second = ([digests[name].get(sample) for digests in found] for found in (all_digests, again))
            if (first == second and None not in first) or _has_fixed_order(recipe, name):
                others = [str(rank) for rank, digest in enumerate(first) if digest != first[0]]
                ranks = f"rank{'s' if len(others) > 1 else ''} {', '.join(others)}"
                raise RecipeError(
                    f"{name} differs between workers: sample {sample} on {ranks} differs from that on rank 0.",
                    f"{_remedy(recipe, name)} train.check_data: false trains on it anyway.",
                )


def require_data_of_run(recipe: Recipe, mine: Digests, before: Mapping[str, Any], *, data_workers: int) -> None:
    """Raise an error if the training data differ from those that the run began with.

    Args:
        recipe: its data.
        mine: digests now.
        before: the digests in a checkpoint.
        data_workers: of the job.

    Raises:
        RecipeError: names the first sample that differs.
    """
    kept: Mapping[int, str] = before.get("train_data", {})
    now = mine["train_data"]
    differing = [sample for sample, digest in kept.items() if now.get(sample, digest) != digest]
    if not differing:
        return
    again = data_digests(recipe, data_workers=data_workers, only={"train_data": dict.fromkeys(differing, "")})
    for sample in differing:
        if again["train_data"].get(sample) == now[sample] or _has_fixed_order(recipe, "train_data"):
            raise RecipeError(
                f"train_data differs from the data that the run began with: sample {sample} is different.",
                f"{_remedy(recipe, 'train_data')} --set train.check_data=false trains on it anyway.",
            )


def _has_fixed_order(recipe: Recipe, name: str) -> bool:
    """Return whether a sample that differs between two readings is an error: its order must be the same."""
    return isinstance(datasets(recipe)[name], Stream | Sampled)


def _remedy(recipe: Recipe, name: str) -> str:
    return {Stream: STREAM_REMEDY, Sampled: SAMPLER_REMEDY}.get(type(datasets(recipe)[name]), REMEDY)


def _chosen(size: int, in_memory: bool) -> list[int]:
    """Return evenly spaced samples from the first to the last."""
    many = min(size, MANY if in_memory else FEW)
    return sorted({round(place * (size - 1) / max(1, many - 1)) for place in range(many)})


def _differing(found: Sequence[Digests]) -> Digests:
    """Return the samples whose digests differ between workers that have them."""
    differing: Digests = {}
    for name, samples in found[0].items():
        for sample in samples:
            digests = {there for digests in found if (there := digests.get(name, {}).get(sample)) is not None}
            if len(digests) > 1:
                differing.setdefault(name, {})[sample] = ""
    return differing


def _gathered(mine: Digests, world_size: int) -> list[Digests]:
    found: list[Digests] = [{} for _ in range(world_size)]
    dist.all_gather_object(found, mine)
    return found


class _Digested(Dataset[str]):
    """A dataset's samples as digests; empty for a sample that cannot be loaded, whose error training will show."""

    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset

    def __getitem__(self, index: int) -> str:
        if type(self._dataset) is not TensorDataset:
            seed_everything(stream_seed(0, "digest", index))
        try:
            return digest(self._dataset[index])
        except Exception:
            return ""


def digest(value: Any) -> str:
    """Return a digest of a sample's numbers, strings and structure; other objects count by their class only.

    Example:
        >>> digest({"x": torch.ones(2), "label": 3}) == digest({"x": torch.ones(2), "label": 3}) != digest({"x": 3})
        True
    """
    return blake2b(b"".join(_parts(value)), digest_size=16).hexdigest()


def _parts(value: Any) -> list[bytes]:
    """Return a value as bytes, the same in every process."""
    if isinstance(value, Tensor):
        dense = value.detach().to_dense() if value.layout != torch.strided else value.detach()
        numbers = dense.dequantize() if dense.is_quantized else dense
        flat = numbers.cpu().resolve_conj().contiguous().reshape(-1).view(torch.uint8)
        return [str((numbers.dtype, tuple(value.shape))).encode(), flat.numpy().tobytes()]
    if value is None or isinstance(value, bool | int | str | bytes):
        return [type(value).__name__.encode(), value if isinstance(value, bytes) else str(value).encode()]
    if isinstance(value, float):
        return [pack("d", value)]
    if isinstance(value, Mapping):
        return [b"{", *(part for key in value for part in (*_parts(key), *_parts(value[key]))), b"}"]
    if isinstance(value, list | tuple):
        return [b"[", *(part for item in value for part in _parts(item)), b"]"]
    if is_dataclass(value) and not isinstance(value, type):
        return _parts({field.name: getattr(value, field.name, None) for field in fields(value)})
    if hasattr(value, "__array__") or hasattr(value, "__array_interface__"):  # numpy arrays and PIL images
        array = np.asarray(value)
        if array.dtype.hasobject:
            return _parts(array.tolist())
        return [str((array.dtype.str, array.shape)).encode(), np.ascontiguousarray(array).tobytes()]
    return [type(value).__qualname__.encode()]


def _unchanged(value: Any) -> Any:
    return value
