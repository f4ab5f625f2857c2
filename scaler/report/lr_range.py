"""What a learning-rate range test found, read from its run."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import isfinite
from typing import Any

import numpy as np

from scaler.core.lr_range import judge_range
from scaler.metrics.reader import read_records
from scaler.plan import Plan
from scaler.runs import RunFolder


@dataclass(frozen=True, kw_only=True, slots=True)
class FoundRates:
    """A range test's curve and suggestions, at the batch that was run and carried back to the reference."""

    run_id: str
    global_batch_size: int
    reference_batch_size: int
    lr_ratio: float  # what the rule makes of the batch: reference rates are over it
    rule_reason: str
    lrs: tuple[float, ...]
    losses: tuple[float | None, ...]  # mean over all workers; None where it is no number
    smoothed: tuple[float, ...]
    diverged_at: float | None
    suggestions: Mapping[str, float | None]  # steepest, valley, tenth_of_divergence: at the batch that was run
    reference_suggestions: Mapping[str, float | None]  # the same for reference.lr

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return asdict(self)


def read_range(folder: RunFolder, plan: Plan, *, lr_ratio: float) -> FoundRates:
    """Return what a finished range test found.

    Args:
        folder: its run.
        plan: what ran.
        lr_ratio: of the job's rule at this batch.

    Raises:
        RunError: too few steps were recorded, or the loss was no number from the start.
    """
    lrs, losses = _losses(folder)
    found = judge_range(lrs, losses)
    suggestions = {
        "steepest": found.steepest,
        "valley": found.valley,
        "tenth_of_divergence": found.tenth_of_divergence,
    }
    return FoundRates(
        run_id=folder.run_id,
        global_batch_size=plan.global_batch_size,
        reference_batch_size=plan.reference_batch_size,
        lr_ratio=lr_ratio,
        rule_reason=plan.rule_reason,
        lrs=tuple(lrs),
        losses=tuple(loss if isfinite(loss) else None for loss in losses),
        smoothed=found.smoothed,
        diverged_at=found.diverged_at,
        suggestions=suggestions,
        reference_suggestions={
            name: rate / lr_ratio if rate is not None else None for name, rate in suggestions.items()
        },
    )


def _losses(folder: RunFolder) -> tuple[list[float], list[float]]:
    """The rate of each step and its loss, mean over the samples of all workers."""
    records = read_records(folder).sort_by([("samples_seen", "ascending"), ("rank", "ascending")])
    column = {name: records[name].to_numpy(zero_copy_only=False) for name in ("samples_seen", "samples", "loss", "lr")}
    _, starts = np.unique(column["samples_seen"], return_index=True)
    if not len(starts):
        return [], []
    weighted = np.where(column["samples"] > 0, column["loss"] * column["samples"], 0.0)
    losses = np.add.reduceat(weighted, starts) / np.add.reduceat(column["samples"], starts)
    return column["lr"][starts].tolist(), losses.tolist()
