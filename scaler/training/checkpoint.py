"""Checkpoints: the state that a restarted worker group goes on from.

They do not go through ``ray.train.report`` (see ``docs/decisions/0003-checkpoints.md``): the same files serve every
surroundings, and nobody waits for a controller. States are read with ``weights_only``: a checkpoint cannot run code.
"""

from collections import OrderedDict
from collections.abc import Mapping
from io import BytesIO
from typing import Any

import torch
from torch import Tensor

from scaler.errors import RecipeError, RunError
from scaler.runs import RunFolder
from scaler.training.checkpoint_files import read_files, write_files


def copied(value: Any, known: dict[Any, Tensor] | None = None) -> Any:
    """Return a state with its tensors copied to the CPU, so that training can go on while it is written.

    Tensors that share memory share it in the copy too.
    """
    known = {} if known is None else known
    if isinstance(value, Tensor):
        key = (value.device, value.data_ptr(), value.dtype, value.shape, value.stride())
        if key not in known or not value.numel():
            known[key] = value.detach().to("cpu", copy=True)
        return known[key]
    if isinstance(value, Mapping):
        made: dict[Any, Any] = OrderedDict() if isinstance(value, OrderedDict) else {}
        made.update((key, copied(item, known)) for key, item in value.items())
        if hasattr(value, "_metadata"):  # torch's, of a module's state: the versions of its parts
            made._metadata = value._metadata  # type: ignore[attr-defined]
        return made
    if isinstance(value, list | tuple):
        items = [copied(item, known) for item in value]
        return items if isinstance(value, list) else tuple(items)
    return value


def write_checkpoint(folder: RunFolder, state: Mapping[str, Any], about: Mapping[str, Any]) -> int:
    """Write a checkpoint, its manifest last.

    Args:
        folder: the run's.
        state: what ``torch.load(weights_only=True)`` reads back.
        about: plain values for the manifest; its ``samples_seen`` names the files.

    Returns:
        Its size in bytes.
    """
    buffer = BytesIO()
    torch.save(dict(state), buffer)
    data = buffer.getvalue()
    write_files(folder, data, about)
    return len(data)


def load_checkpoint(folder: RunFolder, samples_seen: int) -> dict[str, Any]:
    """Return a checkpoint's state, tensors on the CPU.

    Raises:
        RunError: it is torn, altered, or of another version of scaler.
    """
    data = read_files(folder, samples_seen)
    try:
        state: dict[str, Any] = torch.load(BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # whatever torch's reader says of a file that somebody made to look right
        raise RunError(
            f"run {folder.run_id}: checkpoint {samples_seen} cannot be read: {type(error).__name__}.",
            "Remove it to go on from the one before.",
        ) from error
    return state


def require_same_shapes(saved: Mapping[str, Tensor], built: Mapping[str, Tensor], *, samples_seen: int) -> None:
    """Refuse a checkpoint of another model, before torch says it in its own words.

    Args:
        saved: the checkpoint's parameters and buffers.
        built: those of the model that the recipe builds.
        samples_seen: names the checkpoint.

    Raises:
        RecipeError: names the first that differs.
    """
    for name in dict.fromkeys([*built, *saved]):
        there, here = (str(tuple(side[name].shape)) if name in side else "missing" for side in (saved, built))
        if there != here:
            raise RecipeError(
                f"checkpoint {samples_seen} holds another model: {name} is {there} there and {here} here.",
                "Go on with the recipe and recipe_args that the run began with.",
            )
