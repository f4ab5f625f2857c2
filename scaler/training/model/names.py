"""Names of a model's parameters and state that do not depend on wrappers around it, such as ``torch.compile``.

``torch.compile(model)`` wraps the model, which adds ``_orig_mod.`` to every name; ``DataParallel`` and
``DistributedDataParallel`` add ``module.``. Groups, freezing and checkpoints use the names without these. So a run may
wrap its model, a part of it or nothing, and resume in each case.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn


_COMPILED = "_orig_mod."


def plain_name(name: str) -> str:
    """Return a name without the parts that ``torch.compile`` adds.

    Example:
        >>> [plain_name(name) for name in ("_orig_mod.head.weight", "body._orig_mod.0.bias", "head.weight")]
        ['head.weight', 'body.0.bias', 'head.weight']
    """
    return name.replace(_COMPILED, "")


def named_parameters(model: "nn.Module") -> "dict[str, nn.Parameter]":
    """Return all parameters by plain name."""
    plain = plain_names(model)
    return {plain(name): parameter for name, parameter in model.named_parameters()}


def named_buffers(model: "nn.Module") -> "dict[str, Tensor]":
    """Return all buffers by plain name."""
    plain = plain_names(model)
    return {plain(name): buffer for name, buffer in model.named_buffers()}


def model_state(model: "nn.Module") -> dict[str, Any]:
    """Return ``model.state_dict()`` with plain names."""
    state, plain = model.state_dict(), plain_names(model)
    renamed = type(state)((plain(name), value) for name, value in state.items())
    metadata = getattr(state, "_metadata", None)  # torch's: the version of each module's state
    if metadata is not None:
        about = {plain(f"{name}.").removesuffix("."): value for name, value in metadata.items()}
        renamed._metadata = type(metadata)(about)  # type: ignore[attr-defined]
    return renamed


def load_model_state(model: "nn.Module", state: Mapping[str, Any]) -> None:
    """Load what ``model_state`` returned, whether or not the model is wrapped now or was wrapped then."""
    plain = plain_names(model)
    own = {plain(name): name for name in model.state_dict()}
    renamed = type(state)((own.get(plain(name), name), value) for name, value in state.items())  # type: ignore[call-arg]
    metadata = getattr(state, "_metadata", None)
    if metadata is not None:
        modules = {plain(f"{name}.").removesuffix("."): name for name, _ in model.named_modules()}
        renamed._metadata = type(metadata)(  # type: ignore[attr-defined]
            (modules.get(plain(f"{name}.").removesuffix("."), name), about) for name, about in metadata.items()
        )
    model.load_state_dict(renamed)


def unwrapped(model: "nn.Module") -> "nn.Module":
    """Return the model inside the wrappers that add a part to its names; a model without one is returned unchanged."""
    while (inner := _inside(model)) is not None:
        model = getattr(model, inner)
    return model


def _inside(module: "nn.Module") -> str | None:
    """Return the name under which a wrapper has the module that it wraps; None: the module is no wrapper."""
    from torch.nn.parallel import DataParallel, DistributedDataParallel  # the recipe package imports this file first

    if isinstance(module, DataParallel | DistributedDataParallel):
        return "module"
    return _COMPILED[:-1] if _COMPILED[:-1] in module._modules else None


def plain_names(model: "nn.Module") -> Callable[[str], str]:
    """Return a function from the names of a model's state to its plain names."""
    wrappers = [
        f"{name}.{inner}." if name else f"{inner}."
        for name, module in model.named_modules(remove_duplicate=False)
        if (inner := _inside(module)) is not None and f"{inner}." != _COMPILED
    ]

    def plain(name: str) -> str:
        for wrapper in sorted(wrappers, key=len, reverse=True):  # the innermost first
            if name.startswith(wrapper):
                name = wrapper.removesuffix("module.") + name.removeprefix(wrapper)
        return plain_name(name)

    return plain
