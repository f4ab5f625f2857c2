"""What an experiment answers: the recommendation, and the two sentences that open its report."""

from collections.abc import Sequence
from shlex import quote

from scaler.core.intervals import Estimate
from scaler.job.changes import shown
from scaler.report.experiment.groups import known
from scaler.report.experiment.model import (
    Alternative,
    Difference,
    GroupResult,
    Question,
    Recommendation,
    SpeedRow,
)
from scaler.report.text.format import number, plural, seconds

MOST_ALTERNATIVES = 3


def recommend(
    groups: Sequence[GroupResult], question: Question, *, job: str, options: Sequence[str]
) -> Recommendation | None:
    """Return the fastest group that is as good as the baseline; None: no group is shown to be.

    With a target, the fastest is the one with the shortest time to it; without, the one with the highest throughput.
    The baseline itself is a candidate.

    Args:
        groups: of the experiment.
        question: what it asks.
        job: the job file, for the command.
        options: ``key.key=value`` texts that hold for every cell; the group's own win.
    """
    base = next((group for group in groups if group.is_baseline), None)
    if base is None or not base.seeds:
        return None
    good = [group for group in groups if group.is_baseline or _is_as_good(group)]
    timed = [group for group in good if _speed(group) is not None]
    if not timed:
        return None
    best = max(timed, key=lambda group: _speed(group) or 0.0)
    others = sorted(
        (group for group in groups if group is not best and _speed(group) is not None),
        key=lambda group: -(_speed(group) or 0),
    )
    shared = [text for text in options if text.partition("=")[0] not in best.overrides]
    chosen = [*shared, *(f"{key}={shown(value)}" for key, value in best.overrides.items())]
    settings = " ".join(f"--set {quote(text)}" for text in chosen if not text.startswith("storage="))
    return Recommendation(
        overrides=dict(best.overrides),
        label=best.label,
        reason=_reason(best, base, question),
        command=f"scaler submit {quote(job)} {settings}".rstrip(),
        alternatives=tuple(
            Alternative(label=group.label, text=_beside(group, best)) for group in others[:MOST_ALTERNATIVES]
        ),
    )


def answer(
    groups: Sequence[GroupResult],
    speed: Sequence[SpeedRow],
    question: Question | None,
    recommendation: Recommendation | None,
    *,
    missing: int,
) -> str:
    """Return the two sentences that open the report.

    Args:
        groups: of the experiment.
        speed: its series.
        question: what it asks; None: speed only.
        recommendation: the group to use.
        missing: cells that have not run.
    """
    waiting = (
        f" {plural(missing, 'cell')} of the matrix {'has' if missing == 1 else 'have'} not run." if missing else ""
    )
    if question is None:
        return (
            _speed_sentence(speed) or "No runs differ in the number of workers alone, so there is no speed-up."
        ) + waiting
    base = next((group for group in groups if group.is_baseline), None)
    if base is None or not base.seeds or base.final is None:
        return "The baseline has not run, so nothing can be compared with it." + waiting
    if recommendation is None:
        return f"No setting is shown to be as good as the baseline ({base.label})." + waiting
    best = next(group for group in groups if group.label == recommendation.label)
    first = (
        f"No setting is shown to be as good as the baseline ({base.label}; {question.metric} "
        f"{number(base.final.value)}, {plural(len(base.seeds), 'seed')}) and faster."
        if best.is_baseline
        else f"{_named(best)} is {_as_good(best, question)} and {_times_as_fast(best, base, question)}."
    )
    return f"{first} {_worse_sentence(groups, question)}".rstrip() + waiting


def _is_as_good(group: GroupResult) -> bool:
    difference = group.difference_to_baseline
    return bool(group.seeds) and not group.failed and difference is not None and difference.is_as_good


