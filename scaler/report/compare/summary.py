"""Compute a comparison from the reports of several runs."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from scaler.report.compare.arms import Group, Member, find_groups
from scaler.report.compare.curves import EvalCurve, RunClock, TrainLoss, first_reached
from scaler.report.compare.format import finding_text
from scaler.report.compare.measures import (
    end_measures,
    eval_names,
    make_measure,
    speed_measures,
    total_speed,
    world_size,
)
from scaler.report.compare.model import LEVEL, SCHEMA_VERSION, Comparison, Curve, Measure, RunRow, Speedup
from scaler.report.compare.notes import Unreached, find_notes
from scaler.report.compare.partial_runs import is_whole, known_part
from scaler.report.run.model import Report
from scaler.report.run.tokens import in_one_unit

PLACES = (0.25, 0.5, 0.75, 1.0)  # shares of what all runs have trained
WINDOW = 0.05  # share of what all runs have trained, over which a training loss is the mean
FALLING = ("train_loss", "eval.loss")  # a lower value is better; for other values this is not known


def compare_runs(members: Sequence[Member]) -> Comparison:
    """Return the comparison of several runs.

    Losses are compared at numbers of samples and at times that every run has reached. Samples and seconds to
    a loss are compared for the lowest loss that every run reached. A loss depends on the seed: runs of one seed count
    once. For a run with
    damaged records, the numbers from its records are not known, and common places are computed without it.

    Args:
        members: at least two runs, in the order of the output; the arm of the first is the base.
    """
    reports, unit = in_one_unit([member.report for member in members])
    members = [replace(member, report=report) for member, report in zip(members, reports, strict=True)]
    groups = find_groups([replace(member, report=known_part(member.report)) for member in members])
    common = min((member.report.totals.samples_seen for member in members if is_whole(member.report)), default=0)
    lines = _Lines(_reports(groups), window=max(1, round(WINDOW * common)))
    common_s = lines.common_elapsed_s
    reached, unreached = _reached_measures(groups, lines, unit=unit)
    measures = (
        *end_measures(groups, evals=lines.evals),
        *speed_measures(groups, count=unit),
        *_at_common_samples(groups, lines, common=common, count=unit),
        *_at_common_times(groups, lines),
        *reached,
    )
    comparison = Comparison(
        schema_version=SCHEMA_VERSION,
        unit=unit,
        finding="",
        level=LEVEL,
        runs=tuple(_run_row(groups, member) for member in members),
        arms=tuple(group.arm for group in groups),
        common_samples=common,
        common_elapsed_s=common_s,
        window_samples=lines.window,
        measures=measures,
        speedups=_speedups(groups, reached, unit=unit),
        curves=tuple(_curves(groups, lines)),
        notes=find_notes(groups, measures, unreached, has_times=common_s is not None, unit=unit),
    )
    return replace(comparison, finding=finding_text(comparison))


class _Lines:
    """The curves of all runs, each computed once."""

    def __init__(self, reports: Sequence[Report], *, window: int) -> None:
        self.window = window
        self._whole = [report.run_id for report in reports if is_whole(report)]
        self.evals = eval_names([report for report in reports if is_whole(report)])
        self.names = ("train_loss", *(f"eval.{name}" for name in self.evals))
        self._clocks = {report.run_id: RunClock.of(report) for report in reports}
        self._curves: dict[tuple[str, str], TrainLoss | EvalCurve] = {}
        for report in reports:
            self._curves[report.run_id, "train_loss"] = TrainLoss.of(report, window=window)
            for name in self.evals:
                self._curves[report.run_id, f"eval.{name}"] = EvalCurve.of(report, name)

    @property
    def common_start_s(self) -> float | None:
        """When every undamaged run had started to train; None: the times of a run are not known."""
        starts = [self._clocks[run_id].start_s for run_id in self._whole]
        return None if None in starts else max((start for start in starts if start is not None), default=None)

    @property
    def common_elapsed_s(self) -> float | None:
        """How long every undamaged run has trained; None: the times of a run are not known."""
        ends = [self._clocks[run_id].end_s for run_id in self._whole]
        return None if None in ends else min((end for end in ends if end is not None), default=None)

    def value(self, report: Report, name: str, samples: float | None) -> float | None:
        return None if samples is None else self._curves[report.run_id, name].at(samples)

    def points(self, report: Report, name: str) -> tuple[list[float], list[float | None]]:
        return self._curves[report.run_id, name].points()

    def clock(self, report: Report) -> RunClock:
        return self._clocks[report.run_id]


def _at_common_samples(groups: Sequence[Group], lines: _Lines, *, common: int, count: str) -> Iterable[Measure]:
    """Every curve at ``PLACES`` of the samples that all runs have trained."""
    for name in lines.names if common else ():
        for place in sorted({float(round(share * common)) for share in PLACES}):
            read = _at_samples(lines, name, place)
            yield make_measure(groups, name, read, kind="at_samples", at=place, count=count, follows_seed=True)


def _at_common_times(groups: Sequence[Group], lines: _Lines) -> Iterable[Measure]:
    """Every curve at ``PLACES`` of the time in which all runs trained; empty if there is no such time."""
    start, end = lines.common_start_s, lines.common_elapsed_s
    if start is None or end is None or start >= end:
        return
    for name in lines.names:
        for share in PLACES:
            moment = start + share * (end - start)
            yield make_measure(
                groups, name, _at_time(lines, name, moment), kind="at_time", at=moment, follows_seed=True
            )


def _at_samples(lines: _Lines, name: str, place: float) -> Callable[[Report], float | None]:
    return lambda report: lines.value(report, name, place)


def _at_time(lines: _Lines, name: str, moment: float) -> Callable[[Report], float | None]:
    return lambda report: lines.value(report, name, lines.clock(report).samples_at(moment))


def _reached_measures(groups: Sequence[Group], lines: _Lines, *, unit: str) -> tuple[list[Measure], list[Unreached]]:
    """Samples and seconds to the lowest loss that all runs reached, and the losses without such a place."""
    reports = _reports(groups)
    found, unreached = [], []
    for name in (name for name in lines.names if name in FALLING):
        points = {report.run_id: lines.points(report, name) for report in reports}
        ways = {report.run_id: _known(points[report.run_id][1]) for report in reports if is_whole(report)}
        if not ways or not all(len(values) > 1 for values in ways.values()):
            continue  # one value is no curve
        lowest = {run_id: min(values) for run_id, values in ways.items()}
        last = max(lowest, key=lambda run_id: lowest[run_id])
        target = lowest[last]
        if below := [run_id for run_id, values in ways.items() if values[0] <= target]:
            unreached.append(Unreached(name=name, target=target, of=last, already=tuple(below)))
            continue
        target = _rounded_up(target, below=min(values[0] for values in ways.values()))
        samples = {
            run_id: first_reached(places, values, target, is_line=name == "train_loss")
            for run_id, (places, values) in points.items()
        }
        found.append(_reached(groups, name, target, unit, samples))
        seconds = {
            report.run_id: None if (at := samples[report.run_id]) is None else lines.clock(report).elapsed_at(at)
            for report in reports
        }
        if any(value is not None for value in seconds.values()):
            found.append(_reached(groups, name, target, "s", seconds))
    return found, unreached


def _reports(groups: Sequence[Group]) -> list[Report]:
    return [member.report for group in groups for member in group.members]


def _known(values: Sequence[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _reached(groups: Sequence[Group], name: str, target: float, unit: str, values: dict[str, float | None]) -> Measure:
    return make_measure(
        groups,
        name,
        lambda report: values[report.run_id],
        kind="reached",
        at=target,
        unit=unit,
        follows_seed=True,
    )


def _rounded_up(target: float, *, below: float) -> float:
    """A value rounded up to two digits, if that is still below ``below``; else the value."""
    if not target:
        return target
    size = 10.0 ** (math.floor(math.log10(abs(target))) - 1)
    rounded = float(f"{math.ceil(target / size) * size:.2g}")
    return rounded if target <= rounded < below else target


def _speedups(groups: Sequence[Group], reached: Sequence[Measure], *, unit: str) -> tuple[Speedup, ...]:
    """The speed-ups of arms with other numbers of workers; empty if the runs of an arm have several numbers."""
    sizes = [size for size in map(_world_size, groups) if size is not None]
    if len(sizes) < len(groups) or len(set(sizes)) == 1:
        return ()
    speeds = [_mean([total_speed(member.report) for member in group.members]) for group in groups]
    to_loss = {measure.unit: measure for measure in reached if measure.name == "train_loss"}
    found = []
    for group, size, speed in zip(groups[1:], sizes[1:], speeds[1:], strict=True):
        label, speedup = group.arm.label, speed / speeds[0]
        time, samples = (_ratio(to_loss.get(name), label) for name in ("s", unit))
        found.append(
            Speedup(
                arm=label,
                world_size=size,
                samples_per_s=speed,
                speedup=speedup,
                efficiency=speedup * sizes[0] / size,
                time_speedup=1 / time if time else None,
                samples_ratio=samples,
            )
        )
    return tuple(found)


def _world_size(group: Group) -> int | None:
    """The number of workers at the end of an arm's runs; None if the runs differ."""
    sizes = {world_size(member.report) for member in group.members if is_whole(member.report)}
    return sizes.pop() if len(sizes) == 1 else None


