"""Render a range test as one HTML file: the curve, the suggestions and lines for the job file.

This module computes no number.
"""

from collections.abc import Sequence

from scaler.report.find_lr.summary import CAUTION, NAMES, FoundLrs, carried, headline, lr_text, meaning, paste
from scaler.report.page.chart import Axis, Chart, ChartSet, Line, Mark, are_positive
from scaler.report.page.parts import Cell, Column, Table, Tile
from scaler.report.page.shell import render_page
from scaler.report.text.format import number, option

STYLES = {"steepest": "series-1", "valley": "series-2", "tenth_of_divergence": "series-3"}


def render_range_html(found: FoundLrs) -> str:
    """Return a range test as one HTML document, readable offline, on paper and without its scripts."""
    return render_page(
        "range.html.j2",
        kind="range test",
        subject="Learning-rate range test of a job",
        title=found.name,
        headline=headline(found),
        charts=_charts(found),
        found=found,
        tiles=_tiles(found),
        suggestions=_table(found),
        lines=paste(found),
        caution=CAUTION,
    )


def _tiles(found: FoundLrs) -> list[Tile]:
    batch = f"at batch {number(found.global_batch_size)}"
    tiles = []
    if found.chosen is not None:
        was = f"{NAMES[found.chosen]}; the job has {option(found.base_lr)}"
        times = f"{number(found.lr_ratio)} times that at batch {number(found.reference_batch_size)}"
        tiles.append(Tile(name="suggested reference.lr", value=lr_text(found.reference_lr), note=was))
        tiles.append(Tile(name=batch, value=lr_text(found.suggestions[found.chosen]), note=times))
    diverged = found.diverged_at
    value, note = ("", "not in this range") if diverged is None else (lr_text(diverged), batch)
    return [*tiles, Tile(name="diverged at", value=value, note=note, unknown="the loss did not diverge")]


def _table(found: FoundLrs) -> Table:
    def row(key: str, name: str) -> tuple[Cell | str, ...]:
        style = "strong" if key == found.chosen else ""
        here, there = lr_text(found.suggestions[key]), lr_text(found.reference_suggestions[key])
        return (
            Cell(text=name, sign=STYLES[key], style=style),
            Cell(text=here, style=style),
            Cell(text=there, style=style),
            Cell(text=meaning(found, key), style="quiet"),
        )

    return Table(
        id="suggestions",
        caption=carried(found),
        columns=(
            Column(title="suggestion", is_text=True),
            Column(title=f"at batch {number(found.global_batch_size)}", is_named=True),
            Column(title="reference.lr", is_named=True),
            Column(title="the curve there", is_text=True),
        ),
        rows=tuple(row(key, name) for key, name in NAMES.items()),
        kind="listed",
    )


def _charts(found: FoundLrs) -> ChartSet:
    """The loss of each step and the smoothed loss over the learning rate, with a mark for each suggestion."""
    smoothed = (*found.smoothed, *(None,) * (len(found.lrs) - len(found.smoothed)))
    lines = (
        Line(label="smoothed", clock="steps", style="series-0", values=_short(smoothed)),
        Line(label="each step", clock="steps", style="dots", values=_short(found.losses)),
    )
    is_clipped = any(loss is not None and loss > found.ceiling for loss in found.losses)
    marks = tuple(
        Mark(at={"lr": lr}, label=name, style=STYLES.get(key, "dotted"), value=lr_text(lr), limit=key == "diverged")
        for key, name, lr in (
            *((key, name, found.suggestions[key]) for key, name in NAMES.items()),
            ("diverged", "diverged", found.diverged_at),
        )
        if lr is not None
    )
    chart = Chart(
        id="range",
        title="Loss",
        lines=lines,
        sentences=_sentences(found, marks),
        is_wide=True,
        is_logarithmic=are_positive(lines),
        ceiling=found.ceiling if is_clipped else None,
    )
    axis = Axis(
        name="lr",
        label="learning rate",
        before="at learning rate",
        quantity="number",
        places={"steps": _short(found.lrs)},
        logarithmic=True,
    )
    return ChartSet(charts=(chart,), axes=(axis,), marks=marks)


def _sentences(found: FoundLrs, marks: Sequence[Mark]) -> tuple[str, ...]:
    """The curve and the marks as sentences."""
    losses = found.smoothed
    least = min(losses)
    curve = (
        f"smoothed loss: {number(losses[0])} at learning rate {option(found.lrs[0])}, least {number(least)} at "
        f"{lr_text(found.lrs[losses.index(least)])}, {number(losses[-1])} at {lr_text(found.lrs[len(losses) - 1])}."
    )
    places = ", ".join(f"{mark.label} at {mark.value}" for mark in marks)
    return curve, f"{places}." if places else "the curve suggests no learning rate."


def _short(values: Sequence[float | None]) -> tuple[float | None, ...]:
    """Values to six digits, which is more than a chart shows."""
    return tuple(None if value is None else float(f"{value:.6g}") for value in values)
