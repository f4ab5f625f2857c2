"""What to know before the numbers of a comparison are believed."""

from collections.abc import Sequence
from dataclasses import dataclass

from scaler.report.compare.arms import Group
from scaler.report.compare.format import curve_text
from scaler.report.compare.measures import evals_of
from scaler.report.compare.model import LEVEL, Measure, Note
from scaler.report.compare.partial_runs import is_whole
from scaler.report.run.missing_data import find_gaps
from scaler.report.run.model import Report
from scaler.report.text.format import number, plural
from scaler.runs import RunState

SHOWN = 3  # runs that a note names


@dataclass(frozen=True, kw_only=True, slots=True)
class Unreached:
    """A loss of which nobody can say how far it was: some runs began at or below what others came down to."""

    name: str
    target: float  # the lowest that every run came down to
    of: str  # the run that came no lower
    already: tuple[str, ...]  # runs that began there or below


def find_notes(
    groups: Sequence[Group], measures: Sequence[Measure], unreached: Sequence[Unreached], *, has_times: bool
) -> tuple[Note, ...]:
    """Return what is to be known, the gravest first; nothing is a good answer.

    Args:
        groups: the runs by arm.
        measures: of them.
        unreached: losses that are left out of "how far to a common loss".
        has_times: whether it is known of every run when it had trained how much.
    """
    found = [
        _records_missing(groups),
        _without_steps(groups),
        _unfinished(groups),
        _lengths(groups),
        _recipes(groups),
        _without_repeats(groups),
        _too_few_repeats(groups, measures),
        _one_seed(groups),
        _sizes(groups),
        _evals_not_shared(groups),
        *map(_no_common_loss, unreached),
        None if has_times else _without_times(),
        _chance(measures),
    ]
    return tuple(note for note in found if note is not None)


def _records_missing(groups: Sequence[Group]) -> Note | None:
    gaps = {report.run_id: find_gaps(report) for report in _reports(groups) if not is_whole(report)}
    if not gaps:
        return None
    told = [f"of run {run_id}, {' '.join(gap.message for gap in mine)}" for run_id, mine in gaps.items()]
    its = "its" if len(gaps) == 1 else "their"
    return Note(
        code="records_missing",
        message=f"Files are damaged: {_listed(told)} What {its} records would say is not known here.",
        next="Bring the files back from a copy, and compare again; scaler report names each of them.",
    )


def _without_steps(groups: Sequence[Group]) -> Note | None:
    without = [report.run_id for report in _reports(groups) if is_whole(report) and not report.totals.steps]
    if not without:
        return None
    return Note(
        code="without_steps",
        message=f"No place is common to all runs: {_named(without)} trained no step.",
        next="Compare the others without it; scaler report tells what ended it.",
    )


def _unfinished(groups: Sequence[Group]) -> Note | None:
    states = {report.run_id: report.state for report in _reports(groups) if report.state != RunState.SUCCEEDED}
    if not states:
        return None
    told = [f"{run_id} is {state}" if state in ("starting", "running") else f"{run_id} has {state}"
            if state == "failed" else f"{run_id} was {state}" for run_id, state in states.items()]  # fmt: skip
    return Note(
        code="not_succeeded",
        message=f"{_listed(told)}: the numbers are of what was trained.",
        next="Losses are compared at what all runs have trained; scaler resume RUN has one go on.",
    )


def _lengths(groups: Sequence[Group]) -> Note | None:
    ends = sorted({report.totals.samples_seen for report in _reports(groups) if is_whole(report)})
    if len(ends) < 2:
        return None
    return Note(
        code="different_lengths",
        message=f"The runs trained for different numbers of samples, from {number(ends[0])} to {number(ends[-1])}: "
        f"what stands at their ends, and what grows with the length, is judged between arms of one length alone.",
        next=f"Read the losses at the {number(ends[0])} samples that all have trained.",
    )


def _recipes(groups: Sequence[Group]) -> Note | None:
    keys = {change.key for group in groups for change in group.arm.changes} & {"recipe", "train.num_samples"}
    if not keys:
        return None
    return Note(
        code="another_recipe",
        message=f"The arms differ in {' and '.join(sorted(keys))}: their losses may not measure the same.",
        next="Compare the speeds, or runs of one recipe and one training set.",
    )


