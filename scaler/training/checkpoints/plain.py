"""The plain part of a checkpoint, which torch writes, and reads with ``weights_only``: it cannot run code."""

import re
from io import BytesIO
from pickle import UnpicklingError
from typing import Any

import torch

from scaler.errors import RecipeError
from scaler.training.recipe.failures import error_text


def written(value: Any) -> bytes:
    """Return a value as torch saves it."""
    buffer = BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def read(data: bytes, device: str = "cpu") -> Any:
    """Return a value that torch saved; raises an exception of torch's reader."""
    return torch.load(BytesIO(data), map_location=device, weights_only=True)


def why_unreadable(error: Exception) -> str:
    """Return what torch's reader does not accept, or why the value cannot be written."""
    if not isinstance(error, UnpicklingError):
        return error_text(error).removesuffix(".")
    blamed = re.search(r"GLOBAL ([\w.]+)", str(error))
    return f"torch.load(weights_only=True) does not read {blamed[1] if blamed else 'it'}"


def require_read_back(data: bytes) -> None:
    """Raise an error if a plain part cannot be read again; tensors are read without their numbers if torch can do it.

    Raises:
        RecipeError: names what torch's reader does not accept.
    """
    for device in ("meta", "cpu"):
        try:
            read(data, device)
            return
        except NotImplementedError:  # quantized and nested tensors cannot be read without numbers
            continue
        except Exception as error:  # any exception of torch's reader
            raise RecipeError(
                f"the checkpoint cannot be read again: {why_unreadable(error)}.",
                "Keep the state of model and optimizer as tensors, numbers, strings, or lists and dicts of these.",
            ) from error
