"""Render a probe for a terminal and as Markdown, the answer first."""

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.text import Text

from scaler.report.probe.model import (
    CAUTION,
    ProbedPlace,
    ProbeReport,
    answer,
    cost_text,
    headline,
    largest_text,
    paste,
)
from scaler.report.text.format import number, option, percent, printable
from scaler.report.text.markdown import as_code, as_table, as_text
from scaler.report.text.number_table import NumberTable, Row

HEAD = ("at", "samples", "largest batch", "fails", "tolerance", "noise scale")
TRIED = ("batch", "k", "peak lr", "loss", "above the best smaller")


def probe_text(report: ProbeReport) -> RenderableType:
    """Return a probe for a terminal."""
    rows = tuple(Row(cells=place_row(place)) for place in report.places)
    parts: list[RenderableType] = [
        Group(Text.assemble("Probe of ", (printable(report.name), "bold")), Text(headline(report), style="dim")),
        Text(answer(report), style="bold"),
        NumberTable(head=HEAD, sections=(("Largest batch, over the training", rows),)),
    ]
    tried = tuple(
        (f"At {percent(place.share)}", tuple(Row(cells=cells) for cells in tried_rows(place)))
        for place in report.places
    )
    parts += [NumberTable(head=TRIED, sections=tried), Text(cost_text(report.cost))]
    parts += [Text(printable(hint), style="yellow") for hint in report.hints]
    lines = paste(report)
    if lines is not None:
        parts += [Text(lines, style="bold"), Text(CAUTION, style="dim")]
    return Group(*(Padding(part, (0, 0, 1, 0)) for part in parts))


def probe_markdown(report: ProbeReport) -> str:
    """Return a probe as Markdown."""
    parts = [
        f"# Probe of {as_text(report.name)}",
        as_text(answer(report)),
        as_text(f"{headline(report)}."),
        as_table(HEAD, [[as_text(cell) for cell in place_row(place)] for place in report.places]),
        as_text(cost_text(report.cost)),
        "\n".join(f"- {as_text(hint)}" for hint in report.hints),
    ]
    lines = paste(report)
    if lines is not None:
        parts += ["## Batch schedule", as_code(lines), as_text(CAUTION)]
    for place in report.places:
        rows = [[as_text(cell) for cell in cells] for cells in tried_rows(place)]
        parts += [f"## At {percent(place.share)} of the training", as_table(TRIED, rows)]
    return "\n\n".join(part for part in parts if part) + "\n"


def place_row(place: ProbedPlace) -> tuple[str, ...]:
    """Return the cells of a place, in the order of ``HEAD``."""
    return (
        percent(place.share),
        number(place.samples_seen),
        largest_text(place),
        number(place.fails_batch),
        number(place.tolerance, 3),
        number(place.noise_scale, 3),
    )


def tried_rows(place: ProbedPlace) -> list[tuple[str, ...]]:
    """Return the cells of the batches that were tried at a place, in the order of ``TRIED``."""
    rows: list[tuple[str, ...]] = []
    best: float | None = None
    for one in place.tried:
        if one.loss is None:
            loss, above = "diverged", "–"
        else:
            loss, above = number(one.loss), "–" if best is None else f"{one.loss - best:+.2g}"
            best = one.loss if best is None else min(best, one.loss)
        sign = " *" if one.multiple == place.holds else ""
        rows.append((f"{number(one.global_batch_size)}{sign}", number(one.multiple), option(one.lr), loss, above))
    return rows
