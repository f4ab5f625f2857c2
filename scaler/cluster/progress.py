"""What is known of a run while it runs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from scaler.metrics.record import Record


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """A look at a running job; None means not known yet."""

    attempt: int | None = None
    world_size: int | None = None
    samples_seen: int = 0  # as far as the slowest worker has handed over
    progress: float = 0.0  # likewise, in samples of the reference's training: samples_seen, unless rule: adascale
    lr: float | None = None
    loss_mean: float | None = None  # mean over ranks at the newest step that every rank handed over
    samples_per_s: float | None = None  # over all workers, since the attempt's first step
    evals: Mapping[str, float | None] = field(default_factory=dict)


class ProgressTracker:
    """Keeps the newest of what passes by, so that a look costs nothing."""

    def __init__(self) -> None:
        self._attempt: Mapping[str, Any] | None = None
        self._newest: dict[int, Record] = {}
        self._worth: dict[int, float] = {}  # progress in a sample of the newest step but one
        self._busy_s: dict[int, float] = {}
        self._samples: dict[int, int] = {}
        self._evals: Mapping[str, float | None] = {}

    def add(self, records: Sequence[Record], events: Sequence[Mapping[str, Any]]) -> None:
        """Look at what one worker handed over."""
        for event in events:
            if event["kind"] == "attempt_started":
                self._attempt = event
                self._newest, self._worth, self._busy_s, self._samples = {}, {}, {}, {}
            elif event["kind"] == "evaluated":
                self._evals = event["values"]
        for record in records:
            if self._attempt is not None and record.attempt != self._attempt["attempt"]:
                continue
            before = self._newest.get(record.rank)
            if before is not None and record.samples_seen > before.samples_seen:
                samples = record.samples_seen - before.samples_seen
                self._worth[record.rank] = (record.progress - before.progress) / samples
            self._newest[record.rank] = record
            self._busy_s[record.rank] = self._busy_s.get(record.rank, 0.0) + record.step_time_s
            self._samples[record.rank] = self._samples.get(record.rank, 0) + record.samples

    def look(self) -> Progress:
        """Return what is known now."""
        attempt = self._attempt or {}
        world_size = attempt.get("world_size")
        if not self._newest or len(self._newest) != world_size:
            return Progress(attempt=attempt.get("attempt"), world_size=world_size, evals=self._evals)
        last = min(self._newest.values(), key=lambda record: record.samples_seen)
        losses = [(r.loss, r.samples) for r in self._newest.values() if r.loss is not None]
        counted = sum(samples for _, samples in losses)
        busy_s = max(self._busy_s.values())
        size = sum(record.samples for record in self._newest.values())
        return Progress(
            attempt=attempt.get("attempt"),
            world_size=world_size,
            samples_seen=last.samples_seen + size,
            progress=last.progress + self._worth.get(last.rank, 1.0) * size,
            lr=last.lr,
            loss_mean=sum(loss * samples for loss, samples in losses) / counted if counted else None,
            samples_per_s=sum(self._samples.values()) / busy_s if busy_s > 0 else None,
            evals=self._evals,
        )
