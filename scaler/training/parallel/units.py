"""The parts of a model that are sharded together: its blocks, and the rest."""

from collections.abc import Mapping

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule

from scaler.errors import RecipeError
from scaler.training.model.blocks import modules_that_match, outermost, repeated_modules


def blocks_of(model: nn.Module, wanted: tuple[str, ...] | str) -> dict[str, nn.Module]:
    """Return the blocks by name, each after those around it.

    Args:
        model: not sharded yet.
        wanted: ``train.fsdp.blocks``. With ``auto``, a block that shares a weight with another part is left out.

    Raises:
        RecipeError: ``wanted`` names what the model does not have, or a block that shares a weight with another part.
    """
    if wanted == "auto":
        found = outermost(model, repeated_modules(model) - {model})
        shared = _shared_weights(model, found)
        return {name: block for name, block in found.items() if all(name not in units for units in shared.values())}
    named = modules_that_match(model, wanted, key="train.fsdp.blocks") - {model}
    blocks = {name: module for name, module in model.named_modules() if module in named}
    for weight, units in _shared_weights(model, blocks).items():
        other, block = sorted(units)[:2]
        raise RecipeError(
            f"train.fsdp.blocks has {block}, and its weight {weight} is also one of {other or 'the whole model'}.",
            "Tied weights must be in one block: leave such blocks out, or use train.fsdp.blocks: auto.",
        )
    return blocks


def _unit_of(name: str, blocks: Mapping[str, nn.Module]) -> str:
    """Return the name of the innermost block that a parameter is in; empty: it is in none."""
    return max((block for block in blocks if name.startswith(f"{block}.")), key=len, default="")


def _shared_weights(model: nn.Module, blocks: Mapping[str, nn.Module]) -> dict[str, set[str]]:
    """Return the weights that are in several blocks, or in one and in the rest of the model: name -> their names."""
    units: dict[int, tuple[str, set[str]]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        units.setdefault(id(parameter), (name, set()))[1].add(_unit_of(name, blocks))
    return {name: found for name, found in units.values() if len(found) > 1}


def require_shardable(model: nn.Module, blocks: Mapping[str, nn.Module]) -> None:
    """Refuse what torch would refuse with an error that names no parameter.

    Raises:
        RecipeError: a block has no forward, a parameter has no dimensions, or a block has trained parameters of
            different dtypes.
    """
    for name, block in blocks.items():
        if isinstance(block, nn.ModuleList | nn.ModuleDict):
            raise RecipeError(
                f"train.fsdp.blocks has {name}, a {type(block).__name__}, which has no forward.",
                f"Name what is in it: {name}.*.",
            )
    dtypes: dict[str, tuple[str, torch.dtype]] = {}
    for name, parameter in model.named_parameters():
        if parameter.ndim == 0:
            raise RecipeError(
                f"the parameter {name} has no dimensions, and cannot be sharded.",
                "Give it one: nn.Parameter(torch.tensor([value])). Or use train.strategy: ddp.",
            )
        first, dtype = dtypes.setdefault(_unit_of(name, blocks), (name, parameter.dtype))
        if parameter.dtype != dtype:
            raise RecipeError(
                f"the parameters {first} and {name} are {dtype} and {parameter.dtype}, and they are sharded together.",
                "Use one dtype, with autocast or train.fsdp.mixed_precision for the others; or train.strategy: ddp.",
            )


def sharded_modules(model: nn.Module) -> list[FSDPModule]:
    """Return the modules whose weights are sharded together, the model itself first."""
    return [module for module in model.modules() if isinstance(module, FSDPModule)]
