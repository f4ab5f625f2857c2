"""The state in a checkpoint: written, read, and checked.

Checkpoints do not go through ``ray.train.report`` (see ``docs/decisions/0003-checkpoints.md``): every context uses the
same files, and training does not wait for a controller. Tensors are stored as their bytes and the rest is read with
``weights_only``, so a checkpoint cannot run code.
"""

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from scaler.errors import RecipeError
from scaler.runs import RunFolder
from scaler.training.checkpoints import plain
from scaler.training.checkpoints.copies import copy_state, is_plain
from scaler.training.checkpoints.load import PlaceTensor, open_checkpoint
from scaler.training.checkpoints.save import FolderWriter, save_copy


def require_readable(state: Mapping[str, Any]) -> None:
    """Raise an error if a state contains a value that no restart could read; called before the first checkpoint is due.

    Raises:
        RecipeError: names the first such value.
    """
    for name, value in _leaves(state):
        try:
            plain.read(plain.written(value))
        except Exception as error:  # any exception of the value's own code or of torch's reader
            raise RecipeError(
                f"a checkpoint cannot hold {name} ({type(value).__name__}): {plain.why_unreadable(error)}.",
                "Keep it as tensors, numbers, strings, or lists and dicts of these; or let the recipe call "
                "torch.serialization.add_safe_globals with its class.",
            ) from error


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the values of a state that are neither plain tensors nor plain values, each with its path in the state."""
    if isinstance(value, Tensor) and is_plain(value):
        return
    if value is None or type(value) in (bool, int, float, str):
        return
    if type(value) in (dict, OrderedDict):
        for key, item in value.items():
            yield from _leaves(key, f"{name}: its key {key!r}" if name else repr(key))
            yield from _leaves(item, f"{name}.{key}" if name else str(key))
    elif type(value) in (list, tuple):
        for place, item in enumerate(value):
            yield from _leaves(item, f"{name}[{place}]")
    else:
        yield name, value


def write_checkpoint(folder: RunFolder, state: Mapping[str, Any], about: Mapping[str, Any]) -> int:
    """Write a checkpoint in this process alone, its manifest last; return its size in bytes.

    Args:
        folder: the run's.
        state: values that ``torch.load(weights_only=True)`` can read.
        about: plain values for the manifest; its ``samples_seen`` names the checkpoint.

    Raises:
        RecipeError: no restart could read the checkpoint; then nothing is written.
        RunError: it cannot be written.
    """
    copy = copy_state(state)
    writer = FolderWriter(folder, about, copy.plain)
    save_copy(copy, writer)
    return writer.size


def load_checkpoint(folder: RunFolder, samples_seen: int, *, place: PlaceTensor | None = None) -> dict[str, Any]:
    """Return a checkpoint's state.

    A worker reads the tensors that it wants, or its parts of them; a file that it reads from its begin to its end is
    compared with its checksum.

    Args:
        folder: the run's.
        samples_seen: of the checkpoint.
        place: as ``Saved.read`` takes it; None: tensors on the CPU.

    Raises:
        RunError: the checkpoint is incomplete or altered, or has an unknown schema version.
    """
    state: dict[str, Any] = open_checkpoint(folder, samples_seen).read(place=place)
    return state


def require_same_shapes(
    saved: Mapping[str, Any],
    built: Mapping[str, Any],
    *,
    samples_seen: int,
    remedy: str = "Resume with the recipe and recipe_args that the run began with.",
) -> None:
    """Raise an error for a checkpoint of another model, before torch raises a less clear one.

    Args:
        saved: the checkpoint's parameters, buffers, and extra state (``get_extra_state``).
        built: those of the model that the recipe builds.
        samples_seen: names the checkpoint.
        remedy: what to do where they differ.

    Raises:
        RecipeError: names the first difference.
    """
    for name in dict.fromkeys([*built, *saved]):
        saved_shape, built_shape = (_shape(side[name]) if name in side else "missing" for side in (saved, built))
        if saved_shape != built_shape and not (name in saved and name in built and "" in (saved_shape, built_shape)):
            raise RecipeError(
                f"checkpoint {samples_seen} holds another model: {name} is {saved_shape or 'kept'} in it and "
                f"{built_shape or 'kept'} in the recipe's model.",
                remedy,
            )


def _shape(value: Any) -> str:
    """Return a tensor's shape; empty for other values, which may differ each time."""
    return str(tuple(value.shape)) if isinstance(value, Tensor) else ""