def _speed(group: GroupResult) -> float | None:
    """Return how fast a group is: one over its time to the target, else its throughput; None: not known."""
    if group.samples_to_target is not None:
        time = known(group.time_to_target_s)
        return 1 / time if time else None
    return known(group.samples_per_s)


def _reason(best: GroupResult, base: GroupResult, question: Question) -> str:
    if best.is_baseline:
        return "No other setting is shown to be as good as the baseline and faster."
    return f"It is {_as_good(best, question)} and {_times_as_fast(best, base, question)}."


def _as_good(group: GroupResult, question: Question) -> str:
    difference = group.difference_to_baseline
    assert difference is not None
    judged = "better than" if difference.verdict == "better" else "as good as"
    return f"{judged} the baseline ({question.metric} {interval_text(difference)}, {plural(difference.pairs, 'seed')})"


def interval_text(difference: Difference) -> str:
    """Return a difference with its interval.

    Example:
        >>> known = {"verdict": "equivalent", "equivalent": True, "is_as_good": True, "pairs": 3, "level": 0.9}
        >>> interval_text(Difference(mean=0.001, low=-0.004, high=0.006, **known))
        '+0.001, 90% interval -0.004 to +0.006'
    """
    mean = f"{difference.mean:+.3g}"
    if difference.low is None or difference.high is None:
        return f"{mean}, no interval"
    return f"{mean}, {level_text(difference.level)} interval {difference.low:+.2g} to {difference.high:+.2g}"


def level_text(level: float) -> str:
    """Return a confidence in percent.

    Example:
        >>> level_text(0.9), level_text(0.99875)
        ('90%', '99.9%')
    """
    return f"{100 * level:.3g}%"


def _times_as_fast(best: GroupResult, base: GroupResult, question: Question) -> str:
    ours, theirs = _speed(best), _speed(base)
    what = f" to {question.metric} {number(question.target)}" if question.target is not None else ""
    if ours is None or theirs is None:
        reached = known(best.time_to_target_s)
        if reached is None:
            return "its speed is not known"
        return (
            f"reaches {question.metric} {number(question.target)}, which the baseline does not, in {seconds(reached)}"
        )
    return f"{number(ours / theirs, 2)}x as fast{what}"


def _beside(group: GroupResult, best: GroupResult) -> str:
    ours, theirs = _speed(group), _speed(best)
    assert ours is not None
    assert theirs is not None
    difference = group.difference_to_baseline
    judged = "the baseline" if difference is None else f"{difference.verdict}, {interval_text(difference)}"
    return f"{number(ours / theirs, 2)}x as fast as the recommended one; {judged}"


def _named(group: GroupResult) -> str:
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


def _speed_sentence(speed: Sequence[SpeedRow]) -> str | None:
    """Say what the largest number of workers brings that is not oversubscribed."""
    rows = [row for row in speed if row.num_workers > row.base_workers and not row.is_oversubscribed]
    if not rows:
        return None
    row = max(rows, key=lambda each: (each.num_workers, each.speed_up.value or 0.0))
    return (
        f"{row.num_workers} workers are {estimate_text(row.speed_up)} as fast as {row.base_workers} "
        f"({number(row.base_samples_per_s)} samples/s), efficiency {estimate_text(row.efficiency)}; {row.kind} scaling."
    )


def estimate_text(estimate: Estimate | None, digits: int = 3) -> str:
    """Return a value with its interval.

    Example:
        >>> estimate_text(Estimate(value=1.8234, low=1.7, high=1.95)), estimate_text(Estimate(value=None, low=500.0))
        ('1.82 (1.7 to 1.95)', 'over 500')
    """
    if estimate is None:
        return "–"
    if estimate.value is None:
        return f"over {number(estimate.low, digits)}" if estimate.low is not None else "–"
    if estimate.low is None or estimate.high is None or estimate.low == estimate.high:
        return number(estimate.value, digits)
    return f"{number(estimate.value, digits)} ({number(estimate.low, digits)} to {number(estimate.high, digits)})"
