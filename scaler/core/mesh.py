"""The mesh of workers: how many copies of the model they hold, and how the workers of one copy share it.

    num_workers = replicate * shard * tensor * context * pipeline
    data_parallel_size = replicate * shard

Only the data-parallel ranks have samples of their own. The workers that differ in tensor, context or pipeline alone
work on the same samples, so these dimensions never multiply the batch.

``expert`` is no factor: the workers of one pipeline stage share the experts in groups of ``expert`` workers, and the
rest of the model as before. This is how torchtitan (``torchtitan/distributed/PARALLEL_DIMS.md``), DeepSpeed
(``deepspeed/utils/groups.py``) and Megatron-LM (``megatron/core/parallel_state.py``) count them.
"""

from collections.abc import Mapping
from math import gcd, prod

from scaler.errors import PlanError

DATA = ("replicate", "shard")  # their workers have samples of their own
MODEL = ("tensor", "context", "pipeline")  # their workers get the same samples
DIMENSIONS = (*DATA, *MODEL, "expert")


def resolve_mesh(num_workers: int, asked: Mapping[str, int | None]) -> dict[str, int]:
    """Return the size of every dimension of the mesh, by name, in the order of ``DIMENSIONS``.

    Args:
        num_workers: workers, >= 1.
        asked: sizes by name, each >= 1; a missing one is 1. At most one of ``replicate`` and ``shard`` is None: it is
            what is left.

    Raises:
        PlanError: the sizes do not multiply to ``num_workers``, or ``expert`` does not divide the workers of a pipeline
            stage; names sizes that do.

    Example:
        >>> resolve_mesh(8, {"replicate": 2, "shard": None, "tensor": 2})
        {'replicate': 2, 'shard': 2, 'tensor': 2, 'context': 1, 'pipeline': 1, 'expert': 1}
    """
    given = {name: asked.get(name, 1) for name in DIMENSIONS}
    rest = prod(size for name in (*DATA, *MODEL) if (size := given[name]) is not None)
    free = next((name for name in DATA if given[name] is None), None)
    if free is None and rest != num_workers:
        raise PlanError(
            f"scale.mesh = {mesh_text(given)} is for {_workers(rest)}, not for {num_workers}.",
            f"Use {' or '.join([_workers(rest), *_other_sizes(num_workers, given, rest)])}.",
        )
    if free is not None and num_workers % rest:
        raise PlanError(
            f"scale.mesh = {mesh_text(given)} is for a multiple of {rest} workers, not for {num_workers}.",
            f"Use {nearest_multiples(num_workers, rest)} workers.",
        )
    sizes = {name: num_workers // rest if size is None else size for name, size in given.items()}
    stage, expert = num_workers // sizes["pipeline"], sizes["expert"]
    if stage % expert:
        fits = [size for size in range(1, stage + 1) if stage % size == 0]
        near = sorted(sorted(fits, key=lambda size: abs(size - expert))[:2])
        of = " of a pipeline stage" if sizes["pipeline"] > 1 else ""
        raise PlanError(
            f"scale.mesh.expert = {expert} does not divide the {_workers(stage)}{of} that share the experts.",
            f"Use expert: {' or '.join(map(str, near))}, or another number of workers.",
        )
    return sizes


def mesh_step(asked: Mapping[str, int | None]) -> int:
    """Return the number that a mesh's number of workers must be a multiple of; a mesh without None has only this one.

    Args:
        asked: as for ``resolve_mesh``.

    Example:
        >>> mesh_step({"replicate": None, "shard": 4, "tensor": 2})
        8
        >>> mesh_step({"shard": None, "tensor": 2, "expert": 4})  # expert divides the workers
        4
    """
    given = {name: asked.get(name, 1) for name in DIMENSIONS}
    known = {name: size or 1 for name, size in given.items()}
    workers = prod(known[name] for name in (*DATA, *MODEL))
    if None not in given.values():
        return workers
    return workers * known["expert"] // gcd(known["expert"], workers // known["pipeline"])


def data_parallel_size(sizes: Mapping[str, int]) -> int:
    """Return how many data-parallel ranks a mesh has: the batch is divided among them."""
    return prod(sizes[name] for name in DATA)


def model_parallel_size(sizes: Mapping[str, int]) -> int:
    """Return how many workers get the same samples."""
    return prod(sizes[name] for name in MODEL)


def mesh_text(sizes: Mapping[str, int | None]) -> str:
    """Return sizes as the job file has them; those that are 1 or None are left out.

    Example:
        >>> mesh_text({"replicate": 2, "shard": None, "tensor": 2, "context": 1})
        '{replicate: 2, tensor: 2}'
    """
    shown = [f"{name}: {size}" for name, size in sizes.items() if size is not None and size > 1]
    return f"{{{', '.join(shown)}}}"


def sizes_text(sizes: Mapping[str, int]) -> str:
    """Return the factors of the number of workers; those of ``MODEL`` that are 1 are left out.

    Example:
        >>> sizes_text({"replicate": 2, "shard": 1, "tensor": 4, "context": 1, "pipeline": 1, "expert": 2})
        '2 x 1 x 4'
    """
    return " x ".join(str(sizes[name]) for name in (*DATA, *MODEL) if name in DATA or sizes[name] > 1)


def nearest_multiples(number: int, step: int) -> str:
    """Return the multiples of ``step`` next to ``number``, as a part of a message.

    Example:
        >>> nearest_multiples(6, 4), nearest_multiples(3, 4)
        ('4 or 8', '4')
    """
    below = number // step * step
    return f"{below} or {below + step}" if below else f"{step}"


def _workers(number: int) -> str:
    return f"{number} worker{'' if number == 1 else 's'}"


def _other_sizes(num_workers: int, given: Mapping[str, int | None], rest: int) -> list[str]:
    """Return what replicate or shard would have to be for this number of workers."""
    wanted = [(name, (given[name] or 1) * num_workers, rest) for name in DATA]
    return [f"{name}: {amount // by}" for name, amount, by in wanted if amount % by == 0]
