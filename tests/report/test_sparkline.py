from math import inf, nan

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scaler.report.text.sparkline import LEVELS, UNKNOWN, WIDTH, sparkline


@pytest.mark.parametrize(
    ("values", "line", "reason"),
    [
        ((), "", "no value, no block"),
        ((None, nan, inf), "···", "what is not finite is not known"),
        ((-1.0, 0.0, 1.0), "▁▅█", "the least is lowest, the greatest highest, whatever their sign"),
        ((5.0,), "▄", "one value is flat"),
        ((1e-300, 1e300), "▁█", "no overflow"),
    ],
)
def test_a_curve_is_a_line_of_blocks(values: tuple[float | None, ...], line: str, reason: str) -> None:
    assert sparkline(values) == line, reason


def test_a_spike_is_kept_where_values_share_a_block() -> None:
    values = [1.0] * 1000
    values[777] = 9.0
    assert sparkline(values).count("█") == 1
    assert sparkline(values, keep=min) == "▄" * WIDTH, "the least of each block"
    assert sparkline([None] * 500 + [1.0] * 500, width=2) == "·▄"


@given(st.lists(st.none() | st.floats(-1e9, 1e9), max_size=300), st.integers(1, 60))
def test_it_has_a_block_a_value_and_no_more_than_the_width(values: list[float | None], width: int) -> None:
    line = sparkline(values, width=width)
    assert len(line) == min(width, len(values))
    assert set(line) <= {*LEVELS, UNKNOWN}
