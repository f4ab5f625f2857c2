"""The groups of an experiment: the repeats of each combination, beside the baseline."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

from scaler.core.equivalence import Equivalence, equivalences
from scaler.core.intervals import Estimate, mean_interval, paired_differences
from scaler.core.samples_to_target import Reached, median_reached, ratio_to_baseline
from scaler.core.speedup import speed_ups
from scaler.report.compare.curves import RunClock
from scaler.report.experiment.cells import cell_result, time_reached, when_reached
from scaler.report.experiment.labels import matches
from scaler.report.experiment.model import CellInput, CellResult, Difference, GroupResult, Question
from scaler.report.experiment.to_target import cost_of, faster_in_steps, faster_to_target


@dataclass(frozen=True, kw_only=True, slots=True)
class Member:
    """A cell with its results, and when it reached the target."""

    cell: CellInput
    result: CellResult
    when: Reached | None

    @property
    def has_succeeded(self) -> bool:
        """Whether its run trained to its end."""
        return self.result.state == "succeeded"


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """The cells of one combination.

    Args:
        label: a short text with what the matrix sets.
        members: its cells.
        is_baseline: whether it is the baseline.
    """

    label: str
    members: tuple[Member, ...]
    is_baseline: bool

    @property
    def done(self) -> Sequence[Member]:
        """The cells whose runs succeeded."""
        return [member for member in self.members if member.has_succeeded]


def make_groups(cells: Sequence[CellInput], question: Question | None, *, labels: Mapping[int, str]) -> list[Group]:
    """Return the groups in the order of the matrix.

    Args:
        cells: of the experiment.
        question: what it asks; None: speed only.
        labels: by the number of the cell.
    """
    found: dict[str, list[Member]] = {}
    for cell in cells:
        when = None
        if question is not None and question.target is not None and cell.report is not None:
            when = when_reached(cell.report, metric=question.metric, mode=question.mode, target=question.target)
        found.setdefault(labels[cell.cell], []).append(Member(cell=cell, result=cell_result(cell, when), when=when))
    groups = []
    has_baseline = False
    for label, members in found.items():
        overrides = members[0].cell.overrides
        is_baseline = not has_baseline and question is not None and matches(overrides, question.baseline)
        has_baseline = has_baseline or is_baseline
        groups.append(Group(label=label, members=tuple(members), is_baseline=is_baseline))
    return groups


def group_results(groups: Sequence[Group], question: Question | None, *, level: float) -> list[GroupResult]:
    """Return what each group shows, and its difference to the baseline.

    Args:
        groups: of the experiment.
        question: what it asks; None: speed only.
        level: of the intervals, in (0, 1).
    """
    base = next((group for group in groups if group.is_baseline), None)
    differences = _differences(groups, base, question) if base is not None and question is not None else {}
    return [_result(group, base, differences.get(group.label), question, level=level) for group in groups]


def _differences(
    groups: Sequence[Group], base: Group, question: Question
) -> Mapping[str, tuple[Equivalence, Sequence[float]]]:
    """Return each group's test of equivalence; all together hold the level (Holm)."""
    ours = _finals(base, question.metric)
    pairs: dict[str, Sequence[float]] = {}
    for group in groups:
        theirs = _finals(group, question.metric)
        if group is not base and ours.keys() & theirs.keys():
            pairs[group.label] = paired_differences(ours, theirs)
    alpha = (1 - question.level) / 2
    tested = (
        equivalences(
            pairs,
            margin=question.margin,
            mode=question.mode,
            alpha=alpha,
            resolution=_resolution(groups, question.metric),
        )
        if pairs
        else {}
    )
    return {label: (test, pairs[label]) for label, test in tested.items()}


def _resolution(groups: Sequence[Group], metric: str) -> float:
    """Return the smallest difference between two values of the metric: an accuracy has steps of one sample."""
    values = sorted({value for group in groups for value in _finals(group, metric).values()})
    return min((later - earlier for earlier, later in pairwise(values)), default=0.0)


