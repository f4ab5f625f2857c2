"""The elapsed time of a run: seconds since submission, without the time before a resume in which nothing ran."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scaler.metrics.events import AttemptStarted, Event, Resumed
from scaler.report.run.model import AttemptRow
from scaler.report.run.step_arrays import Columns


def find_starts(events: Sequence[Event], started_at: float | None) -> dict[int, float | None]:
    """Return the elapsed seconds at each attempt's start; None where the submission is not known.

    Args:
        events: of the run, in order.
        started_at: when the run was submitted, in epoch seconds.
    """
    idle_s = 0.0
    found: dict[int, float | None] = {}
    for event in events:
        if isinstance(event, Resumed):
            idle_s += event.idle_s
        elif isinstance(event, AttemptStarted):
            found[event.attempt] = max(0.0, event.time - started_at - idle_s) if started_at is not None else None
    return found


class Elapsed:
    """The elapsed seconds at the start of each step: its attempt's start, plus the recorded times since then.

    Args:
        steps: of the run, with lost work: see ``StepArrays.steps``.
        attempts: of the run.
        after: seconds of evaluations and checkpoints after each attempt's last step.
    """

    def __init__(self, steps: Columns, attempts: Sequence[AttemptRow], after: Mapping[int, float]) -> None:
        self._seen = steps["samples_seen"]
        self._rows: dict[int, slice] = {}
        self._ends: dict[int, float] = {}
        self._begins = np.full(len(self._seen), np.nan)
        for row in attempts:
            first, last = np.searchsorted(steps["attempt"], [row.attempt, row.attempt + 1])
            mine = slice(int(first), int(last))
            start = row.elapsed_s if row.elapsed_s is not None else np.nan
            until = np.cumsum(steps["own_s"][mine] + steps["between_s"][mine])
            self._rows[row.attempt] = mine
            self._begins[mine] = start + until - steps["own_s"][mine]
            self._ends[row.attempt] = start + (float(until[-1]) if len(until) else 0.0) + after.get(row.attempt, 0.0)

    def of_steps(self, which: NDArray[Any]) -> NDArray[np.float64]:
        """Return the elapsed seconds at the start of the steps that ``which`` selects; NaN where not known."""
        return np.asarray(self._begins[which])

    def at(self, attempt: int, samples_seen: int) -> float | None:
        """Return the elapsed seconds when an attempt had seen some samples, after evaluations and checkpoints there."""
        mine = self._rows.get(attempt)
        if mine is None:
            return None
        step = int(np.searchsorted(self._seen[mine], samples_seen))
        begins = self._begins[mine]
        moment = begins[step] if step < len(begins) else self._ends[attempt]
        return float(moment) if np.isfinite(moment) else None
