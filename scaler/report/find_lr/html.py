"""A range test as one HTML file that needs nothing else: the curve, the suggestions, what to paste into the job file.

No number is computed here. The curve is told twice: as a curve, and as a sentence.
"""

from typing import Any

from scaler.report.find_lr.summary import CAUTION, NAMES, FoundRates, carried, headline, meaning, paste, rate
from scaler.report.page.shell import CHART_LIBRARY, PAGE_STYLES, render_page
from scaler.report.text.format import number

STYLES = (*PAGE_STYLES, "plan.css", "range.css")
SCRIPTS = (CHART_LIBRARY, "numbers.js", "drawing.js", "range.js")


def render_range_html(found: FoundRates) -> str:
    """Return a range test as one HTML document, readable offline, on paper and without its script."""
    return render_page(
        "range.html.j2",
        styles=STYLES,
        scripts=SCRIPTS,
        found=found,
        headline=headline(found),
        rows=[
            (key, name, rate(found.suggestions[key]), rate(found.reference_suggestions[key]), meaning(found, key))
            for key, name in NAMES.items()
        ],
        marks=_marks(found),
        sentences=_sentences(found),
        carried=carried(found),
        lines=paste(found),
        caution=CAUTION,
        names=NAMES,
        rate=rate,
        data=_data(found),
    )


def _marks(found: FoundRates) -> list[dict[str, Any]]:
    """Upright lines, by what they are called; range.css has a colour and range.js a dash for each key."""
    places = [(key, name, found.suggestions[key]) for key, name in NAMES.items()]
    places.append(("diverged", "diverged", found.diverged_at))
    return [{"key": key, "label": name, "lr": lr, "text": rate(lr)} for key, name, lr in places if lr is not None]


def _sentences(found: FoundRates) -> list[str]:
    """The curve in words."""
    losses = found.smoothed
    least = min(losses)
    curve = (
        f"smoothed loss: {number(losses[0])} at rate {found.lrs[0]:g}, least {number(least)} at "
        f"{rate(found.lrs[losses.index(least)])}, {number(losses[-1])} at {rate(found.lrs[len(losses) - 1])}."
    )
    marks = ", ".join(f"{mark['label']} at {mark['text']}" for mark in _marks(found))
    return [curve, f"{marks}." if marks else "it suggests nothing."]


def _data(found: FoundRates) -> dict[str, Any]:
    """What range.js draws, to six digits."""

    def short(value: float | None) -> float | None:
        return None if value is None else float(f"{value:.6g}")

    return {
        "lrs": [short(lr) for lr in found.lrs],
        "losses": [short(loss) for loss in found.losses],
        "smoothed": [short(loss) for loss in found.smoothed],
        "ceiling": short(found.ceiling),
        "marks": _marks(found),
    }
