"""Render an experiment for a terminal and as Markdown, the answer first."""

from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.padding import Padding
from rich.text import Text

from scaler.report.experiment.model import CriticalBatchResult, ExperimentReport, NextCells, Recommendation
from scaler.report.experiment.scaling_tables import held_out_text
from scaler.report.experiment.sheet import Sheet
from scaler.report.experiment.tables import sheets
from scaler.report.experiment.workloads import beside_public
from scaler.report.text.format import count, number, plural, printable
from scaler.report.text.markdown import as_code, as_table, as_text
from scaler.report.text.number_table import NumberTable, Row

STILL_OPEN = "They leave open:"
LONGER_NAMES = 8  # columns of the names of settings, beyond the fewest of a table


def experiment_text(report: ExperimentReport) -> RenderableType:
    """Return an experiment for a terminal."""
    parts: list[RenderableType] = [Text(printable(report.answer), style="bold")]
    if report.recommendation is not None:
        lines = [Text("Recommended", style="bold")]
        lines.append(Text(f"  {printable(command_text(report.recommendation))}", style="cyan"))
        if report.recommendation.file is not None:
            lines.append(Text(f"  as a job file: {printable(report.recommendation.file)}", style="dim"))
        parts.append(Group(*lines))
    parts += [_sheet(sheet) for sheet in sheets(report)]
    if report.critical_batch is not None:
        parts.append(Group(Text("How far", style="bold"), Text(critical_text(report.critical_batch, report.unit))))
    if report.next is not None:
        parts.append(_next(report.next))
    parts += [
        Group(
            Text.assemble((finding.code, "bold yellow"), f"  {printable(finding.message)}"),
            Padding(Text(printable(f"{finding.evidence}\n{finding.next}"), style="dim"), (0, 0, 0, 2)),
        )
        for finding in report.verdicts
    ]
    parts.append(Text(printable(environment_text(report)), style="dim"))
    return Group(*(Padding(part, (0, 0, 1, 0)) for part in parts))


def experiment_markdown(report: ExperimentReport) -> str:
    """Return an experiment as Markdown."""
    parts = [f"# {as_text(report.experiment_id)}", as_text(report.answer)]
    if report.recommendation is not None:
        parts += ["Recommended:", as_code(report.recommendation.command)]
        if report.recommendation.file is not None:
            parts.append(f"As a job file: {as_text(report.recommendation.file)}")
    for sheet in sheets(report):
        rows = [[as_text(cell) for cell in row] for row in sheet.rows]
        parts += [f"## {as_text(sheet.title)}", as_text(sheet.note), as_table(sheet.head, rows)]
    if report.critical_batch is not None:
        parts += ["## How far", as_text(critical_text(report.critical_batch, report.unit))]
    if report.next is not None:
        parts += [
            "## What to run next",
            as_text(next_text(report.next)),
            as_code(report.next.yaml) if report.next.yaml else "",
        ]
        parts += [STILL_OPEN] if report.next.cells and report.next.left_out else []
        parts.append("\n".join(f"- {as_text(each)}" for each in report.next.left_out))
    if report.verdicts:
        texts = [f"{as_text(each.message)} ({as_text(each.evidence)}) {as_text(each.next)}" for each in report.verdicts]
        lines = [f"- **{each.code}**: {text}" for each, text in zip(report.verdicts, texts, strict=True)]
        parts += ["## Findings", "\n".join(lines)]
    parts += ["## Where it ran", as_text(environment_text(report))]
    return "\n\n".join(part for part in parts if part) + "\n"


def command_text(recommendation: Recommendation) -> str:
    """Return the command of a recommendation, with each option on a line of its own."""
    return recommendation.command.replace(" --set ", " \\\n    --set ")


