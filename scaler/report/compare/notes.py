"""Cautions about the numbers of a comparison, each with what to do about it."""

from collections.abc import Sequence
from dataclasses import dataclass

from scaler.report.compare.arms import Group
from scaler.report.compare.format import curve_text
from scaler.report.compare.measures import evals_of
from scaler.report.compare.model import LEVEL, Measure, Note
from scaler.report.compare.partial_runs import is_whole
from scaler.report.run.missing_data import find_missing_data
from scaler.report.run.model import Report
from scaler.report.text.format import count, number, percent, plural
from scaler.runs import RunState

SHOWN = 3  # runs that a note names


@dataclass(frozen=True, kw_only=True, slots=True)
class Unreached:
    """A loss that some runs started at or below, so that samples and time to this loss cannot be compared."""

    name: str
    target: float  # the lowest loss that every run reached
    of: str  # the run whose lowest loss it is
    already: tuple[str, ...]  # runs that started at or below the target


def find_notes(
    groups: Sequence[Group], measures: Sequence[Measure], unreached: Sequence[Unreached], *, has_times: bool, unit: str
) -> tuple[Note, ...]:
    """Return the notes, the most serious first; empty if there is nothing to note.

    Args:
        groups: the runs by arm.
        measures: the numbers of the runs.
        unreached: losses without a common value to reach.
        has_times: whether the times of every run are known.
        unit: of the comparison, samples or tokens.
    """
    found = [
        _records_missing(groups),
        _without_steps(groups, unit),
        _unfinished(groups, unit),
        _lengths(groups, unit),
        _recipes(groups),
        _without_repeats(groups),
        _too_few_repeats(groups, measures),
        _one_seed(groups),
        _sizes(groups),
        _evals_not_shared(groups),
        *(_no_common_loss(loss, unit) for loss in unreached),
        None if has_times else _without_times(),
        _chance(measures),
    ]
    return tuple(note for note in found if note is not None)


def _records_missing(groups: Sequence[Group]) -> Note | None:
    gaps = {report.run_id: find_missing_data(report) for report in _reports(groups) if not is_whole(report)}
    if not gaps:
        return None
    parts = [f"of run {run_id}, {' '.join(gap.message for gap in mine)}" for run_id, mine in gaps.items()]
    whose = "this run" if len(gaps) == 1 else "these runs"
    return Note(
        code="records_missing",
        message=f"Files are damaged: {_listed(parts)} The numbers from the records of {whose} are left out.",
        next="Restore the files from a copy, and compare again; scaler report names each file.",
    )


def _without_steps(groups: Sequence[Group], unit: str) -> Note | None:
    without = [report.run_id for report in _reports(groups) if is_whole(report) and not report.totals.steps]
    if not without:
        return None
    return Note(
        code="without_steps",
        message=f"The runs have no common number of {unit}: {_named(without)} trained no step.",
        next="Compare the other runs; scaler report shows what ended this one.",
    )


def _unfinished(groups: Sequence[Group], unit: str) -> Note | None:
    states = {report.run_id: report.state for report in _reports(groups) if report.state != RunState.SUCCEEDED}
    if not states:
        return None
    parts = [f"{run_id} is {state}" if state in ("starting", "running") else f"{run_id} has {state}"
            if state == "failed" else f"{run_id} was {state}" for run_id, state in states.items()]  # fmt: skip
    return Note(
        code="not_succeeded",
        message=f"{_listed(parts)}: the numbers are of the steps that were trained.",
        next=f"Losses are compared at the {unit} that all runs have trained; scaler resume RUN continues a run.",
    )


def _lengths(groups: Sequence[Group], unit: str) -> Note | None:
    ends = sorted({report.totals.samples_seen for report in _reports(groups) if is_whole(report)})
    if len(ends) < 2:
        return None
    return Note(
        code="different_lengths",
        message=f"The runs trained for different numbers of {unit}, from {count(ends[0], unit)} to "
        f"{count(ends[-1], unit)}: "
        f"numbers at their ends, and numbers that grow with the length, are judged only between arms of equal length.",
        next=f"Read the losses at the {count(ends[0], unit)} {unit} that all runs have trained.",
    )


def _recipes(groups: Sequence[Group]) -> Note | None:
    keys = {change.key for group in groups for change in group.arm.changes} & {"recipe", "train.num_samples"}
    if not keys:
        return None
    return Note(
        code="another_recipe",
        message=f"The arms differ in {' and '.join(sorted(keys))}: their losses may not be comparable.",
        next="Compare the speeds, or runs of one recipe and one training set.",
    )


