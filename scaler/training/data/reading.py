"""Read an iterable forward, epoch by epoch, and continue at a saved place."""

from collections.abc import Iterator, Mapping
from copy import deepcopy
from time import perf_counter
from typing import Any

import torch

from scaler.core.seeds import stream_seed
from scaler.training.randomness import SeparateRandomness, random_state, set_random_state

END = object()
SNAPSHOT_EVERY_S = 1.0  # a resume reads the samples since the last snapshot again
_CPU = torch.device("cpu")

Snapshot = dict[str, Any]
"""A place in a source: ``epoch``, ``read`` (samples of the epoch), ``source`` (its state) and ``random``."""


class Reading:
    """Yields the samples of an iterable; each ``iter(source)`` is an epoch.

    Random numbers that the source draws (a shuffle buffer, augmentation) start from the seed and the epoch, and are
    separate from those of this process. A source with ``state_dict`` and ``load_state_dict`` can continue at a snapshot
    without reading the epoch from its start.

    Args:
        source: a method ``set_epoch(epoch)`` is called before an epoch begins.
        seed: of the job.
        stream: names the random numbers.
        start: the state of the source before its first iteration; None: it has no state.
        uses_state: whether snapshots are taken.

    Attributes:
        source, uses_state: as given.
        epoch: that is read; None: no epoch has begun.
        read: samples of the epoch that were read.
        randomness: the source must be read inside ``with reading.randomness``.
    """

    def __init__(
        self, source: Any, *, seed: int, stream: str = "stream", start: Any = None, uses_state: bool = False
    ) -> None:
        self.source, self._seed, self._stream, self._start = source, seed, stream, start
        self.uses_state = uses_state
        self.randomness = SeparateRandomness()
        self.epoch: int | None = None
        self.read = 0
        self._samples: Iterator[Any] = iter(())
        self._snapshot_at = float("-inf")

    def begin(self, epoch: int) -> None:
        """Begin an epoch from its start."""
        self.randomness.seed(stream_seed(self._seed, self._stream, epoch))
        if self._start is not None:  # a state that was loaded before may still count
            self.source.load_state_dict(deepcopy(self._start))
        set_epoch(self.source, epoch)
        self.epoch, self.read, self._samples = epoch, 0, iter(self.source)

    def next(self) -> Any:
        """Return the next sample of the epoch, or ``END``."""
        sample = next(self._samples, END)
        self.read += sample is not END
        return sample

    def is_at_end(self) -> bool:
        """Return whether the epoch has no more samples; a sample that is left is lost."""
        return next(self._samples, END) is END

    def snapshot(self) -> Snapshot:
        """Return the present place; the source must have ``state_dict``."""
        return {
            "epoch": self.epoch,
            "read": self.read,
            "source": deepcopy(self.source.state_dict()),
            "random": random_state(_CPU),
        }

    def snapshot_when_due(self) -> Snapshot | None:
        """Return a snapshot, at most one a second; None: none is due, or the source's state is not used."""
        if not self.uses_state or perf_counter() - self._snapshot_at < SNAPSHOT_EVERY_S:
            return None
        self._snapshot_at = perf_counter()
        return self.snapshot()

    def restore(self, snapshot: Mapping[str, Any]) -> None:
        """Continue at a snapshot of this source."""
        set_epoch(self.source, snapshot["epoch"])
        self.source.load_state_dict(deepcopy(snapshot["source"]))
        self.epoch, self.read, self._samples = snapshot["epoch"], snapshot["read"], iter(self.source)
        set_random_state(snapshot["random"], _CPU)


def start_state(source: Any) -> Any:
    """Return the state of a source before its first iteration; None: it has no state."""
    return deepcopy(source.state_dict()) if has_state(source) else None


def has_state(source: object) -> bool:
    """Return whether a source can save its place, and continue there."""
    return all(callable(getattr(source, name, None)) for name in ("state_dict", "load_state_dict"))


def set_epoch(source: object, epoch: int) -> None:
    """Call the source's ``set_epoch``, if it has one."""
    method = getattr(source, "set_epoch", None)
    if callable(method):
        method(epoch)
