"""What a learning-rate range test found, read from its run. No number is computed elsewhere."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import isfinite
from types import MappingProxyType
from typing import Any

from scaler.core.lr_range import DIVERGED, FEWEST_STEPS, MEMORY, RangeTest, judge_range
from scaler.errors import RunError
from scaler.metrics.reader import RunMetrics, with_records
from scaler.plan import Plan
from scaler.report.run.step_arrays import Columns, chosen, make_step_arrays
from scaler.report.text.format import plural
from scaler.runs import RunFolder

SCHEMA_VERSION = 1
NAMES: Mapping[str, str] = MappingProxyType(
    {"steepest": "steepest", "valley": "valley", "tenth_of_divergence": "divergence / 10"}
)
BY_PREFERENCE = ("valley", "tenth_of_divergence")  # where there is a steepest, there is a valley
ROOM_ABOVE = 0.5  # of the fall, that a picture of the curve has above its start


@dataclass(frozen=True, kw_only=True, slots=True)
class FoundRates:
    """A range test's curve and suggestions, at the batch that was run and carried back to the reference."""

    schema_version: int
    run_id: str
    name: str  # of the job that was tested
    world_size: int
    global_batch_size: int
    reference_batch_size: int
    base_lr: float  # what the job has now
    lr_ratio: float  # what a rate here is divided by for the reference's batch
    rule_reason: str
    lrs: tuple[float, ...]
    losses: tuple[float | None, ...]  # mean over all workers; None where it is no number
    smoothed: tuple[float, ...]  # as far as the loss is a number
    diverged_at: float | None
    suggestions: Mapping[str, float | None]  # steepest, valley, tenth_of_divergence: at the batch that was run
    reference_suggestions: Mapping[str, float | None]  # the same for reference.lr
    chosen: str | None  # the suggestion for the job file
    hints: tuple[str, ...]  # why something is not there, and what to type

    @property
    def reference_lr(self) -> float | None:
        """What is suggested for ``reference.lr``."""
        return self.reference_suggestions[self.chosen] if self.chosen is not None else None

    @property
    def ceiling(self) -> float:
        """The greatest loss to draw: what is above says only that it diverged."""
        start, least = self.smoothed[0], min(self.smoothed)
        return start + ROOM_ABOVE * (start - least if start > least else abs(start))

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return {**asdict(self), "reference_lr": self.reference_lr}


def read_range(
    folder: RunFolder, plan: Plan, *, name: str, base_lr: float, lr_ratio: float, rule_reason: str
) -> FoundRates:
    """Return what a finished range test found.

    Args:
        folder: its run.
        plan: what ran.
        name: of the job that was tested.
        base_lr: the learning rate that this job has at the reference.
        lr_ratio: what a rate at this batch is divided by for the reference's.
        rule_reason: why.

    Raises:
        RunError: too few steps were recorded.
        TrainingError: the loss was no number from the start.
    """
    steps = with_records(folder, _steps)
    lrs, losses = steps["lr"].tolist(), steps["loss"].tolist()
    found = judge_range(lrs, losses)
    suggestions = {
        "steepest": found.steepest,
        "valley": found.valley,
        "tenth_of_divergence": found.tenth_of_divergence,
    }
    usable = [key for key in BY_PREFERENCE if (rate := suggestions[key]) is not None and rate >= lrs[0]]
    return FoundRates(
        schema_version=SCHEMA_VERSION,
        run_id=folder.run_id,
        name=name,
        world_size=plan.world_size,
        global_batch_size=plan.global_batch_size,
        reference_batch_size=plan.reference_batch_size,
        base_lr=base_lr,
        lr_ratio=lr_ratio,
        rule_reason=rule_reason,
        lrs=tuple(lrs),
        losses=tuple(loss if isfinite(loss) else None for loss in losses),
        smoothed=found.smoothed,
        diverged_at=found.diverged_at,
        suggestions=suggestions,
        reference_suggestions={key: rate / lr_ratio if rate is not None else None for key, rate in suggestions.items()},
        chosen=usable[0] if usable else None,
        hints=tuple(_hints(lrs, found)),
    )


def _steps(metrics: RunMetrics) -> Columns:
    """The steps of the test, without those that were done again."""
    steps = make_step_arrays(metrics.records, metrics.events).steps
    if metrics.records.unreadable:
        raise RunError(f"{metrics.records.unreadable[0]}.", "The file was altered: test the range again.")
    return chosen(steps, ~steps["lost"])


def _hints(lrs: Sequence[float], found: RangeTest) -> list[str]:
    """What was not seen, and what would show it."""
    diverged_at = found.diverged_at
    steps = lrs.index(diverged_at) if diverged_at is not None else len(lrs)
    if steps < FEWEST_STEPS:
        return [f"The loss diverged after {plural(steps, 'step')}: lower --min."]
    if found.valley is None:
        more = "raise --max, or " if diverged_at is None else ""
        return [f"The loss does not fall by more than its noise: {more}take more --steps."]
    still_falls = found.smoothed.index(min(found.smoothed)) >= len(lrs) - 1 - len(lrs) // MEMORY
    if diverged_at is None and still_falls:
        return [f"The loss still falls at {lrs[-1]:g}, so what is suggested may be too low: raise --max."]
    if diverged_at is None:
        return [f"The loss rises again, but not to {DIVERGED:g} times its least: it did not diverge up to {lrs[-1]:g}."]
    return []


def meaning(found: FoundRates, name: str) -> str:
    """Return what a suggestion is, or why it is not there."""
    if found.suggestions[name] is None:
        return "it did not diverge" if name == "tenth_of_divergence" else "no clear fall"
    if name == "tenth_of_divergence":
        return f"it diverged at {rate(found.diverged_at)}"
    return {"steepest": "the loss falls fastest", "valley": "half of the fall is done"}[name]


def rate(value: float | None) -> str:
    """Return a suggested rate to two digits, for the test knows no more, as people and every YAML reader read it.

    Example:
        >>> [rate(value) for value in (None, 0.01056, 0.5, 1.0, 12.3, 0.00001234)]
        ['–', '0.011', '0.5', '1', '12', '1.2e-05']
    """
    if value is None:
        return "–"
    text = repr(float(f"{value:.2g}")).removesuffix(".0")
    return text if "." in text else text.replace("e", ".0e")


def paste(found: FoundRates) -> str | None:
    """Return the lines for the job file; None: there is nothing to suggest."""
    if found.chosen is None:
        return None
    return (
        f"reference:\n  lr: {rate(found.reference_lr)}  # {NAMES[found.chosen]} of a range test; was {found.base_lr:g}"
    )


def headline(found: FoundRates) -> str:
    """Return what was tested."""
    return (
        f"{plural(len(found.lrs), 'step')}, {plural(found.world_size, 'worker')}, batch {found.global_batch_size:,}, "
        f"rate {found.lrs[0]:g} to {found.lrs[-1]:g}"
    )


def carried(found: FoundRates) -> str:
    """Return how a rate is carried back."""
    return (
        f"A rate at batch {found.global_batch_size:,} is {found.lr_ratio:.4g} times reference.lr, which is at batch "
        f"{found.reference_batch_size:,} ({found.rule_reason})."
    )


CAUTION = (
    "A heuristic, from one short and noisy training: one with more steps suggests lower rates. Try a third and three "
    "times the suggestion as well, to the end of training."
)
