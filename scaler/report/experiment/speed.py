"""Speed: throughput over the number of workers, for runs that differ in it alone, and the laws that fit it."""

from collections.abc import Mapping, Sequence
from statistics import fmean

from scaler.core.scaling_fits import LawFit, fit_law, predict_step_time
from scaler.core.scaling_laws import LAWS, Law
from scaler.core.speedup import speed_ups
from scaler.report.experiment.cells import waits
from scaler.report.experiment.groups import Group, Member
from scaler.report.experiment.labels import label
from scaler.report.experiment.model import HeldOut, LawResult, SpeedRow
from scaler.report.text.format import plural

WORKERS = "scale.num_workers"


def speed_rows(groups: Sequence[Group], *, level: float, cpus: float | None) -> list[SpeedRow]:
    """Return a row for each number of workers of each series.

    A series is the runs that differ in ``scale.num_workers`` alone. It is strong scaling if they all have one global
    batch, and weak scaling if they all have the same batch a worker.

    Args:
        groups: of the experiment.
        level: of the intervals, in (0, 1).
        cpus: of the cluster; None: not known.
    """
    return [row for name, members in _series(groups).items() for row in _rows(name, members, level=level, cpus=cpus)]


def law_results(groups: Sequence[Group], *, level: float, cpus: float | None) -> list[LawResult]:
    """Return the laws that are fitted to each series, or why they are refused.

    Oversubscribed runs are left out: their workers share CPUs.
    """
    found = []
    for name, by_workers in _series(groups).items():
        kind = _kind(by_workers)
        times: dict[int, list[float]] = {}
        for workers, members in by_workers.items():
            if kind is not None and not _is_oversubscribed(members, cpus=cpus):
                times[workers] = [_batch(member) / _speed(member) for member in members]
        if kind is None or len(times) < 2:
            continue
        laws = [law for (scaling, _), law in LAWS.items() if scaling == kind]
        left_out = _left_out(name, groups, sorted(by_workers.keys() - times.keys()), sorted(times))
        found += [
            _law(name, kind, fit_law(law, times, level=level), _held_out(law, times, level=level), left_out)
            for law in laws
        ]
    return found


def _series(groups: Sequence[Group]) -> Mapping[str, Mapping[int, Sequence[Member]]]:
    """Return the runs with a throughput by series and number of workers; series with one number are left out."""
    found: dict[str, dict[int, list[Member]]] = {}
    for group in groups:
        for member in group.done:
            workers = member.result.world_size
            if workers is None or not member.result.samples_per_s:
                continue
            name = label({key: value for key, value in member.cell.overrides.items() if key != WORKERS})
            found.setdefault(name, {}).setdefault(workers, []).append(member)
    return {name: by_workers for name, by_workers in found.items() if len(by_workers) > 1}


def _kind(by_workers: Mapping[int, Sequence[Member]]) -> str | None:
    """Return ``strong`` or ``weak``; None: the batch changes in another way."""
    batches = {(workers, _batch(member)) for workers, members in by_workers.items() for member in members}
    if len({batch for _, batch in batches}) == 1:
        return "strong"
    return "weak" if len({batch / workers for workers, batch in batches}) == 1 else None


def _rows(
    name: str, by_workers: Mapping[int, Sequence[Member]], *, level: float, cpus: float | None
) -> Sequence[SpeedRow]:
    kind = _kind(by_workers)
    if kind is None:
        return []
    speeds = {workers: [_speed(member) for member in members] for workers, members in by_workers.items()}
    rows = []
    for found in speed_ups(speeds, level=level):
        members = by_workers[found.num_workers]
        lost = waits([member.cell.report for member in members if member.cell.report is not None])
        rows.append(
            SpeedRow(
                series=name,
                kind=kind,
                num_workers=found.num_workers,
                global_batch_size=_batch(members[0]),
                repeats=found.repeats,
                each=tuple(speeds[found.num_workers]),
                speed_ups=tuple(speed / found.base_samples_per_s for speed in speeds[found.num_workers]),
                samples_per_s=found.samples_per_s,
                speed_up=found.speed_up,
                efficiency=found.efficiency,
                base_workers=found.base_workers,
                base_samples_per_s=found.base_samples_per_s,
                is_oversubscribed=_is_oversubscribed(members, cpus=cpus),
                data_wait=lost["data_wait"],
                sync_wait=lost["sync_wait"],
                imbalance=lost["imbalance"],
                tail=lost["tail"],
            )
        )
    return rows


def _speed(member: Member) -> float:
    assert member.result.samples_per_s is not None
    return member.result.samples_per_s


def _batch(member: Member) -> int:
    assert member.result.global_batch_size is not None
    return member.result.global_batch_size


def _is_oversubscribed(members: Sequence[Member], *, cpus: float | None) -> bool:
    """Return whether the workers had fewer CPUs than there are workers; workers with a GPU are not counted."""
    report, workers = members[0].cell.report, members[0].result.world_size
    uses_gpu = report is not None and any(row.device not in (None, "cpu") for row in report.workers)
    return cpus is not None and workers is not None and not uses_gpu and workers > cpus


def _held_out(law: Law, times: Mapping[int, Sequence[float]], *, level: float) -> HeldOut | None:
    """Return what the law without the most workers predicts for them; None: too few numbers of workers."""
    most = max(times)
    rest = {workers: found for workers, found in times.items() if workers != most}
    if len(rest) <= len(law.parameters):
        return None
    predicted, measured = predict_step_time(law, rest, most, level=level), fmean(times[most])
    return HeldOut(place=most, predicted=predicted, measured=measured, is_inside=predicted.holds(measured))


def _left_out(series: str, groups: Sequence[Group], shared: Sequence[int], fitted: Sequence[int]) -> str:
    """Return which numbers of workers ran and do not count for a series, and why; empty: all that ran count."""
    texts = [f"{_counts(shared)} ran, but shared CPUs."] if shared else []
    others: dict[str, set[int]] = {}
    for group in groups:
        for member in group.done:
            workers, overrides = member.result.world_size, member.cell.overrides
            name = label({key: value for key, value in overrides.items() if key != WORKERS})
            if workers is not None and WORKERS in overrides and name != series and workers not in (*fitted, *shared):
                others.setdefault(name, set()).add(workers)
    texts += [
        f"{_counts(sorted(counts))} ran only with other settings ({name}), and do not count."
        for name, counts in others.items()
    ]
    return " ".join(texts)


def _counts(workers: Sequence[int]) -> str:
    """Return numbers of workers as a text.

    Example:
        >>> _counts([4]), _counts([2, 4, 8])
        ('4 workers', '2, 4 and 8 workers')
    """
    first = ", ".join(map(str, workers[:-1]))
    return f"{first} and {workers[-1]} workers" if first else plural(workers[-1], "worker")


def _law(series: str, kind: str, fit: LawFit, held_out: HeldOut | None, left_out: str) -> LawResult:
    return LawResult(
        series=series,
        kind=kind,
        law=fit.law.name,
        text=fit.law.text,
        parameters=fit.parameters,
        refusal=" ".join(filter(None, (fit.refusal, left_out))) if fit.refusal is not None else None,
        add=fit.add,
        held_out=held_out,
    )
