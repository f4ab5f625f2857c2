"""The recommendation: the fastest group that is as good as the baseline, and its price against the alternatives."""

from collections.abc import Sequence
from shlex import quote

from scaler.job.changes import shown
from scaler.report.experiment.format import interval_text, is_speed_known
from scaler.report.experiment.groups import known
from scaler.report.experiment.model import Alternative, GroupResult, Question, Recommendation
from scaler.report.text.format import count, money, number, plural, seconds

MOST_ALTERNATIVES = 4


def recommend(
    groups: Sequence[GroupResult], question: Question, *, job: str, options: Sequence[str], unit: str = "samples"
) -> Recommendation | None:
    """Return the fastest group that is as good as the baseline; None: no group is shown to be.

    With a target, the fastest is the one with the shortest time to it; without, the one with the highest throughput.
    The baseline itself is a candidate.

    Args:
        groups: of the experiment.
        question: what it asks.
        job: the job file, for the command.
        options: ``key.key=value`` texts that hold for every cell; the group's own win.
        unit: of the counts, samples or tokens.
    """
    base = next((group for group in groups if group.is_baseline), None)
    if base is None or not base.seeds or base.final is None:
        return None
    speeds = speeds_of(groups)
    timed = [group for group in groups if is_as_good(group) and group.label in speeds]
    if not timed:
        return None
    best = max(timed, key=lambda group: speeds[group.label])
    others = sorted(
        (group for group in groups if group is not best and group.label in speeds),
        key=lambda group: -speeds[group.label],
    )
    kept = others[:MOST_ALTERNATIVES]
    if base is not best and base in others and base not in kept:
        kept = [*kept[:-1], base]
    shared = [text for text in options if text.partition("=")[0] not in best.overrides]
    chosen = [*shared, *(f"{key}={shown(value)}" for key, value in best.overrides.items())]
    settings = " ".join(f"--set {quote(text)}" for text in chosen if not text.startswith("storage="))
    time, cost = _price(best, question)
    return Recommendation(
        overrides=dict(best.overrides),
        label=best.label,
        reason=_reason(best, question, unit),
        command=f"scaler submit {quote(job)} {settings}".rstrip(),
        file=None,
        time_s=time,
        cost=cost,
        alternatives=tuple(
            _alternative(group, question, times_as_fast=speeds[group.label] / speeds[best.label]) for group in kept
        ),
    )


def is_as_good(group: GroupResult) -> bool:
    """Return whether a group is the baseline, or is shown to be as good."""
    difference = group.difference_to_baseline
    return group.is_baseline or (
        bool(group.seeds) and not group.failed and difference is not None and difference.is_as_good
    )


def speeds_of(groups: Sequence[GroupResult]) -> dict[str, float]:
    """Return how fast the groups are, by label; those whose speed is not known are left out.

    It is the speed-up over the baseline. If the baseline has none, because it did not reach the target, it is one over
    the time to the target. If no group has that, as where the first evaluations are at the target, it is the
    throughput.
    """
    base = next((group for group in groups if group.is_baseline), None)
    has_base = base is not None and known(base.speed_up) is not None
    found = {group.label: known(group.speed_up) if has_base else _per_s(group) for group in groups}
    if not any(found.values()):
        found = {group.label: known(group.samples_per_s) for group in groups}
    return {label: value for label, value in found.items() if value is not None}


def _per_s(group: GroupResult) -> float | None:
    time = known(group.time_to_target_s)
    return 1 / time if time else None


def good_text(group: GroupResult, question: Question) -> str:
    """Return ``as good as the baseline (accuracy +0.001, 90% interval -0.004 to +0.006, 3 seeds)``."""
    difference = group.difference_to_baseline
    assert difference is not None
    judged = "better than" if difference.verdict == "better" else "as good as"
    return f"{judged} the baseline ({question.metric} {interval_text(difference)}, {plural(difference.pairs, 'seed')})"


def faster_text(best: GroupResult, question: Question, unit: str = "samples") -> str:
    """Return how many times as fast as the baseline a group is, with its interval."""
    ratio = best.speed_up
    if ratio is None or ratio.value is None:
        time = known(best.time_to_target_s)
        if time is None:
            speed = f"trains {count(known(best.samples_per_s), unit)} {unit}/s"
            return f"{speed}; its time to {question.metric} {number(question.target)} is not known"
        return f"reaches {question.metric} {number(question.target)}, which the baseline does not, in {seconds(time)}"
    what = f" to {question.metric} {number(question.target)}" if question.target is not None else ""
    if not is_speed_known(ratio):
        return f"its speed is not known: {number(ratio.low, 2)}x to {number(ratio.high, 2)}x as fast{what}"
    bounds = f" ({number(ratio.low, 2)} to {number(ratio.high, 2)})" if ratio.has_interval else ""
    return f"{number(ratio.value, 2)}x{bounds} as fast{what}"


def _reason(best: GroupResult, question: Question, unit: str) -> str:
    if best.is_baseline:
        return "No other setting is shown to be as good as the baseline and faster."
    return f"It is {good_text(best, question)} and {faster_text(best, question, unit)}."


def _price(group: GroupResult, question: Question) -> tuple[float | None, float | None]:
    """Return time and cost to the target; without a target, those of a whole run."""
    if question.target is not None:
        return known(group.time_to_target_s), known(group.cost_to_target)
    return group.train_s, group.train_cost


def _alternative(group: GroupResult, question: Question, *, times_as_fast: float) -> Alternative:
    time, cost = _price(group, question)
    difference = group.difference_to_baseline
    judged = "the baseline" if group.is_baseline else "not compared"
    if difference is not None:
        judged = f"{difference.verdict}, {interval_text(difference)}"
    spent = f" ({price_text(time, cost)})" if time is not None else ""
    return Alternative(
        label=group.label,
        text=f"{number(times_as_fast, 2)}x as fast as the recommended one{spent}; {judged}",
        times_as_fast=times_as_fast,
        time_s=time,
        cost=cost,
    )


def price_text(time_s: float | None, cost: float | None) -> str:
    """Return a time and its cost.

    Example:
        >>> price_text(75.0, 0.5), price_text(75.0, None)
        ('1 min 15 s, cost 0.50', '1 min 15 s')
    """
    return seconds(time_s) + (f", cost {money(cost)}" if cost is not None else "")
