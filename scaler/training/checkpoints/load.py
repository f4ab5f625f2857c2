"""Read a checkpoint: its plain part, then the tensors that are wanted, each worker what it needs of them."""

from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from math import prod
from pickle import UnpicklingError
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.planner import ReadItem

from scaler.errors import RunError
from scaler.runs import RunFolder
from scaler.training.checkpoints import index, plain
from scaler.training.checkpoints.copies import Path, bytes_of, key_of
from scaler.training.checkpoints.files import INDEX, PLAIN, THREADS, Checkpoint, open_files

GAP_BYTES = 2**20  # so many bytes that nobody wants are read, rather than sending another request

PlaceTensor = Callable[[Path, Tensor], Tensor]


class Saved(NamedTuple):
    """A checkpoint whose tensors are not read yet."""

    files: Checkpoint
    state: dict[str, Any]  # with meta tensors
    tensors: index.Index

    def read(self, path: Path = (), *, place: PlaceTensor | None = None) -> Any:
        """Return a value of the state with its tensors.

        A file that is read from its begin to its end is compared with its checksum.

        Args:
            path: of the value in the state; empty: the whole state.
            place: returns the tensor into which the tensor of a path is read, of the same shape. It gets the path and a
                meta tensor. None: a new tensor on the CPU.

        Raises:
            UnusableError: a file was altered.
            RunError: the storage cannot be read.
        """
        value: Any = self.state
        for key in path:
            value = value[key]
        names = {id(tensor): name for tensor, name in self._named()}
        made: dict[str, Tensor] = {}

        def target(tensor: Tensor, at: Path) -> Tensor:
            name = names[id(tensor)]
            if name not in made:
                made[name] = torch.empty_like(tensor, device="cpu") if place is None else place(at, tensor)
            return made[name]

        found = _each_tensor(value, path, target)
        _read_tensors(self, made)
        return found

    def require_consistent(self) -> None:
        """Raise a ``ValueError`` unless the index has every tensor of the state, inside of the checkpoint's files."""
        known = {
            name: sum(prod(chunk.sizes) for chunk in about.chunks)
            for name, about in self.tensors.metadata.state_dict_metadata.items()
            if isinstance(about, TensorStorageMetadata)
        }
        for tensor, name in self._named():
            if known.get(name) != tensor.numel():
                raise ValueError(f"{INDEX} has {known.get(name, 0)} of {tensor.numel()} elements of {name}")
        for at, part in self.tensors.parts.items():
            size = self.files.files[part.file].size if part.file in self.files.files else -1
            if not 0 <= part.start <= part.end <= size:
                raise ValueError(f"{at.fqn} is outside of {part.file}")

    def _named(self) -> list[tuple[Tensor, str]]:
        """Return the meta tensors of the state, each once with its name in the index."""
        named: dict[int, tuple[Tensor, str]] = {}
        _each_tensor(self.state, (), lambda tensor, at: named.setdefault(id(tensor), (tensor, key_of(at))))
        return list(named.values())


def open_checkpoint(folder: RunFolder, samples_seen: int) -> Saved:
    """Return a checkpoint after reading its plain part and its index.

    Raises:
        UnusableError: the checkpoint is incomplete or altered.
        RunError: it has an unknown schema version, or cannot be read.
    """
    files = open_files(folder, samples_seen)
    data, metadata = (b"".join(files.blocks(name)) for name in (PLAIN, INDEX))
    try:
        saved = Saved(files, plain.read(data), index.from_json(metadata))
        saved.require_consistent()
        return saved
    except Exception as error:  # any exception of torch's reader
        blamed = isinstance(error, UnpicklingError) and "GLOBAL" in str(error)
        raise RunError(
            f"run {folder.run_id}: checkpoint {samples_seen} cannot be read, although its checksum is correct: "
            f"{plain.why_unreadable(error)}.",
            "If you trust the file, let the recipe call torch.serialization.add_safe_globals with that class; then "
            "resume. Keep the file: the checkpoints before it may hold the same value."
            if blamed
            else "Keep the file, and resume with the version of torch that wrote it.",
        ) from error


