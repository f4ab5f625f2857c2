"""Write docs/numbers.md from the definitions of a run's numbers; a test compares the two. `make docs` runs it."""

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

- **Losses are weighted.** Every mean of losses, over ranks, micro-steps, steps and epochs, is the sum of weight * loss
  over the sum of the weights (`scaler/metrics/mean.py`). The weight is the number of samples; for a loss that returns
  `(sum, weight)` it is that weight. If it is not the number of samples, a record has it in the column `weight`.
- **A step's time is the mean over ranks.** A rank's step lasts from the end of its step before to its own end, with the
  wait for other ranks. So the sums of all ranks agree with each other and with the wall clock. The sum over the slowest
  rank of each step does not: a rank that ends one step late begins the next one late, and that time would count twice.
- **Only steps in the final weights count.** Work that a later attempt trained again is reported separately.

## While a run trains

The live display, TensorBoard, MLflow and W&B show the same numbers over a shorter time. TensorBoard and the trackers:

"""

LIVE = """
The live display: `loss` is the weighted mean over ranks of each rank's newest step; `samples/s` is the speed over the
last seconds (5 to 10 s of step time); the values beside them are those of the last evaluation.
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
