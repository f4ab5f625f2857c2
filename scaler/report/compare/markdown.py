"""Render a comparison as Markdown, for pull requests and chats."""

from scaler.report.compare.format import (
    arm_text,
    by_kind,
    compared,
    headline,
    mean_text,
    measure_text,
    run_text,
    shown_measures,
    speedup_text,
    spread_text,
)
from scaler.report.compare.model import Arm, Comparison
from scaler.report.text.markdown import as_table, as_text


def render_comparison_markdown(comparison: Comparison) -> str:
    """Return the comparison as Markdown; markup in names and values of the jobs is escaped."""
    parts = [f"# {_title(comparison)}", *([as_text(comparison.finding)] if comparison.finding else [])]
    parts += [_arm(comparison, arm) for arm in comparison.arms]
    base = comparison.arms[0].label
    speedups = [
        f"- arm {speedup.arm}, {as_text(speedup_text(speedup, base, comparison.unit))}"
        for speedup in comparison.speedups
    ]
    notes = [f"- **{note.code}**: {as_text(note.message)} {as_text(note.next)}" for note in comparison.notes]
    parts += ["\n".join(lines) for lines in (speedups, notes) if lines]
    parts.append(_numbers(comparison))
    return "\n\n".join(parts) + "\n"


def _title(comparison: Comparison) -> str:
    return f"{len(comparison.runs)} runs, {len(comparison.arms)} arm{'s' if len(comparison.arms) > 1 else ''}"


def _arm(comparison: Comparison, arm: Arm) -> str:
    lines = [f"**Arm {arm.label}**: {arm_text(arm)}"]
    if arm.label != comparison.arms[0].label:
        lines[0] += f". {as_text(headline(comparison, arm))}"
    lines.append("")
    lines += [f"- {as_text(f'{change.key}: {change.base} -> {change.value}')}" for change in arm.changes]
    lines += [
        f"- {as_text(run.run_id)}: {as_text(run_text(run, comparison.unit))}"
        for run in comparison.runs
        if run.arm == arm.label
    ]
    return "\n".join(lines)


def _numbers(comparison: Comparison) -> str:
    """The table of all numbers: a column for each arm, with its change from the base and whether that is noise."""
    base, others = comparison.arms[0].label, comparison.arms[1:]
    header = ["", base]
    for arm in others:
        header += [arm.label, "change", "noise"]
    rows = []
    for title, measures in by_kind(shown_measures(comparison)):
        rows.append([f"**{title}**", *([""] * (len(header) - 1 + (not others)))])
        for measure in measures:
            row = [as_text(measure_text(measure)), mean_text(measure.of(base), measure.unit)]
            for arm in others:
                row += compared(measure, arm.label)
            rows.append(row if others else [*row, spread_text(measure.arms[0], measure.unit)])
    return as_table(header if others else [*header, "spread of a repeat"], rows)
