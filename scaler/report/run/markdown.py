"""A report as Markdown, for pull requests and chats."""

from scaler.report.run.cost_text import (
    budget_parts,
    budget_text,
    cost_text,
    flops_text,
    scaling_text,
    slowest_first,
)
from scaler.report.run.definitions import COST, EFFICIENCY, SPEED, TRAIN_LOSS, WALL_S, evaluation
from scaler.report.run.model import Report
from scaler.report.text.format import (
    audit_words,
    batch_words,
    decision_words,
    ended,
    ended_words,
    more_facts,
    number,
    plural,
    printable,
    seconds,
)
from scaler.report.text.markdown import as_code, as_table, as_text
from scaler.report.text.sparkline import sparkline

MOST_WORKERS = 32  # of more, the slowest are shown


def render_markdown(report: Report) -> str:
    """Return the report; names and messages are shown as text, whatever they hold."""
    plan, totals = report.plan, report.totals
    parts = [f"# {as_text(report.run_id)}: {report.state}", _verdicts(report)]
    if report.failure:
        parts.append(as_code(printable(report.failure)))
    parts.append(
        as_table(
            ("", ""),
            [
                ("workers", number(plan["world_size"])),
                ("global batch", f"{number(plan['global_batch_size'])} ({as_text(plan['reasons']['batch_ratio'])})"),
                ("peak rate", f"{number(plan['peak_lr'])} ({as_text(plan['rule_reason'])})"),
                ("trained", f"{plural(totals.samples_seen, 'sample')} in {plural(totals.steps, 'step')}"),
                (SPEED.name, f"{number(SPEED.read(report))} {SPEED.unit}"),
                (WALL_S.name, seconds(WALL_S.read(report))),
                (TRAIN_LOSS.name, f"{number(TRAIN_LOSS.read(report))} ({TRAIN_LOSS.of})"),
                *((as_text(value.name), number(value.read(report))) for value in map(evaluation, report.final.eval)),
                ("rate used", audit_words(report.lr_audit)),
                *((name, as_text(value)) for name, value in _spent(report)),
                *((name, as_text(value)) for name, value in more_facts(report)),
            ],
        )
    )
    parts.append(_curves(report))
    shown = report.workers if len(report.workers) <= MOST_WORKERS else slowest_first(report.workers)[:MOST_WORKERS]
    parts.append(
        as_table(
            ("rank", "samples", "samples/s", "loss", "step p50", "step p95", "data wait", "sync wait", "GiB"),
            [
                (
                    str(row.rank),
                    number(row.samples),
                    number(row.worker_samples_per_s),
                    number(row.loss_mean),
                    seconds(row.step_time_s.median),
                    seconds(row.step_time_s.p95),
                    seconds(row.data_wait_s),
                    seconds(row.sync_wait_s),
                    number(row.peak_memory_gib, 3),
                )
                for row in shown
            ],
        )
    )
    if left := len(report.workers) - len(shown):
        parts.append(f"And {plural(left, 'more worker')}; these have the most time of their own a step.")
    if report.is_uneven:
        parts.append(_attempts(report))
    parts.append(_decisions(report))
    return "\n\n".join(part for part in parts if part) + "\n"


def _spent(report: Report) -> list[tuple[str, str]]:
    """What its workers bought and cost, and where the time went, as far as it is known."""
    scaling = scaling_text(report.scaling) if report.scaling is not None else None
    facts = [(EFFICIENCY.name, scaling)] if scaling is not None else []
    if report.flops is not None:
        facts.append(("computing", flops_text(report.flops)))
    if report.cost is not None:
        facts.append((COST.name, cost_text(report.cost)))
    wall_s = report.totals.wall_s
    if report.budget is not None and wall_s is not None and wall_s > 0:
        facts.append(("time", budget_text(budget_parts(report.budget), wall_s)))
    return facts


def _curves(report: Report) -> str:
    """Small charts over the samples, each with the values that it begins and ends with, its least and its greatest."""
    series = report.series
    curves = (
        (TRAIN_LOSS.name, series.loss_mean, max),  # a spike is never left out
        *((evaluation(name).name, values, max) for name, values in series.evals.items()),
        ("learning rate", series.lr, max),
        ("samples/s", series.samples_per_s, min),  # nor is a dip
    )
    rows = []
    for name, values, keep in curves:
        known = [value for value in values if value is not None]
        if known:
            ends = (known[0], known[-1], min(known), max(known))
            rows.append((as_text(name), f"`{sparkline(values, keep=keep)}`", *(number(value) for value in ends)))
    return as_table(("over samples", "curve", "first", "last", "least", "greatest"), rows) if rows else ""


def _attempts(report: Report) -> str:
    return as_table(
        (
            *("attempt", "workers", "global batch", "peak rate", "from sample", "to sample", "ended by", "why"),
            *("done again", "restart"),
        ),
        [
            (
                str(row.attempt),
                number(row.world_size),
                batch_words(row),
                number(row.peak_lr),
                number(row.start_samples),
                number(row.end_samples),
                ended_words(row),
                as_text(row.cause or ""),
                number(row.redone_samples),
                seconds(row.restart_s),
            )
            for row in report.attempts
        ],
    )


def _decisions(report: Report) -> str:
    return "\n".join(
        f"- at {plural(decision.samples_seen, 'sample')}: {as_text(decision_words(decision))}"
        for decision in report.decisions
    )


def _verdicts(report: Report) -> str:
    if report.all_clear is not None:
        return report.all_clear
    return "\n".join(
        f"- **{verdict.code}**: {as_text(verdict.message)} {as_text(ended(verdict.evidence))} {as_text(verdict.next)}"
        for verdict in report.verdicts
    )
