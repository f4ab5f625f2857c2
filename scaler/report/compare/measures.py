"""Compared numbers: at the end of each run, at places that all runs have reached, and of their speed."""

import math
from collections.abc import Sequence
from statistics import stdev
from typing import Any, Literal

from scaler.core.student_t import MeanDifference, compare_means
from scaler.report.compare.arms import Group, Member
from scaler.report.compare.model import LEVEL, ArmValues, Difference, Kind, Measure, NotJudged
from scaler.report.run.definitions import ATTEMPTS, COST, SPEEDS, TRAIN_LOSS, TRAIN_S, WALL_S, Read, evaluation
from scaler.report.run.model import Report

ROUNDING = 1e-6  # share of the greatest value; smaller differences are rounding, as losses are sums of float32
WIDE = 2.0  # an interval from no difference to this factor is too wide to judge
WHOLE_RUN = (TRAIN_S, WALL_S, COST, ATTEMPTS)
"""Numbers that grow with the length of a run."""


def end_measures(groups: Sequence[Group], *, evals: Sequence[str]) -> list[Measure]:
    """Return the losses and evaluations at the ends of runs; judged only between arms of one length in samples."""
    return [
        make_measure(groups, number.key, number.read, kind="end", follows_seed=True, grows_with_length=True)
        for number in (TRAIN_LOSS, *map(evaluation, evals))
    ]


def speed_measures(groups: Sequence[Group], *, count: str) -> list[Measure]:
    """Return the speeds, shares, memory and cost that at least one run has; ``count``: samples or tokens."""
    found = [
        make_measure(
            groups,
            number.key,
            number.read,
            kind="speed",
            unit=number.unit.replace("samples", count),
            follows_seed=False,
            grows_with_length=number in WHOLE_RUN,
        )
        for number in SPEEDS
    ]
    return [measure for measure in found if any(arm.mean is not None for arm in measure.arms)]


def eval_names(reports: Sequence[Report]) -> list[str]:
    """Return the names of evaluation values that every run has, in alphabetical order; empty without runs."""
    names = [evals_of(report) for report in reports]
    return sorted(set.intersection(*names)) if names else []


def evals_of(report: Report) -> set[str]:
    """Return the names of the values of a run's evaluations."""
    return {*report.series.evals, *report.final.eval}


def make_measure(
    groups: Sequence[Group],
    name: str,
    read: Read,
    *,
    kind: Kind,
    at: float | None = None,
    unit: str = "",
    count: str = "samples",
    follows_seed: bool,
    grows_with_length: bool = False,
) -> Measure:
    """Return one number of every run, and the difference of each arm from the base.

    Args:
        groups: the runs by arm; the first is the base.
        name: of the number.
        read: returns the number of a run.
        kind: see ``Measure``.
        at: see ``Measure``.
        unit: see ``Measure``.
        count: see ``Measure``.
        follows_seed: whether runs of one seed have the same value except for rounding. Then only runs of
            different seeds are repeats, and the runs of one seed count as one repeat with their mean.
        grows_with_length: whether the number can be judged only if all runs of both arms have one length in samples.
    """
    columns = [[(member, read(member.report)) for member in group.members] for group in groups]
    known = [value for column in columns for _, value in column if value is not None]
    is_log = kind in ("end", "at_samples", "at_time") and is_loss(name) and all(value > 0 for value in known)
    repeats = [_repeats(column, follows_seed=follows_seed, is_log=is_log) for column in columns]
    arms = [
        _arm_values(group.arm.label, [value for _, value in column], mine, is_log=is_log)
        for group, column, mine in zip(groups, columns, repeats, strict=True)
    ]
    differences = [
        _difference(
            group.arm.label,
            repeats[0],
            mine,
            is_percent=unit == "%",
            is_log=is_log,
            is_comparable=not grows_with_length or _is_one_length(groups[0], group),
        )
        for group, mine in zip(groups[1:], repeats[1:], strict=True)
    ]
    scale: Literal["log", "linear"] = "log" if is_log else "linear"
    return Measure(
        name=name,
        kind=kind,
        at=at,
        unit=unit,
        count=count,
        scale=scale,
        arms=tuple(arms),
        differences=tuple(differences),
    )


def is_loss(name: str) -> bool:
    """Return whether a number is a loss, which is compared on a log scale if it is above 0.

    Example:
        >>> [is_loss(name) for name in ("train_loss", "eval.loss", "eval.ema_loss", "eval.perplexity", "eval.accuracy")]
        [True, True, True, True, False]
    """
    return name.endswith(("_loss", ".loss", "perplexity"))


