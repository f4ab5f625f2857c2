"""Render a comparison for a terminal of 80 columns, the finding first."""

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.text import Text

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
from scaler.report.compare.model import Arm, Comparison, Note
from scaler.report.text.format import printable
from scaler.report.text.number_table import NumberTable, Row

SHOWN_RUNS = 8  # of an arm
SHOWN_CHANGES = 12


def comparison_text(comparison: Comparison) -> RenderableType:
    """Return a comparison for a terminal: the finding, the arms, the notes, and a table for each arm."""
    parts: list[RenderableType] = [Text(comparison.finding, style="bold")] if comparison.finding else []
    parts += [_arm(comparison, arm) for arm in comparison.arms]
    for speedup in comparison.speedups:
        parts.append(Text(f"{speedup.arm}  {speedup_text(speedup, comparison.arms[0].label, comparison.unit)}"))
    parts += [_note(note) for note in comparison.notes]
    others = comparison.arms[1:]
    parts += [_table(comparison, arm) for arm in others] if others else [_own_table(comparison)]
    return Group(*(Padding(part, (0, 0, 1, 0)) for part in parts))


def _arm(comparison: Comparison, arm: Arm) -> RenderableType:
    runs = [run for run in comparison.runs if run.arm == arm.label]
    lines: list[RenderableType] = [Text.assemble((f"arm {arm.label}", "bold"), f"  {arm_text(arm)}")]
    for run in runs[:SHOWN_RUNS]:
        lines.append(
            Padding(Text(f"{printable(run.run_id)}: {printable(run_text(run, comparison.unit))}"), (0, 0, 0, 2))
        )
    if len(runs) > SHOWN_RUNS:
        lines.append(Text(f"  and {len(runs) - SHOWN_RUNS} more"))
    lines += [
        Padding(Text(printable(f"{change.key}: {change.base} -> {change.value}"), style="cyan"), (0, 0, 0, 2))
        for change in arm.changes[:SHOWN_CHANGES]
    ]
    if len(arm.changes) > SHOWN_CHANGES:
        lines.append(Text(f"  and {len(arm.changes) - SHOWN_CHANGES} more keys; --json has all"))
    if arm.label != comparison.arms[0].label:
        lines.append(Padding(Text(headline(comparison, arm), style="bold"), (0, 0, 0, 2)))
    return Group(*lines)


def _note(note: Note) -> RenderableType:
    title = Text.assemble((note.code, "bold yellow"), f"  {printable(note.message)}")
    return Group(title, Padding(Text(printable(note.next), style="dim"), (0, 0, 0, 2)))


def _table(comparison: Comparison, arm: Arm) -> RenderableType:
    """The table of an arm against the base."""
    base = comparison.arms[0].label
    head = (f"{base} against {arm.label}", base, arm.label, "change", "noise")
    sections = []
    for title, measures in by_kind(shown_measures(comparison)):
        rows = []
        for measure in measures:
            base_mean = mean_text(measure.of(base), measure.unit)
            style = "bold" if measure.difference(arm.label).is_beyond_noise else "dim"
            cells = (measure_text(measure), base_mean, *compared(measure, arm.label))
            rows.append(Row(cells=cells, last_style=style))
        sections.append((title, tuple(rows)))
    return NumberTable(head=head, sections=tuple(sections), is_last_left=True)


def _own_table(comparison: Comparison) -> RenderableType:
    """The table of a single arm: means and spreads of its repeats."""
    sections = []
    for title, measures in by_kind(shown_measures(comparison)):
        rows = []
        for measure in measures:
            values, unit = measure.arms[0], measure.unit
            cells = (measure_text(measure), mean_text(values, unit), spread_text(values, unit), str(values.repeats))
            rows.append(Row(cells=cells))
        sections.append((title, tuple(rows)))
    return NumberTable(head=("", "mean", "spread of a repeat", "repeats"), sections=tuple(sections))
