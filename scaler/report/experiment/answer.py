"""The two sentences that open the report of an experiment."""

from collections.abc import Sequence

from scaler.report.experiment.format import estimate_text
from scaler.report.experiment.model import GroupResult, Question, Recommendation, SpeedRow
from scaler.report.experiment.recommendation import faster_text, good_text
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
    """Return the two sentences that open the report.

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
    return f"{first} {_worse_sentence(groups, question)}".rstrip() + waiting


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
    return f"At {number(smallest)} {question.metric} is worse by {by} whatever the other settings."


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
