"""When checkpoints are due, and the thread that writes them while training continues."""

from collections.abc import Mapping
from datetime import timedelta
from math import isfinite
from queue import SimpleQueue
from threading import Event, Thread
from time import perf_counter, time
from typing import Any

import torch.distributed as dist

from scaler.errors import RecipeError, RunError, ScalerError
from scaler.job import Job
from scaler.masking import mask_text
from scaler.metrics.events import Checkpointed, CheckpointFailed
from scaler.plan import Plan
from scaler.runs import RunFolder
from scaler.runs.filesystems import may_pass
from scaler.training.best import BestValue
from scaler.training.checkpoints.copies import StateCopy, copy_state
from scaler.training.checkpoints.files import complete_checkpoints, read_manifest, remove_checkpoint
from scaler.training.checkpoints.save import FolderWriter, save_copy
from scaler.training.recipe.failures import error_text
from scaler.training.worker_context import WorkerContext

LONGEST_WRITE = timedelta(days=1)  # workers wait for each other's parts; a worker that is gone is noticed at once


class CheckpointWriter:
    """Writes one checkpoint at a time in a thread. Training waits for a copy in memory, not for the storage.

    Rank 0 writes all of a checkpoint, unless the model is sharded: then each worker writes its part.

    A checkpoint is complete once the records of its steps are in the folder, from every worker. So the history before a
    checkpoint is complete, whichever process dies later.

    Args:
        job: says how often checkpoints are written, and which are kept.
        context: gives the folder, and secures the records.
        best: the best evaluation so far.
        is_sharded: whether each worker has a part of the model. Then every worker makes a writer at the same time.

    Attributes:
        takes_part: whether this worker writes: it calls ``save`` at each checkpoint.
    """

    def __init__(self, job: Job, context: WorkerContext, best: BestValue, *, is_sharded: bool = False) -> None:
        self._job, self._wanted, self._context, self._best = job, job.checkpoint, context, best
        self._saved_at = perf_counter()
        self._thread: Thread | None = None
        self._is_awaited = Event()  # set while training waits to write a newer checkpoint
        self._events: SimpleQueue[Checkpointed | CheckpointFailed] = SimpleQueue()
        self._failure: str | None = None  # why the last checkpoint could not be written
        self._unreadable: RecipeError | None = None  # the error if the last checkpoint could not be read again
        self._group: dist.ProcessGroup | None = None
        if is_sharded and context.world_size > 1:  # of its own: training's collectives take place at the same time
            self._group = dist.new_group(backend="gloo", timeout=LONGEST_WRITE)
        self.takes_part = context.rank == 0 or self._group is not None

    def is_due(self) -> bool:
        """Return whether a checkpoint is due by the clock; only rank 0's clock counts."""
        every_s = self._wanted.every.seconds
        return self._context.rank == 0 and every_s is not None and perf_counter() - self._saved_at >= every_s

    def save(
        self,
        state: Mapping[str, Any],
        plan: Plan,
        *,
        values: Mapping[str, float] | None,
        is_best: bool,
        began: float,
    ) -> None:
        """Start to write the state of training, or this worker's part; waits until the previous checkpoint is written.

        While the storage is away, the previous one is tried again; now that a newer one exists, it is given up.

        Args:
            state: of training; it is copied, and may change afterwards.
            plan: of this attempt.
            values: of an evaluation of these weights; None: they were not evaluated.
            is_best: whether these values are the best so far.
            began: when training paused for this checkpoint, by ``perf_counter``.

        Raises:
            RecipeError: the previous checkpoint could not be read again.
        """
        copy = copy_state(state, rank=self._context.rank)
        about = self._about(state, plan, values, is_best=is_best)
        self._is_awaited.set()
        self.wait()
        self._is_awaited.clear()
        self._require_readable()
        self._saved_at = perf_counter()
        self._thread = Thread(
            target=self._write, args=(copy, about, began, self._saved_at - began), name="checkpoint", daemon=True
        )
        self._thread.start()

    def events(self) -> list[Checkpointed | CheckpointFailed]:
        """Return the events of checkpoints that were written or failed since the last call."""
        return [self._events.get() for _ in range(self._events.qsize())]

    def finish(self) -> None:
        """Wait for the last checkpoint.

        Raises:
            RunError: it could not be written.
            RecipeError: it could not be read again.
        """
        self.wait()
        self._require_readable()
        if self._failure is not None:
            raise RunError(
                f"run {self._context.folder.run_id}: its last checkpoint cannot be written: {self._failure}.",
                "Free some space, or repair the storage; scaler resume continues from the previous checkpoint.",
            )

    def wait(self) -> None:
        """Wait until no checkpoint is being written, whether it succeeds or fails."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _require_readable(self) -> None:
        if self._unreadable is not None:
            raise self._unreadable

    def _about(
        self, state: Mapping[str, Any], plan: Plan, values: Mapping[str, float] | None, *, is_best: bool
    ) -> dict[str, Any]:
        """Return the values of a checkpoint's manifest, for people and for the choice of the best."""
        samples_seen: int = state["samples_seen"]
        epoch, epoch_samples = divmod(samples_seen, plan.num_samples)
        known, best = None, self._best.metric
        if values is not None:
            known = {name: value if isfinite(value) else None for name, value in values.items()}
        return {
            "samples_seen": samples_seen,
            "attempt": self._context.attempt,
            "progress": state["progress"],
            "epoch": epoch,
            "epoch_samples": epoch_samples,
            "world_size": self._context.world_size,
            "values": known,
            "best_by": known[best] if best is not None and known is not None else None,
            "best_of": self._best.of,
            "is_best": is_best,
            "reference": self._job.reference.model_dump(mode="json"),
            "plan": plan.to_dict(),
        }

    def _write(self, copy: StateCopy, about: Mapping[str, Any], began: float, stall_s: float) -> None:
        folder, samples_seen, rank = self._context.folder, about["samples_seen"], self._context.rank
        where = {"attempt": about["attempt"], "samples_seen": samples_seen}
        give_up = self._is_awaited.is_set
        writer = FolderWriter(
            folder,
            about,
            copy.plain,
            rank=rank,
            stall_s=stall_s,
            before_manifest=lambda: self._context.secure(samples_seen, give_up=give_up),
            give_up=give_up,
        )
        try:
            save_copy(copy, writer, self._group)
            if rank == 0:
                self._prune(folder, samples_seen)
        except Exception as error:  # any filesystem's exception; training continues, and the report shows it
            self._unreadable = error if isinstance(error, RecipeError) else None
            reason = error.problem.removesuffix(".") if isinstance(error, ScalerError) else error_text(error)
            self._failure = mask_text(reason)
            if rank == 0:
                self._events.put(CheckpointFailed(time=time(), **where, reason=self._failure))
            return
        self._failure = None
        if rank == 0:
            self._events.put(
                Checkpointed(
                    time=time(),
                    **where,
                    bytes=writer.size,
                    best=about["is_best"],
                    seconds=perf_counter() - began,
                    stall_s=writer.stall_s,
                )
            )

    def _prune(self, folder: RunFolder, newest: int) -> None:
        """Remove all checkpoints but the newest ones, and the best of all; later, if the storage is away now."""
        try:
            self._remove_old(folder, newest)
        except RunError as error:
            if not may_pass(error):
                raise

    def _remove_old(self, folder: RunFolder, newest: int) -> None:
        there = [samples for samples in complete_checkpoints(folder) if samples <= newest]
        spared = set(there[-self._wanted.keep :])
        if self._wanted.best is not None:
            values = {samples: self._value_of(folder, samples) for samples in there}
            known = {samples: value for samples, value in values.items() if value is not None}
            if known:
                choose = min if self._wanted.best.mode == "min" else max
                spared.add(choose(known, key=lambda samples: known[samples]))
        for samples in set(there) - spared:
            remove_checkpoint(folder, samples)

    def _value_of(self, folder: RunFolder, samples_seen: int) -> float | None:
        """Return the evaluated value of a checkpoint; None if it has none for this metric or cannot be read."""
        try:
            about = read_manifest(folder, samples_seen)
        except RunError:
            return None
        value = about.get("best_by") if about.get("best_of") == self._best.of else None
        return float(value) if isinstance(value, int | float) else None
