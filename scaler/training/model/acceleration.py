"""Change how a model computes, in place: memory format, recomputed activations, compilation. All names stay the same.

``nn.Module.compile`` and a replaced ``forward`` wrap no module, so parameters, buffers and the state in checkpoints
have the same names with and without these options.
"""

from functools import partial

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from scaler.core.nearest import did_you_mean
from scaler.errors import JobFileError, RecipeError, TrainingError
from scaler.job.acceleration import Compile
from scaler.training.model.blocks import class_names, modules_of_classes, outermost, repeated_modules
from scaler.training.recipe.failures import error_text

KEY = "train.activation_checkpointing"

_FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}  # by the dimensions of a weight


def use_channels_last(model: nn.Module) -> None:
    """Store the weights of convolutions in ``channels_last``; torch then computes convolutions in it.

    A batch keeps its own format: the first convolution converts it.

    Raises:
        RecipeError: the model has no weight of 4 or 5 dimensions.
    """
    weights = [parameter for parameter in model.parameters() if parameter.ndim in _FORMATS]
    if not weights:
        raise RecipeError(
            "train.channels_last = true, and the model has no convolution: no weight has 4 or 5 dimensions.",
            "Leave channels_last out.",
        )
    for weight in weights:
        weight.data = weight.data.contiguous(memory_format=_FORMATS[weight.ndim])


def recompute_activations(model: nn.Module, blocks: tuple[str, ...] | str) -> list[str]:
    """Let backward compute the activations of blocks again, with the same random numbers; return the blocks' names.

    Args:
        model: not wrapped.
        blocks: class names; or ``auto``: the modules with parts of their own that stand together with another one of
            their class in an ``nn.ModuleList`` or ``nn.Sequential``. A module inside a block is not a block.

    Raises:
        RecipeError: there is no such block; or one has a BatchNorm that trains, which would count each batch twice.

    Sources:
        Chen et al. 2016, https://arxiv.org/abs/1604.06174.
    """
    wanted = repeated_modules(model) if blocks == "auto" else modules_of_classes(model, blocks, key=KEY)
    if not wanted:
        raise RecipeError(
            f"{KEY} = auto, and the model has no blocks of one class that stand together in an nn.ModuleList or "
            "nn.Sequential.",
            f"Give class names. The model's classes: {', '.join(class_names(model))}.",
        )
    found = outermost(model, wanted)
    for name, block in found.items():
        norm = next((inner for inner in block.modules() if isinstance(inner, _BatchNorm) and _counts(inner)), None)
        if norm is not None:
            raise RecipeError(
                f"{KEY}: the block {name} has a {type(norm).__name__}, whose running "
                "statistics would count each batch twice.",
                "Give class names of blocks without BatchNorm, or use GroupNorm or LayerNorm.",
            )
    for block in found.values():
        # partial, not a closure: a deep copy of the model then calls the copy's own forward.
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)
    return list(found)


def _counts(norm: _BatchNorm) -> bool:
    return norm.training and norm.track_running_stats


def compile_model(model: nn.Module, options: Compile) -> None:
    """Compile a model's forward in place; torch compiles when the model is called.

    Raises:
        JobFileError: torch has no such backend.
    """
    known = torch.compiler.list_backends(exclude_tags=())
    if options.backend not in known:
        raise JobFileError(
            f"train.compile.backend = {options.backend} is not one of torch's backends.",
            f"{did_you_mean(options.backend, known)}Known: {', '.join(known)}.",
        )
    mode = None if options.mode == "default" else options.mode  # other backends take no mode
    # Without this setting, torch compiles nothing if the model's own class is one of torch's, such as nn.Sequential.
    with torch._dynamo.config.patch(wrap_top_frame=True):
        model.compile(backend=options.backend, mode=mode, dynamic=options.dynamic)


def compile_failure(error: BaseException) -> TrainingError | None:
    """Return the error to raise for a failure of torch's compiler; None: the error is not of the compiler.

    Errors of the model's own code keep their class in torch, and out of memory stays out of memory.
    """
    if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
        return None
    text = error_text(error)
    lacks_compiler = "compiler" in text.lower() or "triton" in text.lower()
    return TrainingError(
        f"torch.compile failed: {text}",
        "Install a C++ compiler on the node (Debian, Ubuntu: apt-get install g++; on a GPU also pip install triton), "
        "or train without it: --set train.compile=false."
        if lacks_compiler
        else "Train without it: --set train.compile=false. If only a part of the model can be compiled, call "
        "torch.compile on this part in build().",
    )
