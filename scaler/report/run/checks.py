"""Check a run against limits, for CI."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from scaler.core.nearest import nearest
from scaler.errors import JobFileError
from scaler.report.run.definitions import COST, EFFICIENCY, SPEED, TRAIN_LOSS, WALL_S, evaluation
from scaler.report.run.missing_data import find_missing_data
from scaler.report.run.model import Report
from scaler.report.run.verdicts import GRAVEST_FIRST as CODES
from scaler.runs import RunState

SCHEMA_VERSION = 1
MOST_EFFICIENCY = 10.0  # a greater value was meant as a percentage


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """The limits of a check; None and empty: no limit."""

    min_efficiency: float | None = None  # a share: 0.8 is 80 %
    max_loss: float | None = None  # of the last evaluation; of training if no evaluation has a loss
    min_evals: Mapping[str, float] = field(default_factory=dict)  # by the name of the value
    max_evals: Mapping[str, float] = field(default_factory=dict)
    min_samples_per_s: float | None = None  # of all workers
    max_wall_s: float | None = None
    max_cost: float | None = None
    no_verdicts: tuple[str, ...] = ()  # codes; ANY stands for all
    allow_unfinished: bool = False  # check a run that has not succeeded only by the other limits
    allow_damaged: bool = False  # check a run with damaged records or events by what can be read

    @property
    def has_limits(self) -> bool:
        """Whether there is any limit."""
        return any(value not in (None, {}, (), False) for name, value in _items(self) if not name.startswith("allow_"))


ANY = "any"


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One limit with the run's value."""

    name: str
    bound: Literal["is", "at least", "at most", "absent"]
    limit: float | str
    value: float | str | None  # None: no finite value; for a verdict its message, None: absent
    unit: str
    is_ok: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Checks:
    """The result of all limits of a run, with the fields of ``scaler check --json``."""

    schema_version: int
    run_id: str
    is_ok: bool
    checks: tuple[Check, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the checks as in ``--json``."""
        return asdict(self)


def check_report(report: Report, limits: Limits) -> Checks:
    """Return the checks of a run.

    If a run did not succeed or is damaged, and that is not allowed, a limit without a value fails. Damage is shown as a
    verdict that is not absent.

    Args:
        report: of the run.
        limits: at least one.

    Raises:
        JobFileError: a limit is not a number, a code is not the code of a verdict, or the finished run has no value
            for a limit.
    """
    _require_numbers(limits)
    _require_codes(limits.no_verdicts)
    checks = tuple(_checks(report, limits))
    return Checks(
        schema_version=SCHEMA_VERSION,
        run_id=report.run_id,
        is_ok=all(check.is_ok for check in checks),
        checks=checks,
    )


def _checks(report: Report, limits: Limits) -> Iterator[Check]:
    damage = () if limits.allow_damaged else tuple(verdict.code for verdict in find_missing_data(report))
    is_refused = bool(damage) or (not limits.allow_unfinished and report.state != RunState.SUCCEEDED)
    judge = _Judge(report=report, may_be_unknown=is_refused)
    if not limits.allow_unfinished:
        ok = report.state == RunState.SUCCEEDED
        yield Check(name="state", bound="is", limit=RunState.SUCCEEDED, value=report.state, unit="", is_ok=ok)
    if limits.min_efficiency is not None:
        efficiency = report.scaling.efficiency if report.scaling is not None else None
        yield judge.limit(EFFICIENCY.name, "at least", limits.min_efficiency, efficiency, _efficiency_remedy(report))
    if limits.max_loss is not None:
        yield judge.loss(limits.max_loss)
    for name, limit in limits.min_evals.items():
        yield judge.evaluation(name, "at least", limit)
    for name, limit in limits.max_evals.items():
        yield judge.evaluation(name, "at most", limit)
    if limits.min_samples_per_s is not None:
        speed = SPEED.read(report)
        yield judge.limit(SPEED.name, "at least", limits.min_samples_per_s, speed, _NO_STEPS, unit=SPEED.unit)
    if limits.max_wall_s is not None:
        wall_s = WALL_S.read(report)
        yield judge.limit(WALL_S.name, "at most", limits.max_wall_s, wall_s, _NO_END, unit=WALL_S.unit)
    if limits.max_cost is not None:
        yield judge.limit(COST.name, "at most", limits.max_cost, COST.read(report), _cost_remedy(report))
    for code in dict.fromkeys((*damage, *limits.no_verdicts)):
        found = next((verdict for verdict in report.verdicts if code in (verdict.code, ANY)), None)
        message = None if found is None else found.message if code != ANY else f"{found.code}: {found.message}"
        yield Check(name="verdict", bound="absent", limit=code, value=message, unit="", is_ok=found is None)


_NO_STEPS = ("it has no steps", "Remove --min-samples-per-s.")
_NO_END = ("it has not ended", "Wait for its end, or remove --max-wall-s.")


def _efficiency_remedy(report: Report) -> tuple[str, str]:
    if report.scaling is None:
        return "it has no steps", "Remove --min-efficiency."
    return (
        "one worker alone was not measured",
        "Add --baseline RUN, a run of the same job with one worker (scaler submit JOB --workers 1), or set "
        "reference.samples_per_s in the job of later runs.",
    )


def _cost_remedy(report: Report) -> tuple[str, str]:
    if report.totals.wall_s is None:
        return "it has not ended", "Wait for its end, or remove --max-cost."
    return "its job has no price", "Set resources.price_per_worker_hour in the job of later runs."


@dataclass(frozen=True, kw_only=True, slots=True)
class _Judge:
    """Checks the values of a run against limits."""

    report: Report
    may_be_unknown: bool  # the run fails in any case: a limit without a value fails too

    def limit(
        self,
        name: str,
        bound: Literal["at least", "at most"],
        limit: float,
        value: float | None,
        unknown: tuple[str, str],
        *,
        unit: str = "",
    ) -> Check:
        if value is None and not self.may_be_unknown:
            why, remedy = unknown
            raise JobFileError(f"run {self.report.run_id}: {name} cannot be checked: {why}.", remedy)
        return self.check(name, bound, limit, value, unit=unit)

    def check(
        self, name: str, bound: Literal["at least", "at most"], limit: float, value: float | None, *, unit: str = ""
    ) -> Check:
        ok = value is not None and (value >= limit if bound == "at least" else value <= limit)
        return Check(name=name, bound=bound, limit=limit, value=value, unit=unit, is_ok=ok)

    def evaluation(self, name: str, bound: Literal["at least", "at most"], limit: float) -> Check:
        values = self.report.final.eval
        if name in values:  # None: not a finite number, so the limit fails
            return self.check(evaluation(name).name, bound, limit, values[name])
        there = f"Its values: {', '.join(sorted(values))}." if values else "It has no evaluation."
        return self.limit(evaluation(name).name, bound, limit, None, ("no evaluation has this value", there))

    def loss(self, limit: float) -> Check:
        if "loss" in self.report.final.eval:
            return self.evaluation("loss", "at most", limit)
        value = TRAIN_LOSS.read(self.report)
        if value is None and self.report.totals.steps:  # it was not a finite number
            return self.check(TRAIN_LOSS.name, "at most", limit, None)
        return self.limit(TRAIN_LOSS.name, "at most", limit, value, ("it has no steps", "Remove --max-loss."))


def _require_numbers(limits: Limits) -> None:
    for name, value in _items(limits):
        values = value.values() if isinstance(value, Mapping) else [value]
        if any(isinstance(part, float) and not math.isfinite(part) for part in values):
            raise JobFileError(
                f"--{name.replace('_', '-').replace('evals', 'eval')}: nan and inf are not allowed.", "Give a number."
            )
    efficiency = limits.min_efficiency
    if efficiency is not None and not 0 < efficiency <= MOST_EFFICIENCY:
        raise JobFileError(
            f"--min-efficiency {efficiency:g} is not in (0, {MOST_EFFICIENCY:g}].", "Give a share: 0.8 is 80 %."
        )


def _require_codes(codes: Sequence[str]) -> None:
    unknown = next((code for code in codes if code not in (*CODES, ANY)), None)
    if unknown is not None:
        near = nearest(unknown, CODES)
        hint = f"Did you mean {near}? " if near is not None else ""
        problem = f"--no-verdict {unknown} is not the code of a verdict."
        raise JobFileError(problem, f"{hint}Codes: {ANY}, {', '.join(CODES)}.")


def _items(limits: Limits) -> Iterator[tuple[str, Any]]:
    return ((name, getattr(limits, name)) for name in Limits.__slots__)
