"""Writes docs/numbers.md from the definitions of a run's numbers; a test compares the two. `make docs` runs it."""

from pathlib import Path

from scaler.metrics.curves import CURVES
from scaler.report.run.definitions import NUMBERS, Number, evaluation

PAGE = Path(__file__).parent / "numbers.md"

INTRO = """# The numbers of a run

Made from `scaler/report/run/definitions.py` and `scaler/metrics/curves.py` by `make docs`. The report (terminal, HTML,
Markdown, JSON), `scaler compare`, `scaler check` and the notebook take names, units and values from one table:

"""

RULES = """
## Three rules

- **Losses go by weight.** Every mean of losses, over ranks, micro-steps, steps and epochs, is the sum of weight *
  loss over the sum of the weights (`scaler/metrics/means.py`). The weight is the samples; of a loss that returns
  `(sum, weight)` it is that weight. A record's column `weight` has it where it is not the samples.
- **A step's time is the mean over ranks.** Each rank's step lasts from the end of its step before to its own end,
  waiting included, so their sums agree, and the mean is what the wall clock has. The slowest rank of each step is
  not: a rank that ends one step late begins the next one late, and the sum over steps of the slowest would count that
  twice.
- **What is in the weights.** Numbers are of the steps that are in the final weights. Work that a later attempt did
  again is told of as such.

## While it runs

The live display, TensorBoard, MLflow and W&B show the same numbers over a shorter stretch. TensorBoard and the
trackers:

"""

LIVE = """
The live display: `loss` is the mean over ranks of each one's newest step, by weight; `samples/s` is the speed over
the last seconds (5 to 10 s of step time); the values beside them are the last evaluation's.
"""


def page() -> str:
    """Return the page."""
    numbers = [*NUMBERS.values(), evaluation("NAME")]
    rows = ["| name | unit | of | is | in `report.json` |", "|---|---|---|---|---|", *map(_row, numbers)]
    curves = ["| curve | is |", "|---|---|", *(f"| `{name}` | {text} |" for name, text in CURVES.items())]
    return INTRO + "\n".join(rows) + "\n" + RULES + "\n".join(curves) + "\n" + LIVE


def _row(number: Number) -> str:
    return f"| {number.name} | {number.unit} | {number.of} | {number.definition} | `{number.where}` |"


if __name__ == "__main__":
    PAGE.write_text(page())
