"""Verdicts on the data: ranks whose losses differ, and a loss that could not be checked."""

from collections.abc import Sequence
from math import sqrt

import numpy as np
from numpy.typing import NDArray

from scaler.core.student_t import two_sided_chance
from scaler.metrics.events import Event, TriedOut, of_type
from scaler.metrics.means import loss_sums, means_of
from scaler.report.run.model import Verdict
from scaler.report.run.step_arrays import Columns, StepArrays
from scaler.report.run.verdicts.curve import RARE
from scaler.report.text.format import number, one_line

BLOCKS = 20  # of steps, whose means are nearly normal: 19 degrees of freedom
FEWEST_STEPS = 100  # of an attempt: 5 a block
UNEVEN_SHARE = 0.05  # of the mean loss: a smaller difference is not reported
SHOWN_RANKS = 3
DRAWN = "All ranks draw from one shuffled order, so "
UNSHUFFLED = "A rank takes the same part of every step in train_data's own order: shuffle the source. Or "
NOT_FINITE = "the loss is not finite"  # the text of the check before the first step


def uneven_data(arrays: StepArrays, order: str | None = None) -> Verdict | None:
    """Return a verdict if the losses of some ranks differ significantly from the mean over all ranks.

    All ranks take their samples from one permutation, so the difference between a rank's loss and the mean of its step
    has mean 0, however noisy the losses are. Its means over ``BLOCKS`` blocks of steps are tested by Student's t, and
    the p-value is multiplied by the number of ranks (Bonferroni). The newest attempt with enough steps is judged.
    ``order`` is the ``data_order`` of the run: in its own order, data that are not shuffled can differ between ranks.
    """
    kept, rows = arrays.kept, np.zeros(0, dtype=np.int64)
    for attempt in reversed(arrays.attempts.tolist()):
        rows = np.flatnonzero((kept["attempt"] == attempt) & np.isfinite(kept["loss"]))
        if len(rows) >= FEWEST_STEPS:
            break
    else:
        return None
    present = np.flatnonzero(arrays.is_there[rows].all(axis=0))
    if len(present) < 2:
        return None
    differences, loss = _differences(arrays, rows, present), _mean_loss(kept, rows)
    means = differences.mean(axis=0)
    distances = np.abs(means - np.median(means))  # from the median: one rank that is far off moves the mean
    errors = differences.std(axis=0, ddof=1) / sqrt(BLOCKS)
    uneven = []
    for index in np.argsort(-distances).tolist():
        mean, error = float(means[index]), float(errors[index])
        if distances[index] < UNEVEN_SHARE * abs(loss) or mean == 0.0:
            break
        if error == 0.0 or two_sided_chance(mean / error, BLOCKS - 1) * len(present) < RARE:
            uneven.append((int(arrays.ranks[present[index]]), mean, error))
    return _verdict(uneven, loss, len(present), order) if uneven else None


def _differences(arrays: StepArrays, rows: NDArray[np.int64], ranks: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the weighted mean difference of each rank's loss from the mean of its step: BLOCKS x R.

    A rank's sum is divided by the mean weight of all ranks. Divided by its own weight, or without weights, it would
    differ from 0 on every rank if losses depend on their weights.
    """
    found = []
    for block in np.array_split(rows, BLOCKS):
        part = np.ix_(block, ranks)
        losses = arrays.cells["loss"][part] - arrays.kept["loss"][block][:, None]
        weights = np.where(np.isfinite(losses), arrays.cells["weight"][part], 0.0)
        mean_weight = np.full(len(ranks), weights.sum(axis=0).mean())
        found.append(np.nan_to_num(means_of(loss_sums(losses, weights).sum(axis=0), mean_weight)))
    return np.array(found)


def _mean_loss(kept: Columns, rows: NDArray[np.int64]) -> float:
    weights = kept["weight"][rows]
    return float(means_of(loss_sums(kept["loss"][rows], weights).sum(), weights.sum()))


def _verdict(uneven: list[tuple[int, float, float]], loss: float, ranks: int, order: str | None) -> Verdict:
    shown = [f"rank {rank} by {mean:+.3g} ± {error:.2g}" for rank, mean, error in uneven[:SHOWN_RANKS]]
    rest = [f"and {len(uneven) - SHOWN_RANKS} more"] if len(uneven) > SHOWN_RANKS else []
    first = uneven[0][0]
    who = f"The loss of rank {first} differs from the others'" if ranks > 2 else "The losses of the two ranks differ"
    return Verdict(
        code="uneven_data",
        rank=first if ranks > 2 else None,  # of two ranks, either may be the one that differs
        message=f"{who} by more than chance.",
        evidence=f"from a mean of {number(loss)} over {ranks} ranks: {', '.join([*shown, *rest])}",
        next=f"{DRAWN if order is None else UNSHUFFLED}look for a difference on that rank: the copy of the data on its "
        "node, a transform that depends on the rank, a faulty device.",
    )


def loss_not_checked(events: Sequence[Event]) -> Verdict | None:
    """Return a verdict if it could not be checked whether the loss is a mean over samples."""
    reason = next((event.loss_not_checked for event in of_type(events, TriedOut) if event.loss_not_checked), None)
    if reason is None or reason == NOT_FINITE:  # other verdicts report that
        return None
    return Verdict(
        code="loss_not_checked",
        rank=None,
        message="It could not be checked before the first step whether the loss is a mean over samples.",
        evidence=one_line(str(reason)),
        next="A loss that is a sum, or compares samples, trains differently on other numbers of workers: return (sum, "
        "weight), or use scaler.all_gather. If the loss is right, set loss_over in the recipe.",
    )
