"""Names of a model's parameters and state that do not depend on ``torch.compile``.

``torch.compile(model)`` wraps the model, which adds ``_orig_mod.`` to every name. Groups, freezing and checkpoints use
the names without it. So a run may compile its model, a part of it or nothing, and resume in each case.
"""

from collections.abc import Mapping
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
    return {plain_name(name): parameter for name, parameter in model.named_parameters()}


def named_buffers(model: "nn.Module") -> "dict[str, Tensor]":
    """Return all buffers by plain name."""
    return {plain_name(name): buffer for name, buffer in model.named_buffers()}


def model_state(model: "nn.Module") -> dict[str, Any]:
    """Return ``model.state_dict()`` with plain names."""
    state = model.state_dict()
    renamed = type(state)((plain_name(name), value) for name, value in state.items())
    metadata = getattr(state, "_metadata", None)  # torch's: the version of each module's state
    if metadata is not None:
        plain = {plain_name(f"{name}.").removesuffix("."): about for name, about in metadata.items()}
        renamed._metadata = type(metadata)(plain)  # type: ignore[attr-defined]
    return renamed


def load_model_state(model: "nn.Module", state: Mapping[str, Any]) -> None:
    """Load what ``model_state`` returned, whether or not the model is compiled now or was compiled then."""
    own = {plain_name(name): name for name in model.state_dict()}
    renamed = type(state)((own.get(plain_name(name), name), value) for name, value in state.items())  # type: ignore[call-arg]
    metadata = getattr(state, "_metadata", None)
    if metadata is not None:
        modules = {plain_name(f"{name}.").removesuffix("."): name for name, _ in model.named_modules()}
        renamed._metadata = type(metadata)(  # type: ignore[attr-defined]
            (modules.get(plain_name(f"{name}.").removesuffix("."), name), about) for name, about in metadata.items()
        )
    model.load_state_dict(renamed)
