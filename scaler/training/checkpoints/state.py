"""The state in a checkpoint: copied, written, checked and read.

Checkpoints do not go through ``ray.train.report`` (see ``docs/decisions/0003-checkpoints.md``): every context uses the
same files, and training does not wait for a controller. States are read with ``weights_only``, so a checkpoint cannot
run code.
"""

import re
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from copy import deepcopy
from io import BytesIO
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from scaler.errors import RecipeError, RunError
from scaler.runs import RunFolder
from scaler.training.checkpoints.files import read_files, write_files
from scaler.training.recipe.failures import error_text


def copy_to_cpu(value: Any, known: dict[Any, Tensor] | None = None) -> Any:
    """Return a state with its tensors copied to the CPU, so that training can continue while the copy is written.

    Tensors that share memory share it in the copy too. Values other than tensors and plain containers are copied
    deeply.
    """
    known = {} if known is None else known
    if isinstance(value, Tensor):
        if not _is_plain(value):
            return value.detach().clone().cpu()
        key = (value.device, value.data_ptr(), value.dtype, value.shape, value.stride())
        if key not in known or not value.numel():
            known[key] = value.detach().to("cpu", copy=True)
        return known[key]
    if type(value) in (dict, OrderedDict):
        made = type(value)((key, copy_to_cpu(item, known)) for key, item in value.items())
        if hasattr(value, "_metadata"):  # torch's: the version of each module's state
            made._metadata = value._metadata
        return made
    if type(value) in (list, tuple):
        return type(value)(copy_to_cpu(item, known) for item in value)
    return deepcopy(value)


def require_readable(state: Mapping[str, Any]) -> None:
    """Raise an error if a state contains a value that no restart could read; called before the first checkpoint is due.

    Raises:
        RecipeError: names the first such value.
    """
    for name, value in _leaves(state):
        try:
            _read(_written(value))
        except Exception as error:  # any exception of the value's own code or of torch's reader
            raise RecipeError(
                f"a checkpoint cannot hold {name} ({type(value).__name__}): {_why_unreadable(error)}.",
                "Keep it as tensors, numbers, strings, or lists and dicts of these; or let the recipe call "
                "torch.serialization.add_safe_globals with its class.",
            ) from error


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the values of a state that are neither plain tensors nor plain values, each with its path in the state."""
    if isinstance(value, Tensor) and _is_plain(value):
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


def _is_plain(tensor: Tensor) -> bool:
    return type(tensor) in (Tensor, Parameter) and tensor.layout == torch.strided and not tensor.is_quantized


def _written(state: Any) -> bytes:
    buffer = BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def _read(data: bytes, device: str = "cpu") -> Any:
    return torch.load(BytesIO(data), map_location=device, weights_only=True)


def _why_unreadable(error: Exception) -> str:
    """Return what torch's reader does not accept, or why the value cannot be written."""
    if not isinstance(error, UnpicklingError):
        return error_text(error).removesuffix(".")
    blamed = re.search(r"GLOBAL ([\w.]+)", str(error))
    return f"torch.load(weights_only=True) does not read {blamed[1] if blamed else 'it'}"


def write_checkpoint(folder: RunFolder, state: Mapping[str, Any], about: Mapping[str, Any]) -> int:
    """Write a checkpoint, its manifest last.

    Args:
        folder: the run's.
        state: values that ``torch.load(weights_only=True)`` can read.
        about: plain values for the manifest; its ``samples_seen`` names the files.

    Returns:
        The size in bytes.

    Raises:
        RecipeError: no restart could read the checkpoint; then nothing is written.
    """
    data = _written(dict(state))
    _require_read_back(data)
    write_files(folder, data, about)
    return len(data)


def _require_read_back(data: bytes) -> None:
    """Raise an error if a state cannot be read again; tensors are read without their numbers if torch can do it."""
    for device in ("meta", "cpu"):
        try:
            _read(data, device)
            return
        except NotImplementedError:  # quantized and nested tensors cannot be read without numbers
            continue
        except Exception as error:  # any exception of torch's reader
            raise RecipeError(
                f"the checkpoint cannot be read again: {_why_unreadable(error)}.",
                "Keep the state of model and optimizer as tensors, numbers, strings, or lists and dicts of these.",
            ) from error


def load_checkpoint(folder: RunFolder, samples_seen: int) -> dict[str, Any]:
    """Return a checkpoint's state, with tensors on the CPU.

    Raises:
        RunError: the checkpoint is incomplete or altered, or has an unknown schema version.
    """
    data = read_files(folder, samples_seen)
    try:
        state: dict[str, Any] = _read(data)
    except Exception as error:  # any exception of torch's reader
        blamed = isinstance(error, UnpicklingError) and "GLOBAL" in str(error)
        raise RunError(
            f"run {folder.run_id}: checkpoint {samples_seen} cannot be read, although its checksum is correct: "
            f"{_why_unreadable(error)}.",
            "If you trust the file, let the recipe call torch.serialization.add_safe_globals with that class; then "
            "resume. Keep the file: the checkpoints before it may hold the same value."
            if blamed
            else "Keep the file, and resume with the version of torch that wrote it.",
        ) from error
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
