"""The result of a learning-rate range test, computed from the records of its run."""

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
from scaler.report.text.format import number, option, plural
from scaler.runs import RunFolder

SCHEMA_VERSION = 1
NAMES: Mapping[str, str] = MappingProxyType(
    {"steepest": "steepest", "valley": "valley", "tenth_of_divergence": "divergence / 10"}
)
BY_PREFERENCE = ("valley", "tenth_of_divergence")  # a curve with a steepest point has a valley
HEADROOM = 0.5  # share of the fall that a chart shows above the first loss


@dataclass(frozen=True, kw_only=True, slots=True)
class FoundLrs:
    """The curve and the suggestions of a range test, at the tested batch and at the reference's batch."""

    schema_version: int
    run_id: str
    name: str  # of the job that was tested
    world_size: int
    global_batch_size: int  # in the unit
    reference_batch_size: int  # in the unit
    unit: str = "samples"  # samples or tokens
    base_lr: float  # reference.lr of the job
    lr_ratio: float  # learning rate at the tested batch over the learning rate at the reference's batch
    rule_reason: str
    lrs: tuple[float, ...]
    losses: tuple[float | None, ...]  # mean over all workers; None: not a finite number
    smoothed: tuple[float, ...]  # up to the first loss that is not finite
    diverged_at: float | None
    suggestions: Mapping[str, float | None]  # by the keys of NAMES, at the tested batch
    reference_suggestions: Mapping[str, float | None]  # the same, for reference.lr
    chosen: str | None  # key of the suggestion for the job file
    hints: tuple[str, ...]  # why a result is missing, and what else to type

    @property
    def reference_lr(self) -> float | None:
        """The suggested ``reference.lr``; None: the curve suggests none."""
        return self.reference_suggestions[self.chosen] if self.chosen is not None else None

    @property
    def ceiling(self) -> float:
        """The greatest loss that a chart shows; a greater loss means only that training diverged."""
        start, least = self.smoothed[0], min(self.smoothed)
        return start + HEADROOM * (start - least if start > least else abs(start))

    def to_dict(self) -> dict[str, Any]:
        """Return the result as in ``scaler find-lr --json``."""
        return {**asdict(self), "reference_lr": self.reference_lr}


def read_range(
    folder: RunFolder, plan: Plan, *, name: str, base_lr: float, lr_ratio: float, rule_reason: str
) -> FoundLrs:
    """Return the result of a finished range test.

    Args:
        folder: of its run.
        plan: of the run.
        name: of the tested job.
        base_lr: the learning rate of this job at the reference's batch.
        lr_ratio: learning rate at the tested batch over the learning rate at the reference's batch.
        rule_reason: why it is this ratio.

    Raises:
        RunError: too few steps were recorded, or a file of records is damaged.
        TrainingError: the first loss was not a finite number.
    """
    steps = with_records(folder, _steps)
    lrs, losses = steps["lr"].tolist(), steps["loss"].tolist()
    found = judge_range(lrs, losses)
    suggestions = {
        "steepest": found.steepest,
        "valley": found.valley,
        "tenth_of_divergence": found.tenth_of_divergence,
    }
    usable = [key for key in BY_PREFERENCE if (lr := suggestions[key]) is not None and lr >= lrs[0]]
    return FoundLrs(
        schema_version=SCHEMA_VERSION,
        run_id=folder.run_id,
        name=name,
        world_size=plan.world_size,
        global_batch_size=plan.units.size(plan.global_batch_size),
        reference_batch_size=plan.units.size(plan.reference_batch_size),
        unit=plan.unit,
        base_lr=base_lr,
        lr_ratio=lr_ratio,
        rule_reason=rule_reason,
        lrs=tuple(lrs),
        losses=tuple(loss if isfinite(loss) else None for loss in losses),
        smoothed=found.smoothed,
        diverged_at=found.diverged_at,
        suggestions=suggestions,
        reference_suggestions={key: lr / lr_ratio if lr is not None else None for key, lr in suggestions.items()},
        chosen=usable[0] if usable else None,
        hints=(*_hints(lrs, found), *_of_each_optimizer(plan)),
    )


