"""The size and the kind of each parameter of a model, by which a plan splits them among optimizers."""

from typing import TYPE_CHECKING

from scaler.plan import PlanParameter
from scaler.training.model.names import named_parameters, plain_names

if TYPE_CHECKING:
    from torch import nn


def parameter_kinds(model: "nn.Module") -> dict[str, PlanParameter]:
    """Return size and kind of each parameter of a model, by plain name.

    A weight of ``nn.Embedding`` or ``nn.EmbeddingBag`` is an embedding, also where another module uses it too (tied
    weights). Any other parameter with two dimensions is a matrix.
    """
    from torch import nn

    plain = plain_names(model)
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding | nn.EmbeddingBag)}
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(plain(name))
    return {
        name: PlanParameter(
            size=parameter.numel(),
            kind="embedding" if id(parameter) in embeddings else "matrix" if parameter.ndim == 2 else "other",
            other_names=tuple(other for other in names[id(parameter)] if other != name),
        )
        for name, parameter in named_parameters(model).items()
    }
