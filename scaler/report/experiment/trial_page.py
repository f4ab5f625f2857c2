"""The page of a search: its figures at a glance. This module computes no number."""

from scaler.report.experiment.trial_model import SearchResult
from scaler.report.page.parts import Tile
from scaler.report.text.format import number, percent


def trial_tiles(search: SearchResult, metric: str) -> list[Tile]:
    """Return the figures that open the page of a search."""
    best = next((row for row in search.trials if row.trial == search.best), None)
    ended = sum(row.ended is not None for row in search.trials)
    tiles = [
        Tile(name="trials", value=f"{ended}", note=f"of {search.asked or len(search.trials):,}; {search.scheduler}"),
        Tile(name="samples", value=percent(search.share), note="of those to the ends of all trials"),
    ]
    if best is not None:
        tiles.insert(0, Tile(name=f"best {metric}", value=number(best.last), note=best.label))
    return tiles
