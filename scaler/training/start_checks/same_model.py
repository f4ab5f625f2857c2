"""Check that every worker has built the same model."""

import hashlib
from collections.abc import Sequence

import torch.distributed as dist
from torch import nn

from scaler.errors import RecipeError
from scaler.training.model.names import named_buffers, named_parameters

Described = tuple[str, tuple[int, ...], str, bool]  # name, shape, dtype, whether it is trained


def require_same_model(model: nn.Module, *, world_size: int) -> None:
    """Raise an error if workers have built different models; called by all of them, before the model is shared.

    The check compares name, shape, dtype and ``requires_grad`` of every parameter in order, and of every buffer.
    Different models would make workers wait for each other, or add up gradients of different parameters.

    Args:
        model: this worker's, not wrapped.
        world_size: workers in torch's default process group; with 1 nothing is compared.

    Raises:
        RecipeError: names the first parameter that differs, on every worker.
    """
    if world_size == 1:
        return
    mine = _described(model)
    digests: list[bytes] = [b""] * world_size
    dist.all_gather_object(digests, hashlib.sha256(repr(mine).encode()).digest())
    if len(set(digests)) == 1:
        return
    models: list[list[Described]] = [[] for _ in range(world_size)]
    dist.all_gather_object(models, mine)
    raise RecipeError(
        f"the model differs between workers: {_first_difference(models)}.",
        "The recipe must build the same model on each: from recipe_args and the job's seed only.",
    )


def _described(model: nn.Module) -> list[Described]:
    named = [*named_parameters(model).items(), *named_buffers(model).items()]
    return [(name, tuple(t.shape), str(t.dtype).removeprefix("torch."), t.requires_grad) for name, t in named]


def _first_difference(models: Sequence[Sequence[Described]]) -> str:
    """Return the first parameter that is not the same on all workers, with the ranks of each variant."""
    tables = [{described[0]: described for described in model} for model in models]
    names = list(dict.fromkeys(described[0] for model in models for described in model))
    for name in names:
        found = [table.get(name) for table in tables]
        if len(set(found)) == 1:
            continue
        if None in found:
            return f"{name} is {_ranks_text(['there' if described else 'missing' for described in found])}"
        there = [described for described in found if described is not None]
        shapes, dtypes = [str(described[1]) for described in there], [described[2] for described in there]
        uses = ["trained" if described[3] else "frozen" for described in there]
        return f"{name} is {_ranks_text(next(shown for shown in (shapes, dtypes, uses) if len(set(shown)) > 1))}"
    place = next(i for i in range(len(names)) if len({model[i][0] for model in models}) > 1)
    return f"its parameter {place} is {_ranks_text([model[place][0] for model in models])}"


def _ranks_text(shown: Sequence[str]) -> str:
    """Return which ranks have what: ``(4, 2) on ranks 0, 2 and (5, 2) on rank 1``."""
    ranks = {what: [rank for rank, other in enumerate(shown) if other == what] for what in shown}
    return " and ".join(
        f"{what} on rank{'s' if len(having) > 1 else ''} {', '.join(map(str, having))}"
        for what, having in ranks.items()
    )
