"""Write a checkpoint: every worker its part, then rank 0 the manifest.

``torch.distributed.checkpoint`` plans who writes what, gathers the plans and results, and makes an error of one worker
an error of all. The files, and what is in them, are scaler's.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from hashlib import sha256
from os import PathLike
from typing import Any, TypeVar

import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, Metadata, MetadataIndex, TensorProperties
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner, TensorWriteData, WriteItem, WriteItemType
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.checkpoint.storage import StorageWriter, WriteResult
from torch.futures import Future

from scaler.errors import RunError, ScalerError
from scaler.runs import RunFolder
from scaler.runs.filesystems import patiently
from scaler.runs.large_files import BLOCK_BYTES
from scaler.training.checkpoints import index, plain
from scaler.training.checkpoints.copies import Piece, StateCopy, bytes_of
from scaler.training.checkpoints.files import (
    FOLDER,
    INDEX,
    PLAIN,
    FileSum,
    file_path,
    remove_checkpoint,
    write_manifest,
)
from scaler.training.recipe.failures import error_text

T = TypeVar("T")
APART = ("model", "average")  # these parts of a state have files of their own, which are read alone for the weights


def save_copy(copy: StateCopy, writer: "FolderWriter", group: dist.ProcessGroup | None = None) -> None:
    """Write a copy of a state; with a group, every worker of it calls this.

    Args:
        copy: this worker's; it has no tensors afterwards.
        writer: this worker's.
        group: of the workers that write; None: this worker writes alone.

    Raises:
        RecipeError: no restart could read the checkpoint; then nothing is written.
        RunError: it cannot be written, or another worker cannot write its part; then nothing of it is left, if the
            storage still answers.
    """
    planner = CopyPlanner()
    state = dict(copy.pieces)
    try:
        if group is not None:
            save(state, storage_writer=writer, planner=planner, process_group=group)
            return
        planner.set_up_planner(state, is_coordinator=True)
        writer.set_up_storage_writer(True)
        plans, metadata = planner.create_global_plan([writer.prepare_local_plan(planner.create_local_plan())])
        (plan,) = writer.prepare_global_plan(plans)
        writer.finish(metadata, [writer.write_data(planner.finish_plan(plan), planner).value()])
    except (Exception, CheckpointException) as error:  # torch's is no Exception
        if writer.has_begun:
            with suppress(Exception):
                remove_checkpoint(writer.folder, writer.samples_seen)
        if isinstance(error, CheckpointException):
            raise error.failures[min(error.failures)][0] from None
        raise
    finally:  # functions that refer to themselves hold the tensors, until Python's next garbage collection
        copy.pieces.clear()
        vars(planner).get("state_dict", {}).clear()


class CopyPlanner(DefaultSavePlanner):
    """Plans to write the pieces of every worker; a piece that several workers have is written by one."""

    def __init__(self) -> None:
        super().__init__(flatten_state_dict=False, flatten_sharded_tensors=False)

    def create_local_plan(self) -> SavePlan:
        """Return the plan to write all pieces of this worker."""
        return SavePlan([_item(name, piece) for name, piece in self.state_dict.items()])

    def lookup_object(self, index: MetadataIndex) -> Tensor:
        """Return a piece's tensor."""
        piece: Piece = self.state_dict[index.fqn]
        return piece.tensor