def _finals(group: Group, metric: str) -> dict[int, float]:
    """Return the metric at the end by seed, of the runs that succeeded with a finite value."""
    values = {member.cell.seed: member.result.final.get(metric) for member in group.done}
    return {seed: value for seed, value in values.items() if value is not None and math.isfinite(value)}


def _result(
    group: Group,
    base: Group | None,
    tested: tuple[Equivalence, Sequence[float]] | None,
    question: Question | None,
    *,
    level: float,
) -> GroupResult:
    done, first = group.done, group.members[0]
    one = next((member.result for member in done), first.result)
    reports = [member.cell.report for member in done if member.cell.report is not None]
    finals = list(_finals(group, question.metric).values()) if question is not None else []
    whens = _whens(group)
    times = _times(group)
    time_to_target = median_reached(list(times.values()), level=level) if times else None
    speeds = _speeds(group)
    ends = [end for report in reports if (end := RunClock.of(report).end_s) is not None]
    efficiency: Estimate | None = None
    speed_up: Estimate | None = None
    each: tuple[float, ...] = ()
    if base is not None and whens and _whens(base).keys() & whens.keys():
        efficiency = ratio_to_baseline(whens, _whens(base), level=level)
    if base is not None and (question is None or question.target is None):
        speed_up, each = faster_in_steps(speeds, _speeds(base), level=level)
    elif base is not None:
        speed_up, each = faster_to_target(times, _times(base), level=level)
    return GroupResult(
        overrides=dict(first.cell.overrides),
        label=group.label,
        cells=tuple(member.cell.cell for member in group.members),
        seeds=tuple(member.cell.seed for member in done),
        failed=sum(member.result.state == "failed" for member in group.members),
        is_baseline=group.is_baseline,
        world_size=one.world_size,
        global_batch_size=one.global_batch_size,
        rule=one.rule,
        base_lr=reports[0].plan["base_lr"] if reports else None,
        peak_lr=one.peak_lr,
        final=mean_interval(finals, level=level) if finals else None,
        finals=tuple(finals),
        difference_to_baseline=_difference(*tested) if tested is not None else None,
        reached=sum(when.is_reached for when in whens.values()),
        samples_to_target=median_reached(list(whens.values()), level=level) if whens else None,
        efficiency=efficiency,
        time_to_target_s=time_to_target,
        cost_to_target=cost_of(time_to_target, reports),
        speed_up=speed_up,
        speed_ups=each,
        samples_per_s=speed_ups({one.world_size: speeds}, level=level)[0].samples_per_s
        if speeds and one.world_size
        else None,
        samples_per_s_each=tuple(speeds),
        samples_to_target_each=tuple(when.value for when in whens.values() if when.value is not None),
        train_s=median(ends) if ends else None,
        train_cost=known(cost_of(Estimate(value=median(ends)), reports)) if ends else None,
    )


def _whens(group: Group) -> dict[int, Reached]:
    """Return when each run that succeeded reached the target, in samples, by seed."""
    return {member.cell.seed: member.when for member in group.done if member.when is not None}


def _times(group: Group) -> dict[int, Reached]:
    """Return the same in seconds from the first step."""
    return {
        member.cell.seed: time_reached(member.cell.report, member.when)
        for member in group.done
        if member.when is not None and member.cell.report is not None
    }


def _speeds(group: Group) -> list[float]:
    return [member.result.samples_per_s for member in group.done if member.result.samples_per_s]


def _difference(tested: Equivalence, each: Sequence[float]) -> Difference:
    return Difference(
        mean=tested.difference,
        low=tested.low,
        high=tested.high,
        level=tested.level,
        verdict=tested.verdict,
        equivalent=tested.verdict == "equivalent",
        is_as_good=tested.is_as_good,
        pairs=len(each),
        each=tuple(each),
    )


def known(estimate: Estimate | None) -> float | None:
    """Return the value of an estimate; None: there is none."""
    return None if estimate is None else estimate.value