def critical_text(critical: CriticalBatchResult, unit: str) -> str:
    """Return the critical batch size as sentences; ``unit`` of the experiment."""

    def text(value: float | None) -> str:
        return count(value, unit) if unit == "tokens" else number(value, 3)

    noise = (
        f" The measured noise scale is {count(critical.noise_scale, unit)} {unit}."
        if critical.noise_scale is not None
        else ""
    )
    if critical.value is None:
        return f"The critical batch size is not identifiable: {critical.refusal}{noise}"
    interval = (
        f" ({text(critical.low)} to {text(critical.high)})"
        if critical.low is not None and critical.high is not None
        else ""
    )
    # The public ones count samples, of a language model sequences.
    public = f" {beside_public(critical.value)}" if unit == "samples" else ""
    held_out = (
        f" {held_out_text(critical.held_out, f'batch {count(critical.held_out.place, unit)}', number)}"
        if critical.held_out is not None
        else ""
    )
    return (
        f"The critical batch size is {text(critical.value)} {unit}{interval}: there, a run needs twice the "
        f"{text(critical.fewest_samples)} {unit} that a very small batch needs.{held_out}{noise}"
        f"{public}"
    )


def next_text(found: NextCells) -> str:
    """Return what the cells to run next are for, as a sentence."""
    if not found.cells:
        return "The runs so far leave open:"
    count = plural(found.runs, "more run")
    return f"The runs so far do not decide everything. {count} will probably decide the most important parts:"


def environment_text(report: ExperimentReport) -> str:
    """Return where the cells ran, in which order, and the versions."""
    about = report.environment
    versions = about.get("versions") or {}
    parts = [f"{about.get('host')}", f"{about.get('system')}"]
    if about.get("cpus"):
        parts.append(plural(int(about["cpus"]), "CPU"))
    parts += [f"{name} {version}" for name, version in versions.items() if version]
    if report.search is not None:  # the table of its trials says how they were chosen
        return f"Ran on {', '.join(parts)}."
    seed = f" (seed {report.order_seed})" if report.order_seed is not None else ""
    order = f"Cells ran one after another in random order{seed}, those of one worker group together."
    return f"Ran on {', '.join(parts)}. {order}"


def _next(found: NextCells) -> RenderableType:
    lines: list[RenderableType] = [Text("What to run next", style="bold")]
    lines.append(Text(next_text(found)))
    if found.cells:
        lines.append(Text(printable(found.yaml.rstrip()), style="cyan"))
    if found.cells and found.left_out:
        lines.append(Text(STILL_OPEN))
    lines += [Padding(Text(printable(each), style="dim"), (0, 0, 0, 2)) for each in found.left_out]
    return Group(*lines)


def _sheet(sheet: Sheet) -> RenderableType:
    note = [Text(printable(sheet.note), style="dim")] if sheet.note else []
    if sheet.is_prose:
        lines = [Text(f"{', '.join(row[:-1])}: {row[-1]}") for row in sheet.rows]
        return Group(Text(sheet.title, style="bold"), *note, *(Padding(line, (0, 0, 0, 2)) for line in lines))
    return Group(_Fitting(sheet=sheet), *note)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Fitting:
    """A table, or in a narrow terminal a block for each row."""

    sheet: Sheet

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        rows = [tuple(map(printable, row)) for row in self.sheet.rows]
        for shown in (rows, [self._shortened(row) for row in rows]):
            table = NumberTable(
                head=self.sheet.head,
                sections=((self.sheet.title, tuple(Row(cells=row) for row in shown)),),
                is_last_left=self.sheet.is_last_text,
            )
            if table.least_width + LONGER_NAMES <= options.max_width:
                yield table
                return
        yield Text(self.sheet.title, style="bold")
        for name, *cells in rows:
            yield Padding(Text(name), (0, 0, 0, 2))
            known = [
                f"{head} {cell}" for head, cell in zip(self.sheet.head[1:], cells, strict=True) if cell not in ("", "–")
            ]
            yield Padding(Text(", ".join(known), style="dim"), (0, 0, 0, 4))

    def _shortened(self, row: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(
            cell.partition(" (")[0] if place == self.sheet.droppable and " to " in cell else cell
            for place, cell in enumerate(row)
        )