class FolderWriter(StorageWriter):
    """Writes one worker's part of a checkpoint into the run's folder; rank 0 also the rest.

    Args:
        folder: the run's.
        about: plain values for the manifest; its ``samples_seen`` names the checkpoint.
        state: with meta tensors; the plain part. Only rank 0 needs it.
        rank: of this worker.
        stall_s: for how long this worker's training stood still for the copy.
        before_manifest: called by rank 0 when all parts are written, before the manifest is.
        give_up: asked while the storage is away; True: do not try again.

    Attributes:
        has_begun: on rank 0, whether anything was removed or written.
        size: of the checkpoint in bytes, on rank 0 when it is complete.
        stall_s: on rank 0, the longest of all workers.
    """

    def __init__(
        self,
        folder: RunFolder,
        about: Mapping[str, Any],
        state: Any = None,
        *,
        rank: int = 0,
        stall_s: float = 0.0,
        before_manifest: Callable[[], None] = lambda: None,
        give_up: Callable[[], bool] = lambda: False,
    ) -> None:
        self.folder, self.samples_seen, self.has_begun = folder, int(about["samples_seen"]), False
        self._about, self._state, self._rank = about, state, rank
        self._before_manifest, self._give_up = before_manifest, give_up
        self._plain = b""
        self.size, self.stall_s = 0, stall_s

    def reset(self, checkpoint_id: str | PathLike[str] | None = None) -> None:
        """Nothing is kept from one checkpoint to the next."""

    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        """Make the plain part on rank 0.

        Raises:
            RecipeError: no restart could read it.
        """
        if is_coordinator:
            with _sendable():
                self._plain = plain.written(self._state)
                plain.require_read_back(self._plain)

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        """Return the plan, with what rank 0 needs of this worker."""
        return replace(plan, storage_data=self.stall_s)

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        """Remove a checkpoint that is replaced, before any worker writes its part."""
        self.stall_s = max(plan.storage_data for plan in plans)
        self.has_begun = True
        with _sendable():
            self._patiently(self._remove_old)
        return plans

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        """Write this worker's files; each result has the place of a tensor's part, or the sum of a file."""
        results: list[WriteResult] = []
        with _sendable():
            for name, items in _by_file(plan.items, self._rank).items():
                results += self._patiently(partial(self._write, name, items, planner))
            if self._rank == 0:
                results.append(self._write_whole(PLAIN, self._plain))
        future: Future[list[WriteResult]] = Future()
        future.set_result(results)
        return future

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """Write the index and then the manifest, on rank 0 when every worker has written its part."""
        with _sendable():
            every = [result for worker in results for result in worker]
            places = [result for result in every if not isinstance(result.storage_data, FileSum)]
            sums = [result for result in every if isinstance(result.storage_data, FileSum)]
            sums.append(self._write_whole(INDEX, index.to_json(metadata, places)))
            self._before_manifest()
            files = {result.index.fqn: result.storage_data for result in sums}
            self.size = self._patiently(lambda: write_manifest(self.folder, self._about, files))

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | PathLike[str]) -> bool:
        """Return False: a writer is made for each checkpoint."""
        return False

    def _remove_old(self) -> None:
        if any(name.startswith(f"{self.samples_seen:015d}") for name in self.folder.names(FOLDER)):
            remove_checkpoint(self.folder, self.samples_seen)

    def _write(self, name: str, items: Sequence[WriteItem], planner: SavePlanner) -> list[WriteResult]:
        digest, size = sha256(), 0
        places: list[WriteResult] = []

        def blocks() -> Iterator[memoryview]:
            nonlocal size
            for item in items:
                tensor = planner.resolve_data(item)
                assert isinstance(tensor, Tensor)
                data = bytes_of(tensor.contiguous())
                places.append(WriteResult(item.index, len(data), (name, size)))
                size += len(data)
                for first in range(0, len(data), BLOCK_BYTES):
                    block = data[first : first + BLOCK_BYTES]
                    digest.update(block)
                    yield block

        self.folder.write_blocks(file_path(self.samples_seen, name), blocks())
        return [*places, _sum(name, FileSum(size, digest.hexdigest()))]

    def _write_whole(self, name: str, data: bytes) -> WriteResult:
        self._patiently(lambda: self.folder.write_blocks(file_path(self.samples_seen, name), [data]))
        return _sum(name, FileSum.of(data))

    def _patiently(self, action: Callable[[], T]) -> T:
        return patiently(action, give_up=self._give_up)


def _item(name: str, piece: Piece) -> WriteItem:
    chunk = ChunkStorageMetadata(piece.offsets, piece.tensor.size())
    about = TensorWriteData(chunk, TensorProperties(dtype=piece.tensor.dtype), piece.size)
    return WriteItem(MetadataIndex(name, piece.offsets), WriteItemType.SHARD, tensor_data=about)


def _by_file(items: Sequence[WriteItem], rank: int) -> dict[str, list[WriteItem]]:
    """Return what a worker writes into which file."""
    files: dict[str, list[WriteItem]] = {}
    for item in items:
        first = item.index.fqn.partition("/")[0]
        files.setdefault(f"{first if first in APART else 'resume'}-{rank:05d}.bin", []).append(item)
    return files


def _sum(name: str, found: FileSum) -> WriteResult:
    return WriteResult(MetadataIndex(name), found.size, found)


@contextmanager
def _sendable() -> Iterator[None]:
    """Turn exceptions into errors that can be sent to the other workers."""
    try:
        yield
    except ScalerError:
        raise
    except Exception as error:  # any exception of a filesystem or of torch
        raise RunError(f"{error_text(error)}.") from error
