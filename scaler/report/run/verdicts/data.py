"""Whether all ranks see the same kind of samples, and whether the loss is a mean over them."""

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

STRETCHES = 20  # that a rank's difference is averaged in, so that it is near normal: 19 degrees of freedom
FEWEST_STEPS = 100  # 5 a stretch
UNEVEN_SHARE = 0.05  # of the mean loss: a smaller difference is nothing to act on
SHOWN_RANKS = 3
NOT_FINITE = "the loss is not finite"  # as the check before the first step says it


def uneven_data(arrays: StepArrays) -> Verdict | None:
    """The losses of some ranks differ from the mean over all by more than chance.

    All ranks take their samples from one permutation, so a rank's difference from a step's mean has mean 0, however
    noisy the losses are. Its means over ``STRETCHES`` parts of the run are judged by Student's t, and the chance of the
    most different rank is multiplied by the number of ranks (Bonferroni). Only attempts of one set of ranks are
    compared: the newest one with enough steps.
    """
    kept, rows = arrays.kept, np.zeros(0, dtype=np.int64)
    for attempt in reversed(arrays.attempts.tolist()):
        rows = np.flatnonzero((kept["attempt"] == attempt) & np.isfinite(kept["loss"]))
        if len(rows) >= FEWEST_STEPS:
            break
    else:
        return None
    there = np.flatnonzero(arrays.is_there[rows].all(axis=0))
    if len(there) < 2:
        return None
    differences, loss = _differences(arrays, rows, there), _mean_loss(kept, rows)
    means = differences.mean(axis=0)
    apart = np.abs(means - np.median(means))  # one rank that is far off moves the mean away from all the others
    errors = differences.std(axis=0, ddof=1) / sqrt(STRETCHES)
    uneven = []
    for index in np.argsort(-apart).tolist():
        mean, error = float(means[index]), float(errors[index])
        if apart[index] < UNEVEN_SHARE * abs(loss) or mean == 0.0:
            break
        if error == 0.0 or two_sided_chance(mean / error, STRETCHES - 1) * len(there) < RARE:
            uneven.append((int(arrays.ranks[there[index]]), mean, error))
    return _verdict(uneven, loss, len(there)) if uneven else None


def _differences(arrays: StepArrays, rows: NDArray[np.int64], ranks: NDArray[np.int64]) -> NDArray[np.float64]:
    """STRETCHES x R means by weight of a rank's loss less the mean over ranks of the same step.

    A rank's sums are divided by the mean of all ranks' weights: divided by its own, or not by weight, they differ from
    0 on every rank alike where losses depend on their weights.
    """
    found = []
    for stretch in np.array_split(rows, STRETCHES):
        part = np.ix_(stretch, ranks)
        losses = arrays.cells["loss"][part] - arrays.kept["loss"][stretch][:, None]
        weights = np.where(np.isfinite(losses), arrays.cells["weight"][part], 0.0)
        mean_weight = np.full(len(ranks), weights.sum(axis=0).mean())
        found.append(np.nan_to_num(means_of(loss_sums(losses, weights).sum(axis=0), mean_weight)))
    return np.array(found)


def _mean_loss(kept: Columns, rows: NDArray[np.int64]) -> float:
    weights = kept["weight"][rows]
    return float(means_of(loss_sums(kept["loss"][rows], weights).sum(), weights.sum()))


def _verdict(uneven: list[tuple[int, float, float]], loss: float, ranks: int) -> Verdict:
    said = [f"rank {rank} by {mean:+.3g} ± {error:.2g}" for rank, mean, error in uneven[:SHOWN_RANKS]]
    rest = [f"and {len(uneven) - SHOWN_RANKS} more"] if len(uneven) > SHOWN_RANKS else []
    first = uneven[0][0]
    who = f"The loss of rank {first} differs from the others'" if ranks > 2 else "The losses of the two ranks differ"
    return Verdict(
        code="uneven_data",
        rank=first if ranks > 2 else None,  # of two, nothing says which is the odd one
        message=f"{who} beyond chance.",
        evidence=f"from a mean of {number(loss)} over {ranks} ranks: {', '.join([*said, *rest])}",
        next="All ranks draw from one shuffled order, so look at what is not the same there: the copy of the data on "
        "its node, a transform that depends on the rank, the device itself.",
    )


def loss_not_checked(events: Sequence[Event]) -> Verdict | None:
    """Before the first step it could not be told whether the loss is a mean over samples."""
    reason = next((event.loss_not_checked for event in of_type(events, TriedOut) if event.loss_not_checked), None)
    if reason is None or reason == NOT_FINITE:  # which has verdicts of its own
        return None
    return Verdict(
        code="loss_not_checked",
        rank=None,
        message="Whether the loss is a mean over samples could not be checked before the first step.",
        evidence=one_line(str(reason)),
        next="If it is a sum, or compares samples, it trains differently on other numbers of workers: return (sum, "
        "weight), or use scaler.all_gather. If it is right, say so in the recipe: loss_over.",
    )
