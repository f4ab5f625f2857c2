"""The times of an attempt's steps, in the form that verdicts on time are found in.

Left out: the first ``SETTLING_STEPS`` of an attempt, which compile, allocate and fill caches, short batches at the
end of an epoch, and a few steps that took very long. Times are of one optimizer step, also where a record stands for
several.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scaler.report.run.step_arrays import StepArrays

SETTLING_STEPS = 3
WHOLE_BATCH = 0.9  # of the attempt's largest step in samples: what is less is an epoch's short last batch
FEWEST_STEPS = 40  # of an attempt: with fewer, chance can put one of two ranks last in most of them
MOST_STEPS = 2000  # of an attempt that are looked at rank by rank, evenly spaced: more tell nothing new
SLOW_STEP = 5.0  # times the median step of the attempt: told of one by one, where they are few,
SELDOM = 0.05  # of the steps at most; then what is said of the usual steps is said without them
WORTH_S = 1.0  # of training time that could be saved: below it, a share is a share of nothing

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Pace:
    """The times of K steps by R ranks, all of which took part in each; seconds of one optimizer step."""

    attempt: int
    ranks: NDArray[np.int64]  # R
    samples_seen: NDArray[np.int64]  # K
    step: NDArray[np.int64]  # K
    step_s: Floats  # K: mean over ranks
    all_s: float  # of training that these steps stand for: those of the attempt that they were chosen from, too
    samples: NDArray[np.int64]  # K x R
    data_s: NDArray[np.float32]  # K x R
    compute_s: NDArray[np.float32]
    sync_s: NDArray[np.float32]
    own_s: NDArray[np.float32]  # all of a step but the waiting for others

    @property
    def train_s(self) -> float:
        """The time of these steps, mean over ranks: what shares are of."""
        return float(self.step_s.sum())

    def is_worth(self, share: float) -> bool:
        """Whether a share of the attempt's training time is worth saving."""
        return share * self.all_s >= WORTH_S

    @property
    def update_s(self) -> NDArray[np.float32]:
        """K x R: the rest of own times: the optimizer, and what stands around it."""
        return self.own_s - self.data_s - self.compute_s


def whole_steps(arrays: StepArrays, attempt: int) -> NDArray[np.int64]:
    """Return which kept steps of an attempt have whole batches and come after the first ones."""
    mine = np.flatnonzero(arrays.kept["attempt"] == attempt)[SETTLING_STEPS:]
    if not len(mine):
        return mine
    samples = arrays.kept["samples"][mine] / arrays.kept["steps"][mine]
    whole: NDArray[np.int64] = mine[samples >= WHOLE_BATCH * samples.max()]
    return whole


def pace_of(arrays: StepArrays, attempt: int) -> Pace | None:
    """Return an attempt's times, at most ``MOST_STEPS`` of them; None with fewer than ``FEWEST_STEPS``.

    Where the batch grew within the attempt, the steps of its largest batch are looked at.
    """
    rows = whole_steps(arrays, attempt)
    if len(rows) < FEWEST_STEPS:
        return None
    times = arrays.kept["step_time_s"][rows] / arrays.kept["steps"][rows]
    slow = times > SLOW_STEP * np.median(times)
    if slow.mean() <= SELDOM:
        rows = rows[~slow]
    all_s = float(arrays.kept["own_s"][rows].sum())
    if len(rows) > MOST_STEPS:
        rows = rows[np.linspace(0, len(rows) - 1, MOST_STEPS).astype(np.int64)]
    there = np.flatnonzero(arrays.is_there[rows].all(axis=0))
    if not len(there):
        return None
    part, steps = np.ix_(rows, there), arrays.kept["steps"][rows]
    each = {
        name: (arrays.cells[name][part] / steps[:, None]).astype(np.float32)
        for name in ("step_time_s", "data_wait_s", "compute_s", "sync_wait_s")
    }
    return Pace(
        attempt=attempt,
        ranks=arrays.ranks[there],
        samples_seen=arrays.kept["samples_seen"][rows],
        step=arrays.kept["step"][rows],
        step_s=arrays.kept["own_s"][rows] / steps,
        all_s=all_s,
        samples=arrays.cells["samples"][part],
        data_s=each["data_wait_s"],
        compute_s=each["compute_s"],
        sync_s=each["sync_wait_s"],
        own_s=each["step_time_s"] - each["sync_wait_s"],
    )


def newest_pace(arrays: StepArrays) -> Pace | None:
    """Return the times of the newest attempt that has enough steps; None: none has."""
    paces = (pace_of(arrays, attempt) for attempt in reversed(arrays.attempts.tolist()))
    return next((pace for pace in paces if pace is not None), None)


def lower_median(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the median over ranks of each step, the lower of the two in the middle: of two ranks, the other's.

    Example:
        >>> lower_median(np.array([[3, 1], [1, 2]], dtype=np.float32)).tolist()
        [1.0, 1.0]
    """
    middle = (values.shape[1] - 1) // 2
    found: NDArray[np.float32] = np.partition(values, middle, axis=1)[:, middle]
    return found
