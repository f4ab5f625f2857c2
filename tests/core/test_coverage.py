"""The rows of ``benchmarks/statistics_coverage.py``, with fewer simulations: intervals hold their level."""

import pytest
from statistics_coverage import Row, rows

SIMULATIONS = 400
ROWS = [row for row in rows() if not row.is_slow]
FITTED = ("B_crit", "E_min", "held-out", "strong", "weak")  # the rows that fit a curve; a part of them is run here
RUN = [
    *(row for row in ROWS if not row.name.startswith(FITTED)),
    *(row for row in ROWS if row.name.startswith(FITTED) and row.name.endswith("n = 3")),
]


@pytest.mark.parametrize("row", RUN, ids=[row.name for row in RUN])
def test_an_interval_or_a_test_holds_its_level(row: Row) -> None:
    simulations = 150 if row.name.startswith(FITTED) else SIMULATIONS
    share, error = row.share(simulations)
    assert share <= row.nominal + 3.5 * error + 0.02
    assert row.is_limit or share >= row.nominal - 3.5 * error - 0.02


def test_the_simulation_finds_an_interval_that_is_too_short() -> None:
    (row,) = (row for row in rows() if row.name == "bootstrap over seeds: B_crit, 4 batches, n = 3")
    share, error = row.share(600)  # of 60 simulations
    assert share < row.nominal - 3 * error