def _ratio(measure: Measure | None, arm: str) -> float | None:
    """The mean of an arm over the mean of the base."""
    if measure is None:
        return None
    base, mine = measure.arms[0].mean, measure.of(arm).mean
    return mine / base if base and mine is not None else None


def _mean(values: Sequence[float | None]) -> float:
    known = _known(values)
    return sum(known) / len(known)


def _run_row(groups: Sequence[Group], member: Member) -> RunRow:
    report = member.report
    return RunRow(
        run_id=report.run_id,
        arm=next(group.arm.label for group in groups if report.run_id in group.arm.run_ids),
        state=report.state,
        seed=member.seed,
        world_size=world_size(report),
        samples_seen=report.totals.samples_seen,
        verdicts=tuple(dict.fromkeys(verdict.code for verdict in report.verdicts)),
    )


def _curves(groups: Sequence[Group], lines: _Lines) -> Iterable[Curve]:
    for name in lines.names:
        for group in groups:
            for member in group.members:
                places, values = lines.points(member.report, name)
                clock = lines.clock(member.report)
                yield Curve(
                    name=name,
                    run_id=member.report.run_id,
                    arm=group.arm.label,
                    samples_seen=tuple(round(place) for place in places),
                    elapsed_s=tuple(clock.elapsed_at(place) for place in places),
                    values=tuple(values),
                )