def _each_tensor(value: Any, path: Path, make: Callable[[Tensor, Path], Any]) -> Any:
    """Return a value with ``make(tensor, path)`` in the place of each meta tensor."""
    if isinstance(value, Tensor) and value.is_meta:
        return make(value, path)
    if type(value) in (dict, OrderedDict):
        made = type(value)((key, _each_tensor(item, (*path, key), make)) for key, item in value.items())
        if hasattr(value, "_metadata"):
            made._metadata = value._metadata
        return made
    if type(value) in (list, tuple):
        return type(value)(_each_tensor(item, (*path, place), make) for place, item in enumerate(value))
    return value


class _Read(NamedTuple):
    """Bytes of a file, and the tensor that they belong into."""

    start: int
    end: int
    buffer: Tensor  # on the CPU, contiguous
    item: ReadItem
    target: Tensor

    def take(self, block: memoryview, start: int) -> None:
        """Take what belongs into the buffer of a block that begins at ``start`` in the file."""
        first, last = max(self.start, start), min(self.end, start + len(block))
        into = bytes_of(self.buffer)
        into[first - self.start : last - self.start] = block[first - start : last - start]
        if last == self.end and self.buffer is not self.target:
            found = self.buffer
            for dim in range(1, found.dim()):
                found = found.narrow(dim, self.item.storage_offsets[dim], self.item.lengths[dim])
            self.target.copy_(found)


def _read_tensors(saved: Saved, targets: dict[str, Tensor]) -> None:
    """Read tensors, several files at a time."""
    planner = DefaultLoadPlanner(flatten_state_dict=False, flatten_sharded_tensors=False)
    planner.set_up_planner({name: tensor.detach() for name, tensor in targets.items()}, saved.tensors.metadata, True)
    reads: dict[str, list[_Read]] = {}
    for item in planner.create_local_plan().items:
        if prod(item.lengths):
            file, read = _planned(item, planner.resolve_tensor(item), saved.tensors)
            reads.setdefault(file, []).append(read)
    with ThreadPoolExecutor(THREADS) as threads:
        list(threads.map(lambda file: _read_file(saved.files, file, reads[file]), reads))


def _planned(item: ReadItem, target: Tensor, known: index.Index) -> tuple[str, _Read]:
    """Return the file of an item, and the bytes to read: whole rows of the part that was saved."""
    file, begin, shape, dtype = known.parts[item.storage_index]
    first, rows = (item.storage_offsets[0], item.lengths[0]) if shape else (0, 1)
    row_bytes = prod(shape[1:]) * dtype.itemsize
    start = begin + first * row_bytes
    is_direct = (
        target.device.type == "cpu"
        and target.is_contiguous()
        and target.dtype == dtype
        and item.lengths[1:] == shape[1:]
    )
    buffer = target if is_direct else torch.empty((rows, *shape[1:]) if shape else (), dtype=dtype)
    return file, _Read(start, start + rows * row_bytes, buffer, item, target)


def _read_file(files: Checkpoint, file: str, reads: list[_Read]) -> None:
    """Read what is wanted of a file, in its order."""
    size = files.files[file].size
    reads.sort(key=lambda read: read.start)
    spans: list[list[int]] = [[0, 0]]
    for start, end in [*((read.start, read.end) for read in reads), (size, size)]:
        if start - spans[-1][1] <= GAP_BYTES:
            spans[-1][1] = max(spans[-1][1], end)
        else:
            spans.append([start, end])
    waiting = reads[::-1]
    for start, end in spans:
        if start == end:
            continue
        is_whole = (start, end) == (0, size)
        digest = sha256()
        for block in files.folder.read_blocks(files.path(file), start=start, end=end):
            if is_whole:
                digest.update(block)
            view = memoryview(block)
            for read in reversed(waiting):
                if read.start >= start + len(block):
                    break
                read.take(view, start)
            start += len(block)
            while waiting and waiting[-1].end <= start:
                waiting.pop()
        if is_whole and digest.hexdigest() != files.files[file].sha256:
            raise files.altered(file)
    if waiting:
        raise files.altered(file)