def _steps(metrics: RunMetrics) -> Columns:
    """The steps of the test, without steps that a later attempt trained again."""
    steps = make_step_arrays(metrics.records, metrics.events).steps
    if metrics.records.unreadable:
        raise RunError(f"{metrics.records.unreadable[0]}.", "The file was altered. Run the range test again.")
    return chosen(steps, ~steps["lost"])


def _hints(lrs: Sequence[float], found: RangeTest) -> list[str]:
    """What the test did not show, and which option would show it."""
    diverged_at = found.diverged_at
    steps = lrs.index(diverged_at) if diverged_at is not None else len(lrs)
    if steps < FEWEST_STEPS:
        return [f"The loss diverged after {plural(steps, 'step')}: lower --min."]
    if found.valley is None:
        more = "raise --max, or " if diverged_at is None else ""
        return [f"The loss does not fall by more than its noise: {more}take more --steps."]
    still_falls = found.smoothed.index(min(found.smoothed)) >= len(lrs) - 1 - len(lrs) // MEMORY
    if diverged_at is None and still_falls:
        return [f"The loss still falls at {option(lrs[-1])}, so the suggestions may be too low: raise --max."]
    if diverged_at is None:
        return [
            f"The loss rises again, but not to {number(DIVERGED)} times its least value: it did not diverge up to "
            f"{option(lrs[-1])}."
        ]
    return []


def _of_each_optimizer(plan: Plan) -> list[str]:
    """What to do with the learning rates of ``reference.optimizers`` and ``fallback``."""
    own = [optimizer.name for optimizer in plan.optimizers if optimizer.scaling.base_lr != plan.base_lr]
    if not own:
        return []
    return [
        f"The test multiplied the learning rates of {', '.join(own)} in reference by the same number as "
        "reference.lr. Multiply them in the job file, too."
    ]


def meaning(found: FoundLrs, name: str) -> str:
    """Return what the loss does at a suggested learning rate, or why there is no such suggestion."""
    if found.suggestions[name] is None:
        return "the loss did not diverge" if name == "tenth_of_divergence" else "no clear fall"
    if name == "tenth_of_divergence":
        return f"the loss diverged at {lr_text(found.diverged_at)}"
    return {"steepest": "the loss falls fastest", "valley": "the loss is halfway down its fall"}[name]


def lr_text(value: float | None) -> str:
    """Return a suggested learning rate with two digits, which is the precision of the test.

    Every YAML reader reads the text as a number.

    Example:
        >>> [lr_text(value) for value in (None, 0.01056, 0.5, 1.0, 12.3, 0.00001234)]
        ['–', '0.011', '0.5', '1', '12', '1.2e-05']
    """
    if value is None:
        return "–"
    text = repr(float(f"{value:.2g}")).removesuffix(".0")
    return text if "." in text else text.replace("e", ".0e")


def paste(found: FoundLrs) -> str | None:
    """Return the lines for the job file; None: the curve suggests no learning rate."""
    if found.chosen is None:
        return None
    return (
        f"reference:\n  lr: {lr_text(found.reference_lr)}  # {NAMES[found.chosen]} of a range test; was "
        f"{option(found.base_lr)}"
    )


def headline(found: FoundLrs) -> str:
    """Return the number of steps and workers, the batch, and the range of learning rates."""
    return (
        f"{plural(len(found.lrs), 'step')}, {plural(found.world_size, 'worker')}, batch {found.global_batch_size:,}, "
        f"lr {option(found.lrs[0])} to {option(found.lrs[-1])}"
    )


def carried(found: FoundLrs) -> str:
    """Return how a learning rate at the tested batch becomes ``reference.lr``."""
    return (
        f"A learning rate at batch {found.global_batch_size:,} is {number(found.lr_ratio)} times reference.lr, which "
        f"is for batch {found.reference_batch_size:,} ({found.rule_reason})."
    )


CAUTION = (
    "The suggestion is a heuristic from one short and noisy training: a test with more steps suggests a lower lr. "
    "Also train to the end with a third of the suggestion, and with three times the suggestion."
)