def _without_repeats(groups: Sequence[Group]) -> Note | None:
    if len(groups) > 1 and max(len(group.members) for group in groups) > 1:
        return None
    seed = 1 + max(member.seed for group in groups for member in group.members)
    again = f"Make a repeat of each job: scaler submit JOB --set train.seed={seed}."
    if len(groups) == 1:
        label = plural(len(groups[0].members), "run")
        return Note(
            code="one_arm",
            message=f"The jobs of these {label} differ only in the seed: they are repeats of one arm, and their "
            f"differences are noise.",
            next="To compare, also give a run of another job.",
        )
    return Note(
        code="no_repeats",
        message="No arm has a second run, so chance may explain every difference.",
        next=f"{again} Then compare all of them.",
    )


def _too_few_repeats(groups: Sequence[Group], measures: Sequence[Measure]) -> Note | None:
    names = [m.name for m in measures if any(change.not_judged == "too_few_repeats" for change in m.differences)]
    if not names:
        return None
    seed = 1 + max(member.seed for group in groups for member in group.members)
    parts = [curve_text(name) for name in dict.fromkeys(names)]
    return Note(
        code="too_few_repeats",
        message=f"Too few repeats to tell whether the arms differ in {_listed(parts)}: a spread of so few "
        f"repeats is too uncertain.",
        next=f"Repeat both arms with new seeds: scaler submit JOB --set train.seed={seed}.",
    )


def _one_seed(groups: Sequence[Group]) -> Note | None:
    alike = [g.arm.label for g in groups if len(g.members) > 1 and len({m.seed for m in g.members}) == 1]
    if not alike:
        return None
    return Note(
        code="one_seed",
        message=f"All runs of arm {' and arm '.join(alike)} have the same seed: they count as repeats for "
        f"the speed, and as one run for the losses.",
        next="Repeat with another seed: scaler submit JOB --set train.seed=N.",
    )


def _sizes(groups: Sequence[Group]) -> Note | None:
    for group in groups:
        sizes = sorted({row.world_size for member in group.members for row in member.report.attempts})
        if len(sizes) > 1:
            return Note(
                code="several_world_sizes",
                message=f"The runs of arm {group.arm.label} trained with {', '.join(map(str, sizes[:-1]))} and "
                f"{sizes[-1]} workers: the speed is over all attempts, "
                f"the speed of a worker over the attempts with the last number of workers.",
                next="For a speed-up, compare runs with a fixed number of workers: scaler submit JOB --workers N.",
            )
    return None


def _evals_not_shared(groups: Sequence[Group]) -> Note | None:
    evals = {report.run_id: evals_of(report) for report in _reports(groups) if is_whole(report)}
    lacking = {
        name: without
        for name in sorted(set().union(*evals.values()))
        if (without := [run_id for run_id, names in evals.items() if name not in names])
    }
    if not lacking:
        return None
    parts = [f"{curve_text(f'eval.{name}')} (not in {_named(run_ids)})" for name, run_ids in lacking.items()]
    return Note(
        code="evals_not_shared",
        message=f"Values that some runs lack are not compared: {_listed(parts, '; ')}.",
        next="Compare runs whose recipes evaluate the same values; scaler report shows all values of a run.",
    )


def _no_common_loss(loss: Unreached, unit: str) -> Note:
    return Note(
        code="no_common_loss",
        message=f"The lowest {curve_text(loss.name)} of run {loss.of} is {number(loss.target)}, and "
        f"{_named(loss.already)} started at or below this loss: {unit} and time to a common loss cannot be compared.",
        next=f"Compare the other runs without run {loss.of}.",
    )


def _without_times() -> Note:
    return Note(
        code="no_times",
        message="The step times of a run are not known, so nothing is compared by time.",
        next="Compare runs whose records have their times.",
    )


def _chance(measures: Sequence[Measure]) -> Note | None:
    judged = sum(change.is_beyond_noise is not None for measure in measures for change in measure.differences)
    if not judged:
        return None
    return Note(
        code="chance",
        message=f"{plural(judged, 'difference')} {'is' if judged == 1 else 'are'} judged, each at {percent(LEVEL)}: "
        f"if the arms were equal, chance alone would put about {number(judged * (1 - LEVEL), 2)} beyond the noise.",
        next="Decide which number matters before you read the table, or repeat surprising results with new seeds.",
    )


def _reports(groups: Sequence[Group]) -> list[Report]:
    return [member.report for group in groups for member in group.members]


def _named(run_ids: Sequence[str]) -> str:
    return f"{'run' if len(run_ids) == 1 else 'runs'} {_listed(run_ids)}"


def _listed(parts: Sequence[str], separator: str = ", ") -> str:
    rest = len(parts) - SHOWN
    return separator.join(parts[:SHOWN]) + (f" and {rest} more" if rest > 0 else "")
