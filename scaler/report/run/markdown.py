"""Render a run's report as Markdown, for pull requests and chats."""

from scaler.report.run.cost_text import budget_parts, budget_text, slowest_first
from scaler.report.run.definitions import TRAIN_LOSS, evaluation
from scaler.report.run.format import (
    ATTEMPT_COSTS,
    ATTEMPT_NUMBERS,
    ATTEMPT_TEXTS,
    Fact,
    attempt_row,
    audit_text,
    costs,
    decision_text,
    further_facts,
    heads,
    results,
)
from scaler.report.run.model import Report
from scaler.report.run.tokens import in_unit
from scaler.report.text.format import amount, count, ended, number, option, plural, printable, seconds
from scaler.report.text.markdown import as_code, as_table, as_text
from scaler.report.text.sparkline import sparkline

MOST_WORKERS = 32  # of more workers, the slowest are shown


def render_markdown(report: Report) -> str:
    """Return the report as Markdown; markup in names and messages is escaped."""
    report = in_unit(report)
    plan, unit = report.plan, report.unit
    parts = [f"# {as_text(report.run_id)}: {report.state}", _verdicts(report)]
    if report.failure:
        parts.append(as_code(printable(report.failure)))
    facts = [
        ("workers", number(plan["world_size"])),
        ("global batch", f"{count(plan['global_batch_size'], unit)} ({plan['reasons']['batch_ratio']})"),
        ("peak lr", f"{option(plan['peak_lr'])} ({plan['rule_reason']})"),
        *results(report),
        ("lr used", audit_text(report.lr_audit)),
        *costs(report),
        *_budget(report),
        *further_facts(report),
    ]
    parts.append(as_table(("", ""), [(as_text(name), as_text(value)) for name, value in facts]))
    parts.append(_curves(report))
    shown = report.workers if len(report.workers) <= MOST_WORKERS else slowest_first(report.workers)[:MOST_WORKERS]
    parts.append(
        as_table(
            ("rank", unit, f"{unit}/s", "loss", "step p50", "step p95", "data wait", "sync wait", "GiB"),
            [
                (
                    str(row.rank),
                    count(row.samples, unit),
                    count(row.worker_samples_per_s, unit),
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
        parts.append(
            f"And {plural(left, 'more worker')}; the table has those with the longest data wait and compute in a step."
        )
    if report.is_uneven:
        parts.append(_attempts(report))
    parts.append(_decisions(report))
    return "\n\n".join(part for part in parts if part) + "\n"


def _budget(report: Report) -> list[Fact]:
    """The parts of the wall clock; empty if they are not known."""
    wall_s = report.totals.wall_s
    if report.budget is None or wall_s is None or wall_s <= 0:
        return []
    return [("time", budget_text(budget_parts(report.budget), wall_s))]


def _curves(report: Report) -> str:
    """Small charts over the samples or tokens, each with its first, last, least and greatest value."""
    series = report.series
    curves = (
        (TRAIN_LOSS.name, series.loss_mean, max),  # keeps every spike
        *((evaluation(name).name, values, max) for name, values in series.evals.items()),
        ("learning rate", series.lr, max),
        (f"{report.unit}/s", series.samples_per_s, min),  # keeps every dip
    )
    rows = []
    for name, values, keep in curves:
        known = [value for value in values if value is not None]
        if known:
            ends = (known[0], known[-1], min(known), max(known))
            rows.append((as_text(name), f"`{sparkline(values, keep=keep)}`", *(number(value) for value in ends)))
    return as_table((f"over {report.unit}", "curve", "first", "last", "least", "greatest"), rows) if rows else ""


def _attempts(report: Report) -> str:
    names = heads((*ATTEMPT_NUMBERS, *ATTEMPT_TEXTS, *ATTEMPT_COSTS), report.unit)
    return as_table(names, [[as_text(cell) for cell in attempt_row(row, report.unit)] for row in report.attempts])


def _decisions(report: Report) -> str:
    return "\n".join(
        f"- at {amount(decision.samples_seen, report.unit)}: {as_text(decision_text(decision))}"
        for decision in report.decisions
    )


def _verdicts(report: Report) -> str:
    if report.all_clear is not None:
        return report.all_clear
    return "\n".join(
        f"- **{verdict.code}**: {as_text(verdict.message)} {as_text(ended(verdict.evidence))} {as_text(verdict.next)}"
        for verdict in report.verdicts
    )
