"""Render an experiment for a terminal and as Markdown, the answer first."""

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.text import Text

from scaler.report.experiment.model import CriticalBatchResult, ExperimentReport
from scaler.report.experiment.sheet import Sheet
from scaler.report.experiment.tables import sheets
from scaler.report.text.format import number, printable
from scaler.report.text.markdown import as_code, as_table, as_text
from scaler.report.text.number_table import NumberTable, Row


def experiment_text(report: ExperimentReport) -> RenderableType:
    """Return an experiment for a terminal."""
    parts: list[RenderableType] = [Text(printable(report.answer), style="bold")]
    if report.recommendation is not None:
        lines = [Text("Recommended", style="bold"), Text(f"  {report.recommendation.command}", style="cyan")]
        lines += [
            Text(f"  instead: {each.label}: {each.text}", style="dim") for each in report.recommendation.alternatives
        ]
        parts.append(Group(*lines))
    parts += [_sheet(sheet) for sheet in sheets(report)]
    if report.critical_batch is not None:
        parts.append(Text(critical_text(report.critical_batch)))
    parts += [
        Group(
            Text.assemble((finding.code, "bold yellow"), f"  {printable(finding.message)}"),
            Padding(Text(printable(f"{finding.evidence}\n{finding.next}"), style="dim"), (0, 0, 0, 2)),
        )
        for finding in report.verdicts
    ]
    return Group(*(Padding(part, (0, 0, 1, 0)) for part in parts))


def experiment_markdown(report: ExperimentReport) -> str:
    """Return an experiment as Markdown."""
    parts = [f"# {as_text(report.experiment_id)}", as_text(report.answer)]
    if report.recommendation is not None:
        others = report.recommendation.alternatives
        parts += ["Recommended:", as_code(report.recommendation.command)]
        parts.append("\n".join(f"- instead, {as_text(each.label)}: {as_text(each.text)}" for each in others))
    for sheet in sheets(report):
        rows = [[as_text(cell) for cell in row] for row in sheet.rows]
        parts += [f"## {as_text(sheet.title)}", as_text(sheet.note), as_table(sheet.head, rows)]
    if report.critical_batch is not None:
        parts += ["## How far", as_text(critical_text(report.critical_batch))]
    if report.verdicts:
        texts = [f"{as_text(each.message)} ({as_text(each.evidence)}) {as_text(each.next)}" for each in report.verdicts]
        lines = [f"- **{each.code}**: {text}" for each, text in zip(report.verdicts, texts, strict=True)]
        parts += ["## Findings", "\n".join(lines)]
    return "\n\n".join(part for part in parts if part) + "\n"


def critical_text(critical: CriticalBatchResult) -> str:
    """Return the critical batch size as sentences."""
    noise = (
        f" The measured noise scale is {number(critical.noise_scale)} samples."
        if critical.noise_scale is not None
        else ""
    )
    if critical.value is None:
        return f"The critical batch size is not identifiable: {critical.refusal}{noise}"
    interval = (
        f" ({number(critical.low, 3)} to {number(critical.high, 3)})"
        if critical.low is not None and critical.high is not None
        else ""
    )
    return (
        f"The critical batch size is {number(critical.value, 3)} samples{interval}: there, a run needs twice the "
        f"{number(critical.fewest_samples, 3)} samples that a very small batch needs.{noise}"
    )


def _sheet(sheet: Sheet) -> RenderableType:
    note = [Text(sheet.note, style="dim")] if sheet.note else []
    if sheet.is_prose:
        lines = [f"{', '.join(row[:-1])}: {row[-1]}" for row in sheet.rows]
        return Group(Text(sheet.title, style="bold"), *note, *(Text(f"  {printable(line)}") for line in lines))
    rows = tuple(Row(cells=tuple(map(printable, row))) for row in sheet.rows)
    table = NumberTable(head=sheet.head, sections=((sheet.title, rows),), is_last_left=sheet.is_last_text)
    return Group(table, *note)
