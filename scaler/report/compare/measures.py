"""The numbers that are compared: of each run's end, of its speed, and at places that all of them have reached."""

from collections.abc import Sequence

from scaler.core.student_t import compare_means
from scaler.report.compare.arms import Group, Member
from scaler.report.compare.model import LEVEL, ArmValues, Difference, Kind, Measure, NotJudged
from scaler.report.definitions import ATTEMPTS, COST, SPEEDS, TRAIN_LOSS, TRAIN_S, WALL_S, Read, evaluation
from scaler.report.model import Report

WHOLE_RUN = (TRAIN_S, WALL_S, COST, ATTEMPTS)
"""They grow with the length of a run."""


def end_measures(groups: Sequence[Group], *, evals: Sequence[str]) -> list[Measure]:
    """Return losses and evaluations where runs ended; judged only between arms that trained for as many samples."""
    return [
        make_measure(groups, number.key, number.read, kind="end", follows_seed=True, grows_with_length=True)
        for number in (TRAIN_LOSS, *map(evaluation, evals))
    ]


def speed_measures(groups: Sequence[Group]) -> list[Measure]:
    """Return speeds, shares, memory and cost; those that at least one run has."""
    found = [
        make_measure(
            groups,
            number.key,
            number.read,
            kind="speed",
            unit=number.unit,
            follows_seed=False,
            grows_with_length=number in WHOLE_RUN,
        )
        for number in SPEEDS
    ]
    return [measure for measure in found if any(arm.mean is not None for arm in measure.arms)]


def eval_names(reports: Sequence[Report]) -> list[str]:
    """Return the names of evaluation values that every run has, in alphabetical order; none of no run."""
    names = [evals_of(report) for report in reports]
    return sorted(set.intersection(*names)) if names else []


def evals_of(report: Report) -> set[str]:
    """Return the names of the values that a run's evaluations gave."""
    return {*report.series.evals, *report.final.eval}


def make_measure(
    groups: Sequence[Group],
    name: str,
    read: Read,
    *,
    kind: Kind,
    at: float | None = None,
    unit: str = "",
    follows_seed: bool,
    grows_with_length: bool = False,
) -> Measure:
    """Return one number of every run, and how far each arm's lies from the base's.

    Args:
        groups: the runs by arm; the first is the base.
        name: of the number.
        read: what a run has of it.
        kind: see ``Measure``.
        at: likewise.
        unit: likewise.
        follows_seed: whether two runs of one seed would have the same value but for rounding: then only runs of
            different seeds are repeats, and the runs of one seed count as their mean.
        grows_with_length: whether a difference means something only between arms whose runs all trained for as many
            samples.
    """
    columns = [[(member, read(member.report)) for member in group.members] for group in groups]
    repeats = [_repeats(column, follows_seed=follows_seed) for column in columns]
    arms = [
        _arm_values(group.arm.label, [value for _, value in column], mine)
        for group, column, mine in zip(groups, columns, repeats, strict=True)
    ]
    differences = [
        _difference(
            group.arm.label,
            repeats[0],
            mine,
            is_percent=unit == "%",
            is_comparable=not grows_with_length or _is_one_length(groups[0], group),
        )
        for group, mine in zip(groups[1:], repeats[1:], strict=True)
    ]
    return Measure(name=name, kind=kind, at=at, unit=unit, arms=tuple(arms), differences=tuple(differences))


def _is_one_length(base: Group, other: Group) -> bool:
    return len({member.report.totals.samples_seen for member in (*base.members, *other.members)}) == 1


def _repeats(column: Sequence[tuple[Member, float | None]], *, follows_seed: bool) -> list[float]:
    """The values that count as repeats."""
    if not follows_seed:
        return [value for _, value in column if value is not None]
    by_seed: dict[int, list[float]] = {}
    for member, value in column:
        if value is not None:
            by_seed.setdefault(member.seed, []).append(value)
    return [sum(values) / len(values) for values in by_seed.values()]


def _arm_values(label: str, values: Sequence[float | None], repeats: Sequence[float]) -> ArmValues:
    mean = sum(repeats) / len(repeats) if repeats else None
    spread = None
    if mean is not None and len(repeats) > 1:
        spread = (sum((value - mean) ** 2 for value in repeats) / (len(repeats) - 1)) ** 0.5
    return ArmValues(arm=label, values=tuple(values), mean=mean, spread=spread, repeats=len(repeats))


def _difference(
    label: str, base: Sequence[float], mine: Sequence[float], *, is_percent: bool, is_comparable: bool
) -> Difference:
    if not base or not mine:
        return Difference(
            arm=label,
            change=None,
            change_pct=None,
            margin=None,
            margin_pct=None,
            is_beyond_noise=None,
            not_judged="not_known",
        )
    base_mean = sum(base) / len(base)
    change = sum(mine) / len(mine) - base_mean
    found = compare_means(base, mine, level=LEVEL) if is_comparable else None
    per_cent = 100 / abs(base_mean) if base_mean and not is_percent else None
    return Difference(
        arm=label,
        change=change,
        change_pct=change * per_cent if per_cent is not None else None,
        margin=found.margin if found else None,
        margin_pct=found.margin * per_cent if found and per_cent is not None else None,
        is_beyond_noise=found.is_beyond_noise if found else None,
        not_judged=None if found else _why_not(base, mine, is_comparable=is_comparable),
    )


def _why_not(base: Sequence[float], mine: Sequence[float], *, is_comparable: bool) -> NotJudged:
    if not is_comparable:
        return "different_lengths"
    return "no_repeats" if max(len(base), len(mine)) < 2 else "no_spread"


def total_speed(report: Report) -> float | None:
    """Return the samples a second of all workers, in the attempts with the last number of them."""
    scaling = report.scaling
    return None if scaling is None else scaling.worker_samples_per_s * scaling.world_size


def world_size(report: Report) -> int | None:
    """Return how many workers the last attempt with steps had."""
    return None if report.scaling is None else report.scaling.world_size
