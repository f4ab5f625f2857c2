"""What a reader of an experiment must know before using its numbers, and what to run next."""

from collections.abc import Sequence

from scaler.report.experiment.model import (
    CriticalBatchResult,
    Finding,
    GroupResult,
    Question,
    SpeedRow,
    SweepRow,
)
from scaler.report.text.format import count, number, plural

RULE = "scale.rule"
UNEVEN = 2  # times as fast: two runs of one setting on a machine that does nothing else differ by less
SHOWN = 4  # settings that a finding names


def findings(
    groups: Sequence[GroupResult],
    speed: Sequence[SpeedRow],
    sweeps: Sequence[SweepRow],
    critical: CriticalBatchResult | None,
    question: Question | None,
    *,
    job: str,
    unit: str = "samples",
) -> list[Finding]:
    """Return what a reader must know before using the numbers; ``unit`` of the counts, samples or tokens."""
    found = []
    if question is not None and rules_need_sweep(groups, sweeps):
        lrs = {group.base_lr for group in groups if group.base_lr}
        around = ", ".join(number(lr * factor) for lr in sorted(lrs)[:1] for factor in (0.25, 0.5, 1, 2, 4))
        found.append(
            Finding(
                code="reference_not_tuned",
                message="The rules are compared at a learning rate of the reference that is not shown to be the best.",
                evidence="no learning rates of the reference were tried, or the best one is at the edge of those tried",
                next=f"Sweep it at the baseline: scaler experiment run {job} --lr {around.replace(', ', ',')}",
            )
        )
    found += [
        Finding(
            code="optimum_at_the_edge",
            message=f"{row.label}: the best learning rate is at the edge of those that were tried.",
            evidence=f"best {number(row.best)} of {', '.join(number(lr) for lr in row.lrs)}",
            next="Try learning rates beyond it.",
        )
        for row in sweeps
        if row.best is not None and not row.is_inside
    ]
    for row in speed:
        if row.is_oversubscribed:
            found.append(
                Finding(
                    code="oversubscribed",
                    message=f"{row.num_workers} workers shared fewer CPUs: this is oversubscription, not scaling.",
                    evidence=f"{row.series}: {count(row.samples_per_s.value, unit)} {unit}/s",
                    next="Run it on a machine or a cluster with a CPU for each worker.",
                )
            )
    found += _uneven(groups, unit)
    undecided = [
        group.label
        for group in groups
        if (difference := group.difference_to_baseline) is not None
        and difference.verdict == "undecided"
        and not difference.is_as_good
    ]
    if undecided and question is not None:
        found.append(
            Finding(
                code="undecided",
                message=f"{plural(len(undecided), 'setting')} cannot be called as good as the baseline, or worse.",
                evidence=f"intervals that reach beyond the margin of {number(question.margin)}: {_listed(undecided)}",
                next="Run more seeds, or accept a wider margin that you fix before the runs.",
            )
        )
    if critical is not None and critical.refusal is not None:
        add = (
            f"Run batch sizes {', '.join(f'{batch:,}' for batch in critical.add)}."
            if critical.add
            else "Larger batches exceed the training set or miss the target. More seeds may show it, or a target that "
            "larger batches reach."
        )
        found.append(
            Finding(
                code="critical_batch_not_identifiable",
                message="These cells do not show the critical batch size.",
                evidence=critical.refusal,
                next=add,
            )
        )
    return found


def _uneven(groups: Sequence[GroupResult], unit: str) -> list[Finding]:
    """Return a finding if runs of one setting had very different speeds: something else used the machine."""
    ranges = [
        (max(group.samples_per_s_each) / min(group.samples_per_s_each), group)
        for group in groups
        if len(group.samples_per_s_each) > 1 and min(group.samples_per_s_each) > 0
    ]
    ratio, worst = max(ranges, key=lambda pair: pair[0], default=(1.0, None))
    if worst is None or ratio < UNEVEN:
        return []
    slow, fast = min(worst.samples_per_s_each), max(worst.samples_per_s_each)
    return [
        Finding(
            code="uneven_speed",
            message=f"Runs of one setting differ in speed by {number(ratio, 2)} times: the machine was probably busy "
            "with other things, so times and speed-ups here are no measure.",
            evidence=f"{worst.label}: {count(slow, unit)} to {count(fast, unit)} {unit}/s",
            next="Run it again on a machine that does nothing else, with another --storage: cells that have run are "
            "not run again.",
        )
    ]


def rules_need_sweep(groups: Sequence[GroupResult], sweeps: Sequence[SweepRow]) -> bool:
    """Return whether rules are compared at a learning rate of the reference that is not shown to be the best."""
    rules = {group.rule for group in groups if RULE in group.overrides}
    return len(rules) > 1 and not any(row.is_inside for row in sweeps)


def _listed(labels: Sequence[str]) -> str:
    more = f"; and {len(labels) - SHOWN} more" if len(labels) > SHOWN else ""
    return "; ".join(labels[:SHOWN]) + more
