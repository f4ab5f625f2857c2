"""The step times of an attempt, as the verdicts on time need them.

Left out are the first ``SETTLING_STEPS`` of an attempt, which compile, allocate and fill caches; short batches at the
end of an epoch; and a few steps that took very long. Times are of one optimizer step, also if a record stands for
several.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scaler.report.run.step_arrays import StepArrays

SETTLING_STEPS = 3
WHOLE_BATCH = 0.9  # of the attempt's largest batch: a smaller one is the short last batch of an epoch
FEWEST_STEPS = 40  # of an attempt; with fewer, one of two ranks can be last in most steps by chance
MOST_STEPS = 2000  # of an attempt that are read rank by rank, evenly spaced
SLOW_STEP = 5.0  # times the median step time of the attempt: a slow step, reported by ``slow_steps``
SELDOM = 0.05  # of the steps: up to this share, slow steps are left out of the other verdicts on time
WORTH_S = 1.0  # seconds of training time that could be saved; less is not worth a verdict

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class StepTimes:
    """The times of K steps on R ranks that took part in all of them, in seconds of one optimizer step."""

    attempt: int
    ranks: NDArray[np.int64]  # R
    samples_seen: NDArray[np.int64]  # K
    step: NDArray[np.int64]  # K
    step_s: Floats  # K: mean over ranks
    all_s: float  # training time of all the steps that these were chosen from
    samples: NDArray[np.int64]  # K x R
    data_s: NDArray[np.float32]  # K x R
    compute_s: NDArray[np.float32]
    sync_s: NDArray[np.float32]
    own_s: NDArray[np.float32]  # step time without the wait for other ranks

    @property
    def train_s(self) -> float:
        """The sum of these step times, mean over ranks; shares of the training time refer to it."""
        return float(self.step_s.sum())

    def is_worth(self, share: float) -> bool:
        """Whether a share of the attempt's training time is at least ``WORTH_S``."""
        return share * self.all_s >= WORTH_S

    @property
    def update_s(self) -> NDArray[np.float32]:
        """K x R: own time without data wait and compute: the optimizer step and the code around it."""
        return self.own_s - self.data_s - self.compute_s


def whole_steps(arrays: StepArrays, attempt: int) -> NDArray[np.int64]:
    """Return the rows of an attempt's steps with whole batches, without the first ``SETTLING_STEPS``."""
    mine = np.flatnonzero(arrays.kept["attempt"] == attempt)[SETTLING_STEPS:]
    if not len(mine):
        return mine
    samples = arrays.kept["samples"][mine] / arrays.kept["steps"][mine]
    whole: NDArray[np.int64] = mine[samples >= WHOLE_BATCH * samples.max()]
    return whole


def step_times_of(arrays: StepArrays, attempt: int) -> StepTimes | None:
    """Return the times of at most ``MOST_STEPS`` steps of an attempt; None if it has fewer than ``FEWEST_STEPS``.

    If the batch grew within the attempt, the steps of its largest batch are used.
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
    return StepTimes(
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


def newest_step_times(arrays: StepArrays) -> StepTimes | None:
    """Return the times of the newest attempt that has enough steps; None if no attempt has."""
    found = (step_times_of(arrays, attempt) for attempt in reversed(arrays.attempts.tolist()))
    return next((times for times in found if times is not None), None)


def lower_median(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the median over ranks of each step; of an even number of ranks, the lower middle value.

    Example:
        >>> lower_median(np.array([[3, 1], [1, 2]], dtype=np.float32)).tolist()
        [1.0, 1.0]
    """
    middle = (values.shape[1] - 1) // 2
    found: NDArray[np.float32] = np.partition(values, middle, axis=1)[:, middle]
    return found
