"""The rows of ``benchmarks/statistics_coverage.py``, with fewer simulations: intervals hold their level."""

import pytest
from statistics_coverage import Row, rows

FITTED = {  # those that fit a curve take 2 to 10 ms a simulation
    "B_crit, 4 batches, n = 3",
    "E_min, 4 batches, n = 3",
    "held-out largest batch, 4 batches, n = 3",
    "B_crit, batches off the curve by 1 times the noise, 6 batches, n = 3",
    "strong amdahl: serial_fraction, n = 3",
    "strong amdahl: held-out 16 workers, n = 3",
    "strong usl: contention, n = 3",
    "strong usl: held-out 16 workers, n = 3",
    "weak gustafson: serial_fraction, n = 3",
    "weak all_reduce: transfer_s, n = 3",
}
ROWS = [row for row in rows() if not row.is_slow]
QUICK = [row for row in ROWS if not row.name.startswith(("B_crit", "E_min", "held-out", "strong", "weak"))]


@pytest.mark.parametrize("row", QUICK, ids=[row.name for row in QUICK])
def test_an_interval_or_a_test_holds_its_level(row: Row) -> None:
    share, error = row.share(600)
    assert share <= row.nominal + 3.5 * error + (0.0 if row.is_limit else 0.02)
    assert row.is_limit or share >= row.nominal - 3.5 * error - 0.02


@pytest.mark.parametrize("name", sorted(FITTED))
def test_an_interval_of_a_fit_holds_its_level(name: str) -> None:
    (row,) = (row for row in ROWS if row.name == name)
    share, error = row.share(100)
    assert abs(share - row.nominal) <= 3.5 * error + 0.02


def test_the_simulation_finds_an_interval_that_is_too_short() -> None:
    (row,) = (row for row in rows() if row.name == "bootstrap over seeds: B_crit, 4 batches, n = 3")
    share, error = row.share(400)  # a tenth of it, because it is slow
    assert share < row.nominal - 1.5 * error
