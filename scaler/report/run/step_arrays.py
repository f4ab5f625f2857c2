"""The records of a run as arrays: with one entry for each step, and with one for each step and worker.

Records are added a table at a time and in any order, so that a run of ten million records needs little more memory than
these arrays.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from scaler.metrics.events import AttemptStarted, Event, of_type
from scaler.metrics.means import loss_sums, means_of
from scaler.metrics.reader import lost_from
from scaler.metrics.record import COLUMNS, Column, Merge, Per, columns_per

Columns = Mapping[str, NDArray[Any]]


def _cell_type(column: Column) -> type[np.number[Any]]:
    """Return the type of a column's array. Only ``samples`` is an integer: every other cell can be missing (NaN).

    Seven digits are enough for a time that is measured once; losses and counts keep all digits.
    """
    if column.name == "samples":
        return np.int32
    return np.float64 if column.type is int or column.merge is Merge.MEAN else np.float32


OF_STEP = tuple(column.name for column in columns_per(Per.STEP))
"""What all workers of a step share; the lowest rank's value is taken."""

OF_CELL = {column.name: _cell_type(column) for column in columns_per(Per.WORKER)}
"""What each worker has of its own, and the type of its array."""

BETWEEN = tuple(column.name for column in columns_per(Per.BETWEEN))
"""What is measured between steps; it is seldom not 0, so that only sums are kept."""

SAMPLED = tuple(column.name for column in columns_per(Per.SAMPLE))
"""What is measured now and then; only means over the run are kept."""

_WHOLE = {column.name for column in COLUMNS if column.type is int and not column.is_nullable}

_KEYS = ("attempt", "rank", "samples_seen", "samples")