def _without_repeats(groups: Sequence[Group]) -> Note | None:
    if len(groups) > 1 and max(len(group.members) for group in groups) > 1:
        return None
    seed = 1 + max(member.seed for group in groups for member in group.members)
    again = f"scaler submit JOB --set train.seed={seed}, of each job that is compared, makes a repeat."
    if len(groups) == 1:
        label = plural(len(groups[0].members), "run")
        return Note(
            code="one_arm",
            message=f"The jobs of these {label} differ in nothing but the seed: they are repeats of one arm, and what "
            f"differs between them is noise.",
            next="Give a run of another job too, and it is compared with these.",
        )
    return Note(
        code="no_repeats",
        message="No arm has a second run, so nothing says which differences are more than chance.",
        next=f"{again} Give all of them to scaler compare.",
    )


def _too_few_repeats(groups: Sequence[Group], measures: Sequence[Measure]) -> Note | None:
    names = [m.name for m in measures if any(change.not_judged == "too_few_repeats" for change in m.differences)]
    if not names:
        return None
    seed = 1 + max(member.seed for group in groups for member in group.members)
    told = [curve_text(name) for name in dict.fromkeys(names)]
    return Note(
        code="too_few_repeats",
        message=f"Too few repeats to tell whether the arms differ in {_listed(told)}: how far such a number spreads is "
        f"not known well enough.",
        next=f"Repeat both arms with new seeds: scaler submit JOB --set train.seed={seed}.",
    )


def _one_seed(groups: Sequence[Group]) -> Note | None:
    alike = [g.arm.label for g in groups if len(g.members) > 1 and len({m.seed for m in g.members}) == 1]
    if not alike:
        return None
    return Note(
        code="one_seed",
        message=f"All runs of arm {' and arm '.join(alike)} have one seed: they are repeats of the speed, but for the "
        f"losses they count as one.",
        next="Repeat with another seed: scaler submit JOB --set train.seed=N.",
    )


def _sizes(groups: Sequence[Group]) -> Note | None:
    for group in groups:
        sizes = sorted({row.world_size for member in group.members for row in member.report.attempts})
        if len(sizes) > 1:
            return Note(
                code="several_world_sizes",
                message=f"The runs of arm {group.arm.label} trained with {', '.join(map(str, sizes[:-1]))} and "
                f"{sizes[-1]} workers: the speed is of all of them, the speed of a worker of the last number of them.",
                next="For a speed-up, compare runs that keep their workers: scaler submit JOB --workers N.",
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
    told = [f"{curve_text(f'eval.{name}')} (not in {_named(run_ids)})" for name, run_ids in lacking.items()]
    return Note(
        code="evals_not_shared",
        message=f"Values that not every run has are not compared: {_listed(told, '; ')}.",
        next="Compare runs whose recipes evaluate the same; scaler report shows each run's own values.",
    )


def _no_common_loss(loss: Unreached) -> Note:
    return Note(
        code="no_common_loss",
        message=f"The lowest {curve_text(loss.name)} of run {loss.of} is {number(loss.target)}, and "
        f"{_named(loss.already)} began at or below that: how far training was to a common loss is not told.",
        next=f"Compare the others without run {loss.of}.",
    )


def _without_times() -> Note:
    return Note(
        code="no_times",
        message="Of a run it is not known when it had trained how much, so nothing is compared by time.",
        next="Runs of this version of scaler tell it.",
    )


def _chance(measures: Sequence[Measure]) -> Note | None:
    judged = sum(change.is_beyond_noise is not None for measure in measures for change in measure.differences)
    if not judged:
        return None
    return Note(
        code="chance",
        message=f"{plural(judged, 'difference')} {'is' if judged == 1 else 'are'} judged, each at {LEVEL:.0%}: about "
        f"{number(judged * (1 - LEVEL), 2)} would lie beyond the noise by chance if nothing differed.",
        next="Decide before looking which number counts, or repeat with new seeds what surprises.",
    )


def _reports(groups: Sequence[Group]) -> list[Report]:
    return [member.report for group in groups for member in group.members]


def _named(run_ids: Sequence[str]) -> str:
    return f"{'run' if len(run_ids) == 1 else 'runs'} {_listed(run_ids)}"


def _listed(parts: Sequence[str], separator: str = ", ") -> str:
    rest = len(parts) - SHOWN
    return separator.join(parts[:SHOWN]) + (f" and {rest} more" if rest > 0 else "")