def _is_one_length(base: Group, other: Group) -> bool:
    return len({member.report.totals.samples_seen for member in (*base.members, *other.members)}) == 1


def _repeats(column: Sequence[tuple[Member, float | None]], *, follows_seed: bool, is_log: bool) -> list[float]:
    """The values of the repeats; see ``follows_seed``."""
    if not follows_seed:
        return [value for _, value in column if value is not None]
    by_seed: dict[int, list[float]] = {}
    for member, value in column:
        if value is not None:
            by_seed.setdefault(member.seed, []).append(value)
    return [_mean(values, is_log=is_log) for values in by_seed.values()]


def _mean(values: Sequence[float], *, is_log: bool) -> float:
    if len(values) == 1:  # no rounding
        return values[0]
    return math.exp(math.fsum(map(math.log, values)) / len(values)) if is_log else sum(values) / len(values)


def _arm_values(label: str, values: Sequence[float | None], repeats: Sequence[float], *, is_log: bool) -> ArmValues:
    mean = _mean(repeats, is_log=is_log) if repeats else None
    spread = stdev(repeats) if len(repeats) > 1 else None
    return ArmValues(arm=label, values=tuple(values), mean=mean, spread=spread, repeats=len(repeats))


def _difference(
    label: str,
    base: Sequence[float],
    mine: Sequence[float],
    *,
    is_percent: bool,
    is_log: bool,
    is_comparable: bool,
) -> Difference:
    unknown: dict[str, Any] = dict.fromkeys(
        ("change", "change_pct", "margin", "margin_pct", "low", "high", "low_pct", "high_pct", "is_beyond_noise")
    )
    if not base or not mine:
        return Difference(arm=label, **unknown, not_judged="not_known")
    base_mean, mean = _mean(base, is_log=is_log), _mean(mine, is_log=is_log)
    change = 0.0 if _are_alike([*base, *mine]) else mean - base_mean
    in_pct = 100 / abs(base_mean) if base_mean and not is_percent else None
    fields = unknown | {"change": change, "change_pct": change * in_pct if in_pct is not None else None}
    found = _judged(base, mine, is_log=is_log) if is_comparable else None
    if found is None:
        return Difference(arm=label, **fields, not_judged=_why_not(base, mine, is_comparable=is_comparable))
    ends = [found.difference - found.margin, found.difference + found.margin]
    low, high = (base_mean * math.expm1(end) for end in ends) if is_log else ends
    margin = None if is_log else found.margin
    fields |= {"low": low, "high": high, "margin": margin}
    if in_pct is not None:
        fields |= {"low_pct": low * in_pct, "high_pct": high * in_pct}
        fields["margin_pct"] = None if margin is None else margin * in_pct
    most = math.log(WIDE) if is_log else abs(base_mean) * (WIDE - 1)
    is_wide = in_pct is not None and not found.is_beyond_noise and found.margin > most
    if found.has_too_few_values or is_wide:
        return Difference(arm=label, **fields, not_judged="too_few_repeats")
    return Difference(arm=label, **fields | {"is_beyond_noise": found.is_beyond_noise}, not_judged=None)


def _judged(base: Sequence[float], mine: Sequence[float], *, is_log: bool) -> MeanDifference | None:
    """The difference with its interval, of logarithms on a log scale; None if no arm has a spread."""
    if _are_alike(base) and _are_alike(mine):
        return None
    first, second = ([math.log(value) for value in values] if is_log else values for values in (base, mine))
    return compare_means(first, second, level=LEVEL)


def _are_alike(values: Sequence[float]) -> bool:
    """Whether values differ only by rounding."""
    return max(values) - min(values) <= ROUNDING * max(map(abs, values))


def _why_not(base: Sequence[float], mine: Sequence[float], *, is_comparable: bool) -> NotJudged:
    if not is_comparable:
        return "different_lengths"
    return "no_repeats" if max(len(base), len(mine)) < 2 else "no_spread"


def total_speed(report: Report) -> float | None:
    """Return the samples per second of all workers, in the attempts with the last number of workers."""
    scaling = report.scaling
    return None if scaling is None else scaling.worker_samples_per_s * scaling.world_size


def world_size(report: Report) -> int | None:
    """Return the number of workers of the last attempt with steps."""
    return None if report.scaling is None else report.scaling.world_size