class Records(Protocol):
    """Where records come from, a table at a time: ``RecordFiles``."""

    @property
    def unreadable(self) -> Sequence[str]:
        """The damaged files found so far, each with what is wrong."""

    def tables(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """Yield the records, or some columns of them: the same rows in the same order at each call."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StepArrays:
    """S steps, K of them in the final weights, of R ranks. The times of an entry are of its ``steps`` steps."""

    ranks: NDArray[np.int64]  # R ranks that recorded anything, ascending; lost work counts
    attempts: NDArray[np.int64]  # attempts that recorded anything, ascending
    # S entries, in the order of attempt and samples_seen: OF_STEP, the keys, and these. lost: a later attempt did it
    # again. is_kept: it is in the final weights. samples: sum over ranks. workers: ranks that recorded it. weight: sum
    # over ranks of the weights of their losses. loss: mean over ranks, by weight; loss_min, loss_max: of any rank.
    # step_time_s: of the slowest rank. own_s: step time, mean over ranks. between_s: evaluations and checkpoints before
    # it, mean over ranks. lr_error: largest difference of a rank's lr from its lr_planned. lr_planned_min,
    # lr_planned_max: over ranks. Steps without recorded samples are left out.
    steps: Columns
    kept: Columns  # K entries: the same, for the steps in the final weights
    cells: Columns  # K x R each, OF_CELL: NaN (of samples and weight: 0) where a rank did not record the step
    is_there: NDArray[np.bool_]  # K x R: whether the rank recorded the step
    between: Columns  # K sums over ranks each, BETWEEN, by name; divided by ``workers``, means over ranks
    rank_between: Columns  # R sums over kept steps each, BETWEEN, by name
    rank_means: Columns  # R means over kept records each, SAMPLED, by name; NaN: not measured

    def over_ranks(self, name: str) -> NDArray[np.float64]:
        """Return K means of a cell over the ranks that recorded the step."""
        sums = self.cells[name].sum(axis=1, dtype=np.float64, where=self.is_there)
        return np.asarray(sums / np.maximum(self.kept["workers"], 1))


def make_step_arrays(records: Records, events: Sequence[Event]) -> StepArrays:
    """Return the arrays of a run.

    Args:
        records: every record that can be read, each once.
        events: of the run; their starts of attempts show what was lost. Attempts without a start are not kept.
    """
    ranks, steps = _steps(records, events)
    known = {start.attempt for start in of_type(events, AttemptStarted)}
    keep = ~steps["lost"] & np.isin(steps["attempt"], list(known))
    filling = _Filling({**steps, "is_kept": keep}, ranks)
    for table in records.tables():
        filling.add(table)
    return filling.arrays()


def _steps(records: Records, events: Sequence[Event]) -> tuple[NDArray[np.int64], dict[str, NDArray[Any]]]:
    """The ranks, and the keys of every step."""
    found: list[NDArray[np.int64]] = []
    ranks = np.zeros(0, dtype=np.int64)
    for table in records.tables(_KEYS):
        ranks = np.union1d(ranks, table["rank"].to_numpy())
        found.append(np.unique(_key(table)[table["samples"].to_numpy() > 0]))
    keys = np.unique(np.concatenate(found)) if found else np.zeros(0, dtype=np.int64)
    attempt, seen = keys >> _SHIFT, keys & (2**_SHIFT - 1)
    lost = seen >= lost_from(attempt, events)
    return ranks.astype(np.int64), {"key": keys, "attempt": attempt, "samples_seen": seen, "lost": lost}


_SHIFT = 44  # samples_seen below 2**44, attempts below 2**19: as one integer that sorts by both


def _key(table: pa.Table) -> NDArray[np.int64]:
    attempt: NDArray[np.int64] = table["attempt"].to_numpy().astype(np.int64)
    seen: NDArray[np.int64] = table["samples_seen"].to_numpy()
    return (attempt << _SHIFT) | seen


class _Filling:
    """Step arrays while records are added to them."""

    def __init__(self, steps: dict[str, NDArray[Any]], ranks: NDArray[np.int64]) -> None:
        self._keys, self._keep, self._ranks = steps.pop("key"), steps["is_kept"], ranks
        count, keep = len(self._keys), self._keep
        self._steps = steps
        self._row = np.cumsum(keep) - 1  # of a kept step among the kept
        self._owner = np.full(count, np.iinfo(np.int64).max)  # the lowest rank so far
        for name in OF_STEP:
            steps[name] = np.zeros(count, dtype=np.int64) if name in _WHOLE else np.full(count, np.nan)
        for name in ("samples", "workers"):
            steps[name] = np.zeros(count, dtype=np.int64)
        for name in ("loss", "weight", "step_time_s", "own_s", "between_s", "lr_error"):
            steps[name] = np.zeros(count)
        for name, start in (("loss_min", np.inf), ("loss_max", -np.inf)):
            steps[name] = np.full(count, start)
        steps["lr_planned_min"], steps["lr_planned_max"] = np.full(count, np.inf), np.full(count, -np.inf)
        shape = (int(keep.sum()), len(ranks))
        self._is_there = np.zeros(shape, dtype=bool)
        self._cells = {
            name: np.zeros(shape, dtype=kind) if name == "samples" else np.full(shape, np.nan, dtype=kind)
            for name, kind in OF_CELL.items()
            if name != "weight"
        }
        self._weights: NDArray[np.float64] | None = None  # None: every loss so far counts with its samples
        self._between = {name: np.zeros(shape[0]) for name in BETWEEN}
        self._rank_between = {name: np.zeros(shape[1]) for name in BETWEEN}
        self._sampled = {name: np.zeros((2, shape[1])) for name in SAMPLED}  # sum, count

    def add(self, table: pa.Table) -> None:
        """Add a table of records."""
        values = {name: _floats(table, name) for name in table.column_names if name != "weight"}
        values["weight"] = _weights(table)
        key = _key(table)
        at = np.searchsorted(self._keys, key)
        is_step = self._keys[np.minimum(at, len(self._keys) - 1)] == key if len(self._keys) else np.zeros(0, dtype=bool)
        if not is_step.all():
            values, at = chosen(values, is_step), at[is_step]
        if not len(at):
            return
        # A table covers a stretch of the run, so the sums are made over this stretch and not over the run.
        window = slice(int(at.min()), int(at.max()) + 1)
        self._share(values, at - window.start, window)
        self._sum(values, at - window.start, window)
        mine = np.flatnonzero(self._keep[at])
        if len(mine):
            self._fill(values if len(mine) == len(at) else chosen(values, mine), self._row[at[mine]])

    def _share(self, values: Columns, at: NDArray[np.int64], window: slice) -> None:
        """Store what is the same on all workers, from the lowest rank."""
        owner, rank = self._owner[window], values["rank"]
        before = owner.copy()
        np.minimum.at(owner, at, rank)
        first = np.flatnonzero((rank == owner[at]) & (rank < before[at]))
        for name in OF_STEP:
            self._steps[name][window][at[first]] = values[name][first]

    def _sum(self, values: Columns, at: NDArray[np.int64], window: slice) -> None:
        steps = {name: column[window] for name, column in self._steps.items()}
        loss, weight = values["loss"], values["weight"]

        def sums(weights: NDArray[Any] | None) -> NDArray[Any]:
            return np.bincount(at, weights=weights, minlength=window.stop - window.start)

        counted = weight != 0  # what has no weight has no loss
        steps["samples"] += sums(values["samples"]).astype(np.int64)
        steps["weight"] += sums(weight)
        steps["workers"] += sums(None)
        steps["own_s"] += sums(values["step_time_s"])
        steps["between_s"] += sums(np.sum([values[name] for name in BETWEEN], axis=0))
        steps["loss"] += sums(loss_sums(loss, weight))
        finite = counted & np.isfinite(loss)
        np.minimum.at(steps["loss_min"], at[finite], loss[finite])
        np.maximum.at(steps["loss_max"], at[finite], loss[finite])
        np.maximum.at(steps["step_time_s"], at, values["step_time_s"])
        with np.errstate(invalid="ignore"):  # a learning rate can be NaN
            np.maximum.at(steps["lr_error"], at, np.abs(values["lr"] - values["lr_planned"]))
            np.minimum.at(steps["lr_planned_min"], at, values["lr_planned"])
            np.maximum.at(steps["lr_planned_max"], at, values["lr_planned"])

    def _fill(self, values: Columns, row: NDArray[np.int64]) -> None:
        column = np.searchsorted(self._ranks, values["rank"])
        self._is_there[row, column] = True
        if self._weights is None and not np.array_equal(
            values["weight"], values["samples"]
        ):  # weights are stored from here on
            self._weights = self._cells["samples"].astype(np.float64)
        if self._weights is not None:
            self._weights[row, column] = values["weight"]
        for name, cells in self._cells.items():
            cells[row, column] = values[name]
        for name in BETWEEN:
            is_any = np.flatnonzero(values[name])
            np.add.at(self._between[name], row[is_any], values[name][is_any])
            np.add.at(self._rank_between[name], column[is_any], values[name][is_any])
        for name, (total, count) in self._sampled.items():
            known = np.flatnonzero(np.isfinite(values[name]))
            np.add.at(total, column[known], values[name][known])
            np.add.at(count, column[known], 1)

    def arrays(self) -> StepArrays:
        """Return the complete arrays."""
        steps = self._steps
        workers = np.maximum(steps["workers"], 1)
        steps["loss"] = means_of(steps["loss"], steps["weight"])
        for name in ("own_s", "between_s"):
            steps[name] = steps[name] / workers
        for name in ("loss_min", "loss_max"):
            steps[name][~np.isfinite(steps[name])] = np.nan
        return StepArrays(
            ranks=self._ranks,
            attempts=np.unique(steps["attempt"]),
            steps=steps,
            kept=chosen(steps, self._keep),
            cells={**self._cells, "weight": self._cells["samples"] if self._weights is None else self._weights},
            is_there=self._is_there,
            between=self._between,
            rank_between=self._rank_between,
            rank_means={name: means_of(total, count) for name, (total, count) in self._sampled.items()},
        )


def _floats(table: pa.Table, name: str) -> NDArray[Any]:
    """A column; nulls become NaN."""
    values: NDArray[Any] = table[name].to_numpy(zero_copy_only=False)
    return values.astype(np.float64) if values.dtype == object else values


def _weights(table: pa.Table) -> NDArray[Any]:
    """The weights of the losses: see ``Record.loss_weight``."""
    column, samples = table["weight"], table["samples"]
    if column.null_count == len(column):
        return _floats(table, "samples")
    filled: NDArray[Any] = pc.coalesce(column, samples.cast(column.type)).to_numpy()
    return filled


def chosen(columns: Columns, keep: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """Return the entries that ``keep`` selects: a mask or indices."""
    return {name: column[keep] for name, column in columns.items()}
