"""The groups of an experiment: the repeats of each combination, beside the baseline."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean

from scaler.core.equivalence import Equivalence, equivalences
from scaler.core.intervals import Estimate, mean_interval, paired_differences
from scaler.core.samples_to_target import Reached, median_reached, ratio_to_baseline
from scaler.core.speedup import speed_ups
from scaler.report.experiment.cells import cell_result, when_reached
from scaler.report.experiment.labels import matches
from scaler.report.experiment.model import CellInput, CellResult, Difference, GroupResult, Question


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


def _differences(groups: Sequence[Group], base: Group, question: Question) -> Mapping[str, tuple[Equivalence, int]]:
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
    return {label: (test, len(pairs[label])) for label, test in tested.items()}


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
    tested: tuple[Equivalence, int] | None,
    question: Question | None,
    *,
    level: float,
) -> GroupResult:
    done, first = group.done, group.members[0]
    one = next((member.result for member in done), first.result)
    report = next((member.cell.report for member in done), None)
    finals = list(_finals(group, question.metric).values()) if question is not None else []
    whens = {member.cell.seed: member.when for member in done if member.when is not None}
    times = [_time(member) for member in done if member.when is not None]
    time_to_target = median_reached(times, level=level) if times else None
    speeds = [member.result.samples_per_s for member in done if member.result.samples_per_s]
    costs = [
        member.result.cost / member.result.train_s for member in done if member.result.cost and member.result.train_s
    ]
    efficiency = None
    if base is not None and whens:
        theirs = {member.cell.seed: member.when for member in base.done if member.when is not None}
        if theirs.keys() & whens.keys():
            efficiency = ratio_to_baseline(whens, theirs, level=level)
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
        base_lr=report.plan["base_lr"] if report is not None else None,
        peak_lr=one.peak_lr,
        final=mean_interval(finals, level=level) if finals else None,
        difference_to_baseline=_difference(*tested) if tested is not None else None,
        reached=sum(when.is_reached for when in whens.values()),
        samples_to_target=median_reached(list(whens.values()), level=level) if whens else None,
        efficiency=efficiency,
        time_to_target_s=time_to_target,
        cost_to_target=fmean(costs) * time_to_target.value
        if costs and time_to_target is not None and time_to_target.value is not None
        else None,
        samples_per_s=speed_ups({one.world_size: speeds}, level=level)[0].samples_per_s
        if speeds and one.world_size
        else None,
    )


def _time(member: Member) -> Reached:
    """Return when a run reached the target, on the clock of its steps."""
    time = member.result.time_to_target_s
    if time is not None:
        return Reached(value=time, low=time, high=time)
    return Reached(value=None, low=member.result.train_s or 0.0, high=math.inf)


def _difference(tested: Equivalence, pairs: int) -> Difference:
    return Difference(
        mean=tested.difference,
        low=tested.low,
        high=tested.high,
        level=tested.level,
        verdict=tested.verdict,
        equivalent=tested.verdict == "equivalent",
        is_as_good=tested.is_as_good,
        pairs=pairs,
    )


def known(estimate: Estimate | None) -> float | None:
    """Return the value of an estimate; None: there is none."""
    return None if estimate is None else estimate.value
