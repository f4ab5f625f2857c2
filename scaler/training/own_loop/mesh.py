"""Which processes of a loop of one's own train on the same samples: what a ``DeviceMesh`` says."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch.distributed.device_mesh import DeviceMesh

from scaler.core.mesh import DATA, DIMENSIONS
from scaler.errors import TrainingError

REPLICATE, SHARD, TENSOR, CONTEXT, PIPELINE, EXPERT = DIMENSIONS
KINDS = {
    **dict.fromkeys(("replicate", "dp_replicate", "dp", "data", "data_parallel", "batch"), REPLICATE),
    **dict.fromkeys(("shard", "dp_shard", "fsdp"), SHARD),
    **dict.fromkeys(("tensor", "tp", "tensor_parallel"), TENSOR),
    **dict.fromkeys(("context", "cp", "sequence", "sp"), CONTEXT),
    **dict.fromkeys(("pipeline", "pp", "pipe"), PIPELINE),
    **dict.fromkeys(("expert", "ep"), EXPERT),
}
"""The names of a mesh's dimensions, and the kind of each, as ``scale.mesh`` names it."""

_OF_DATA = ", ".join(name for name, kind in KINDS.items() if kind in DATA)
_OTHERS = ", ".join(name for name, kind in KINDS.items() if kind not in DATA)
_HINT = f"Names that multiply the batch: {_OF_DATA}; that do not: {_OTHERS}. Or name those that do: data_dims=(...)."


@dataclass(frozen=True, kw_only=True, slots=True)
class LoopMesh:
    """The places of all processes in a mesh.

    Processes of one data-parallel rank train on the same samples: they differ only in dimensions that do not multiply
    the batch.

    Args:
        rank: of this process.
        sizes: of the mesh, by kind of dimension.
        places: of each process, by its rank: its number along the dimensions of each kind together.
        is_given: whether the script gave the mesh.

    Attributes:
        data_parallel_size: groups of processes that train on different samples.
        data_ranks: the data-parallel rank of each process, by its rank.
    """

    rank: int
    sizes: dict[str, int]
    places: tuple[dict[str, int], ...]
    is_given: bool
    data_parallel_size: int = field(init=False)
    data_ranks: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        shards = self.sizes[SHARD]
        ranks = tuple(place[REPLICATE] * shards + place[SHARD] for place in self.places)
        object.__setattr__(self, "data_parallel_size", self.sizes[REPLICATE] * shards)
        object.__setattr__(self, "data_ranks", ranks)

    @property
    def data_parallel_rank(self) -> int:
        """The data-parallel rank of this process."""
        return self.data_ranks[self.rank]

    @property
    def is_shared(self) -> bool:
        """Whether several processes train on the same samples."""
        return self.data_parallel_size < len(self.places)

    @property
    def counts_samples(self) -> bool:
        """Whether this process counts the samples of its data-parallel rank: it is in the last pipeline stage."""
        place = self.places[self.rank]
        is_first = all(place[kind] == 0 for kind in (TENSOR, CONTEXT, EXPERT))
        return is_first and place[PIPELINE] == self.sizes[PIPELINE] - 1

    @property
    def records_losses(self) -> bool:
        """Whether the losses of this process count; those of the same tokens in other processes do not."""
        place = self.places[self.rank]
        return all(place[kind] == 0 for kind in (TENSOR, EXPERT))

    def groups(self, *over: str) -> list[list[int]]:
        """Return the ranks of processes that differ only in dimensions of some kinds, in groups of at least two."""
        found: dict[tuple[int, ...], list[int]] = {}
        for rank, place in enumerate(self.places):
            found.setdefault(tuple(place[kind] for kind in self.sizes if kind not in over), []).append(rank)
        return [ranks for ranks in found.values() if len(ranks) > 1]


def read_mesh(
    mesh: DeviceMesh | None, *, rank: int, world_size: int, data_dims: Sequence[str | int] | None = None
) -> LoopMesh:
    """Return what a mesh says of the processes; None: each process has samples of its own.

    Args:
        mesh: of all processes.
        rank: of this process.
        world_size: processes.
        data_dims: names or numbers of the dimensions that multiply the batch; None: their names say it.

    Raises:
        TrainingError: the mesh has other processes, or it is not known which dimensions multiply the batch.
    """
    if mesh is None:
        if data_dims is not None:
            raise TrainingError("scaler.start got data_dims without a mesh.", "Give it the mesh, too: mesh=...")
        mine = [dict.fromkeys(DIMENSIONS, 0) | {REPLICATE: number} for number in range(world_size)]
        return LoopMesh(rank=rank, sizes=_ones() | {REPLICATE: world_size}, places=tuple(mine), is_given=False)
    ranks = mesh.mesh
    if sorted(ranks.flatten().tolist()) != list(range(world_size)):
        raise TrainingError(
            f"the mesh of scaler.start has {ranks.numel()} processes, and there are {world_size}.",
            "Give it the mesh of all processes: a mesh from which parts were taken, not a part of it.",
        )
    kinds = _kinds(mesh, data_dims)
    sizes = _ones()
    for kind, size in zip(kinds, ranks.shape, strict=True):
        sizes[kind] *= size
    places = []
    for number in range(world_size):
        place = dict.fromkeys(sizes, 0)
        for kind, size, at in zip(kinds, ranks.shape, (ranks == number).nonzero()[0].tolist(), strict=True):
            place[kind] = place[kind] * size + at
        places.append(place)
    return LoopMesh(rank=rank, sizes=sizes, places=tuple(places), is_given=True)


def _ones() -> dict[str, int]:
    return dict.fromkeys(DIMENSIONS, 1)


def _kinds(mesh: DeviceMesh, data_dims: Sequence[str | int] | None) -> list[str]:
    """Return the kind of each dimension.

    Raises:
        TrainingError: a kind is not known.
    """
    names = mesh.mesh_dim_names
    if data_dims is not None:
        dims: Sequence[str | int] = names if names is not None else range(mesh.ndim)
        numbers = {dims.index(dim) if dim in dims else dim for dim in data_dims}
        for dim in numbers:
            if not isinstance(dim, int) or not 0 <= dim < mesh.ndim:
                raise TrainingError(
                    f"data_dims has {dim!r}, and the mesh has {', '.join(map(repr, dims))}.",
                    "Name dimensions of the mesh, or give their numbers.",
                )
        return [_kind_of(names, number, is_data=number in numbers) for number in range(mesh.ndim)]
    if names is None:
        if mesh.ndim == 1:
            return [REPLICATE]
        raise TrainingError(
            f"the mesh of scaler.start has {mesh.ndim} dimensions without names.", f"Give mesh_dim_names. {_HINT}"
        )
    for name, size in zip(names, mesh.shape, strict=True):
        if name not in KINDS and size > 1:
            raise TrainingError(f"the mesh of scaler.start has the dimension {name!r}, which is not known.", _HINT)
    return [KINDS.get(name, REPLICATE) for name in names]


def _kind_of(names: Sequence[str] | None, number: int, *, is_data: bool) -> str:
    """Return the kind of a dimension of which it is known whether it multiplies the batch."""
    kind = KINDS.get(names[number]) if names is not None else None
    if is_data:
        return kind if kind in DATA else REPLICATE
    return TENSOR if kind is None or kind in DATA else kind
