"""The first weights of a model that was built on torch's meta device, where weights take no memory."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from scaler.core.seeds import stream_seed
from scaler.errors import RecipeError
from scaler.training.randomness import random_state_kept, seed_batch

Initialize = Callable[[nn.Module], object]


def materialize(
    model: nn.Module, device: torch.device, *, seed: int, initialize: Initialize | None, inside: str = ""
) -> None:
    """Give the parameters and buffers of a model that are on the meta device memory and first values.

    Each module that has some of its own is seeded from its name, and then initialized. So the weights do not depend on
    which modules a worker initializes together, or on the number of workers.

    Args:
        model: a whole model or one block of it; nothing happens if nothing of it is on the meta device.
        device: gets the weights.
        seed: of the job.
        initialize: is called with each such module; None: its ``reset_parameters`` is.
        inside: the name of the block in its model.

    Raises:
        RecipeError: a module has no ``reset_parameters``, and there is no ``initialize``.
    """
    made: dict[int, tuple[Tensor, Tensor]] = {}  # by id: the old tensor and its new one, so that tied weights stay tied
    waiting: list[tuple[str, nn.Module]] = []
    for name, module in model.named_modules(prefix=inside):
        if _allocate(module, device, made):
            waiting.append((name, module))
    with random_state_kept(device), torch.no_grad():
        for name, module in waiting:
            seed_batch(stream_seed(seed, f"weights of {name}", 0), device)
            if initialize is not None:
                initialize(module)
            else:
                _reset(module, name)


def _reset(module: nn.Module, name: str) -> None:
    reset: Callable[[], object] | None = getattr(module, "reset_parameters", None)
    if reset is None:
        raise RecipeError(
            f"the model is on the meta device, and {name or 'the model'} ({type(module).__name__}) has weights or "
            "buffers of its own and no reset_parameters().",
            "Give the class a reset_parameters() that sets them, or give scaler.Recipe(initialize=...), which is "
            "called with each such module.",
        )
    reset()


def _allocate(module: nn.Module, device: torch.device, made: dict[int, tuple[Tensor, Tensor]]) -> bool:
    """Replace a module's own tensors on the meta device by empty ones; return whether it had some."""
    own = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
    missing = [(name, tensor) for name, tensor in own if tensor.is_meta]
    for name, tensor in missing:
        if id(tensor) not in made:
            empty = torch.empty_like(tensor, device=device)
            is_parameter = isinstance(tensor, nn.Parameter)
            new = nn.Parameter(empty, requires_grad=tensor.requires_grad) if is_parameter else empty
            made[id(tensor)] = tensor, new
        setattr(module, name, made[id(tensor)][1])
    return bool(missing)
