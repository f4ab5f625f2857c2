"""The run's curves for TensorBoard, written as it runs: ``tensorboard/`` in the run's folder.

    train/loss_mean    mean over ranks, weighted by samples
    train/lr           as rank 0's optimizer used it
    train/noise_scale  running average, in samples: an estimate; only where it is measured
    eval/<name>        over all of eval_data

A point stands at ``samples_seen``. Every step is a point until there are ``STRETCH_POINTS`` of them; from then on a
point stands for 2 steps, then for 4 and so on, so that a long run's file stays small.
"""

import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from secrets import token_hex
from time import monotonic, time
from typing import Any

from scaler.metrics.record import Record
from scaler.runs import RunFolder

FOLDER = "tensorboard"
STRETCH_POINTS = 1000
STRETCH_S = 5.0  # a point waits no longer for its stretch to be full
UPLOAD_S = 5.0  # how often a folder that is not on this machine gets the file


@dataclass(slots=True)
class _Step:
    """One optimizer step, as far as its workers have told of it; or a stretch of whole ones."""

    samples_seen: int
    count: int = 0  # workers that told; of a stretch, its steps
    samples: int = 0
    loss_sum: float = 0.0
    lr: float | None = None
    noise_scale: float | None = None


@dataclass(frozen=True, slots=True)
class _Point:
    """What is to be written: values by name, or that everything from here on is to be forgotten."""

    samples_seen: int
    wall_time: float
    values: Mapping[str, float] = field(default_factory=dict)
    forget: bool = False


