"""The sentences that open the report of an experiment."""

from collections.abc import Sequence

from scaler.report.experiment.format import estimate_text, is_speed_known, speed_up_text
from scaler.report.experiment.model import GroupResult, Question, Recommendation, SpeedRow
from scaler.report.experiment.recommendation import faster_text, good_text
from scaler.report.experiment.speed import WORKERS
from scaler.report.text.format import count, number, plural

NAMED = (
    "scale.num_workers",
    "scale.global_batch_size",
    "scale.per_worker_batch_size",
    "scale.rule",
)  # keys that the sentence on a setting names


def answer(
    groups: Sequence[GroupResult],
    speed: Sequence[SpeedRow],
    question: Question | None,
    recommendation: Recommendation | None,
    *,
    missing: int,
    unit: str = "samples",
) -> str:
    """Return the two or three sentences that open the report.

    Args:
        groups: of the experiment.
        speed: its series.
        question: what it asks; None: speed only.
        recommendation: the group to use.
        missing: cells that have not run.
        unit: of the counts, samples or tokens.
    """
    waiting = (
        f" {plural(missing, 'cell')} of the matrix {'has' if missing == 1 else 'have'} not run." if missing else ""
    )
    if question is None:
        return (
            _speed_sentence(speed, unit) or "No runs differ in the number of workers alone, so there is no speed-up."
        ) + waiting
    base = next((group for group in groups if group.is_baseline), None)
    if base is None or not base.seeds:
        return "The baseline has not run, so nothing can be compared with it." + waiting
    if base.final is None:
        return f"The baseline's runs have no value {question.metric}, so nothing can be compared with it." + waiting
    if recommendation is None:
        return f"No setting is shown to be as good as the baseline ({base.label})." + waiting
    best = next(group for group in groups if group.label == recommendation.label)
    first = (
        f"No setting is shown to be as good as the baseline ({base.label}; {question.metric} "
        f"{number(base.final.value)}, {plural(len(base.seeds), 'seed')}) and faster."
        if best.is_baseline
        else f"{_named(best)} is {good_text(best, question)} and {faster_text(best, question, unit)}."
    )
    sentences = (first, workers_sentence(groups, speed, best), _worse_sentence(groups, question))
    return " ".join(filter(None, sentences)) + waiting


def _named(group: GroupResult) -> str:
    if not group.overrides.keys() <= set(NAMED):
        return f"{group.label[:1].upper()}{group.label[1:]}"
    workers = f"on {plural(group.world_size, 'worker')}" if group.world_size else ""
    rule = f" with rule {group.rule}" if group.rule is not None else ""
    return f"Batch {number(group.global_batch_size)} {workers}{rule}"


def _worse_sentence(groups: Sequence[GroupResult], question: Question) -> str:
    """Say from which batch size on every setting is worse than the baseline."""
    by_batch: dict[int, list[GroupResult]] = {}
    for group in groups:
        if group.global_batch_size is not None and group.difference_to_baseline is not None:
            by_batch.setdefault(group.global_batch_size, []).append(group)
    worse = []
    for batch in sorted(by_batch, reverse=True):
        if not all(_verdict(group) == "worse" for group in by_batch[batch]):
            break
        worse.append(batch)
    if not worse:
        return ""
    smallest = min(worse)
    losses = [abs(_mean(group)) for group in by_batch[smallest]]
    least, most = min(losses), max(losses)
    by = f"{least:.2g}" if len(losses) == 1 else f"{least:.2g} to {most:.2g}"
    whatever = " whatever the other settings" if len(losses) > 1 else ""
    largest, where = max((abs(_mean(group)), batch) for batch in worse for group in by_batch[batch])
    rest = f"; the largest loss is {largest:.2g}, at {number(where)}" if where != smallest else ""
    return f"At {number(smallest)} {question.metric} is worse by {by}{whatever}{rest}."


def workers_sentence(groups: Sequence[GroupResult], speed: Sequence[SpeedRow], best: GroupResult) -> str:
    """Say how much faster each number of workers is at one global batch; empty: the experiment varies no workers.

    Args:
        groups: of the experiment.
        speed: its series.
        best: the recommended group; of several series, the one with its batch is used.
    """
    asked = sorted({workers for group in groups if (workers := _workers(group)) is not None})
    strong = [row for row in speed if row.kind == "strong" and row.num_workers > row.base_workers]
    parts, unknown, shared = [], [], False
    for workers in asked[1:]:
        rows = [row for row in strong if row.num_workers == workers]
        own = [row for row in rows if not row.is_oversubscribed]
        if not own:
            unknown.append(workers)
            shared = shared or bool(rows)
            continue
        row = max(own, key=lambda each: (each.global_batch_size == best.global_batch_size, each.global_batch_size))
        what = f"{plural(workers, 'worker')} at batch {number(row.global_batch_size)}"
        if is_speed_known(row.speed_up):
            value, *bounds = speed_up_text(row.speed_up).partition(" (")
            parts.append(f"{what}: {value}x{''.join(bounds)} as fast as {plural(row.base_workers, 'worker')}")
        else:
            low, high = number(row.speed_up.low, 2), number(row.speed_up.high, 2)
            parts.append(f"{what}: not known, {low}x to {high}x as fast as {plural(row.base_workers, 'worker')}")
    if unknown:
        *others, last = map(str, unknown)
        counts = f"{', '.join(others)} and {last} workers" if others else plural(unknown[0], "worker")
        parts.append(f"{counts}: not measured{', because they shared CPUs' if shared else ' at the same batch'}")
    return f"{'; '.join(parts)}." if parts else ""


def _workers(group: GroupResult) -> int | None:
    """Return the number of workers of a group, also if it has not run."""
    asked = group.overrides.get(WORKERS)
    return asked if isinstance(asked, int) else group.world_size


def _verdict(group: GroupResult) -> str | None:
    return None if group.difference_to_baseline is None else group.difference_to_baseline.verdict


def _mean(group: GroupResult) -> float:
    return 0.0 if group.difference_to_baseline is None else group.difference_to_baseline.mean


def _speed_sentence(speed: Sequence[SpeedRow], unit: str) -> str | None:
    """Say what the largest number of workers brings that is not oversubscribed."""
    rows = [row for row in speed if row.num_workers > row.base_workers and not row.is_oversubscribed]
    if not rows:
        return None
    row = max(rows, key=lambda each: (each.num_workers, each.speed_up.value or 0.0))
    base, alone = plural(row.base_workers, "worker"), f"{count(row.base_samples_per_s, unit)} {unit}/s"
    if row.kind == "weak":
        return (
            f"{plural(row.num_workers, 'worker')} with {row.num_workers // row.base_workers} times the batch train "
            f"{estimate_text(row.speed_up)} times the {unit} a second of {base} "
            f"({alone}): weak scaling, efficiency {estimate_text(row.efficiency)}."
        )
    return (
        f"{plural(row.num_workers, 'worker')} with the same global batch are {estimate_text(row.speed_up)} times "
        f"as fast as {base} ({alone}): strong scaling, efficiency "
        f"{estimate_text(row.efficiency)}."
    )