class TensorBoardWriter:
    """Writes one event file; nothing, and no folder, before there is something to write.

    A step is written once every worker has told of it. Work that is done again, after a crash or a return to a
    checkpoint, replaces what was drawn of it: the file says where TensorBoard is to forget. Nothing here waits for a
    worker, and a worker never waits for it.

    Args:
        folder: the run's folder. One on this machine is written as it goes; one elsewhere gets the whole file anew
            every ``UPLOAD_S``.
    """

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self._file: _EventFile | None = None
        self._attempt: int | None = None
        self._world_size = 0
        self._steps: dict[tuple[int, int], _Step] = {}  # by attempt and samples_seen
        self._stretch: _Step | None = None
        self._stretch_began = 0.0
        self._points = 0
        self._pending: list[_Point] = []

    def add(self, records: Sequence[Record]) -> None:
        """Take records of one worker, in the order of its steps."""
        for record in records:
            if self._attempt is not None and record.attempt < self._attempt:
                continue
            key = (record.attempt, record.samples_seen)
            step = self._steps.get(key)
            if step is None:
                step = self._steps[key] = _Step(record.samples_seen)
            step.count += 1
            if record.loss is not None:
                step.samples += record.samples
                step.loss_sum += record.loss * record.samples
            if record.rank == 0:
                step.lr, step.noise_scale = record.lr, record.noise_scale
            if step.count == self._world_size and record.attempt == self._attempt:
                self._extend(self._steps.pop(key))

    def add_event(self, event: Mapping[str, Any]) -> None:
        """Take an event: attempts and evaluations are of use here."""
        if event["kind"] == "attempt_started":
            self._begin(event)
        elif event["kind"] == "evaluated":
            values = {f"eval/{name}": value for name, value in event["values"].items() if value is not None}
            self._pending.append(_Point(event["samples_seen"], event.get("time", time()), values))

    def flush(self) -> None:
        """Let readers see what was taken. Nothing before this touches the folder."""
        if self._stretch is not None and monotonic() - self._stretch_began >= STRETCH_S:
            self._end_stretch()
        self._write()
        if self._file is not None:
            self._file.upload()

    def close(self) -> None:
        """Write the rest and end the file."""
        self._end_stretch()
        self._write()
        if self._file is not None:
            self._file.close()
            self._file = None

    def _write(self) -> None:
        if not self._pending:
            return
        try:
            if self._file is None:
                self._file = _EventFile(self._folder)
            self._file.write(self._pending)
        except OSError:  # a full disk, say: half a point may be there, and nothing can be read behind it
            self._file = None
            raise
        self._pending = []

    def _begin(self, event: Mapping[str, Any]) -> None:
        self._end_stretch()
        self._attempt, self._world_size = event["attempt"], event["world_size"]
        if event["attempt"] > 0:
            # Not from the start itself: an evaluation may stand there, of the very weights that are gone on from.
            self._pending.append(_Point(event["start_samples"] + 1, event.get("time", time()), forget=True))
        early, self._steps = self._steps, {}
        for (attempt, samples_seen), step in early.items():  # other workers' came before rank 0 said that it began
            if attempt < event["attempt"]:
                continue
            if attempt == event["attempt"] and step.count == self._world_size:
                self._extend(step)
            else:
                self._steps[attempt, samples_seen] = step

    def _extend(self, step: _Step) -> None:
        """Put a whole step into the stretch, and end that when it is full."""
        stretch = self._stretch
        if stretch is None:
            stretch = self._stretch = _Step(step.samples_seen, lr=step.lr)
            self._stretch_began = monotonic()
        stretch.count += 1
        stretch.samples += step.samples
        stretch.loss_sum += step.loss_sum
        if step.noise_scale is not None:
            stretch.noise_scale = step.noise_scale
        if stretch.count >= 2 ** (self._points // STRETCH_POINTS):
            self._end_stretch()

    def _end_stretch(self) -> None:
        stretch, self._stretch = self._stretch, None
        if stretch is None:
            return
        values = {"train/lr": stretch.lr, "train/noise_scale": stretch.noise_scale}
        if stretch.samples:
            values["train/loss_mean"] = stretch.loss_sum / stretch.samples
        self._points += 1
        known = {name: value for name, value in values.items() if value is not None}
        self._pending.append(_Point(stretch.samples_seen, time(), known))


class _EventFile:
    """One file of TensorBoard's, under a name of its own: none is written over."""

    def __init__(self, folder: RunFolder) -> None:
        with _torch_kept_out():
            from tensorboardX.event_file_writer import EventsWriter  # type: ignore[import-untyped]
            from tensorboardX.proto.event_pb2 import Event, SessionLog  # type: ignore[import-untyped]

        self._event, self._restart = Event, SessionLog(status=SessionLog.START)
        self._folder, self._is_local = folder, folder.local_path is not None
        self._place = (folder.local_path or Path(tempfile.mkdtemp(prefix="scaler-"))) / FOLDER
        self._place.mkdir(parents=True, exist_ok=True)
        suffix = f".{token_hex(4)}"
        self._writer = EventsWriter(str(self._place / "events"), suffix)
        (self._path,) = self._place.glob(f"*{suffix}")
        self._uploaded_at = float("-inf")
        self._is_ahead = False  # of what was uploaded

    def write(self, points: Sequence[_Point]) -> None:
        for point in points:
            event = self._event(wall_time=point.wall_time, step=point.samples_seen)
            for name, value in point.values.items():
                event.summary.value.add(tag=_tag(name), simple_value=value)
            if point.forget:
                event.session_log.CopyFrom(self._restart)
            self._writer.write_event(event)
        self._writer.flush()
        self._is_ahead = not self._is_local

    def upload(self, *, at_once: bool = False) -> None:
        if self._is_ahead and (at_once or monotonic() - self._uploaded_at >= UPLOAD_S):
            self._uploaded_at = monotonic()
            self._folder.write(f"{FOLDER}/{self._path.name}", self._path.read_bytes())
            self._is_ahead = False

    def close(self) -> None:
        self.upload(at_once=True)
        self._writer.close()
        if not self._is_local:
            shutil.rmtree(self._place.parent)


def _tag(name: str) -> str:
    """A name that protobuf takes: a metric's may hold what no encoding has."""
    return name.encode("utf-8", "replace").decode()


@contextmanager
def _torch_kept_out() -> Iterator[None]:
    """Import tensorboardX without torch, where that is not loaded yet: 0.05 s and 30 MB, not 2.5 s and 200 MB.

    tensorboardX tries torch and goes on without it; it needs it for graphs of models, and here are only numbers.
    """
    if "torch" in sys.modules:
        yield
        return
    sys.modules["torch"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules["torch"]
