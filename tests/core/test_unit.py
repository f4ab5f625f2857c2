"""The unit of a job: samples as tokens, and numbers of tokens as text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scaler.core.unit import Unit, require_whole, shown, unit_with
from scaler.errors import PlanError

LONGER = Unit(lengths=((0, 256), (100, 1024), (160, 512)))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (1, "1"),
        (999, "999"),
        (1024, "1,024"),  # below 10,000, every digit
        (9999, "9,999"),
        (10_000, "10k"),
        (16_384, "16.4k"),
        (999_499, "999k"),
        (999_500, "1M"),  # rounded up into the next letter
        (4_194_304, "4.19M"),
        (375_000_000, "375M"),
        (2_000_000_000, "2B"),
        (10**15, "1000T"),
        (12.5, "12.5"),  # a speed
        (999.96, "1,000"),
        (9999.7, "10k"),
    ],
)
def test_tokens_are_written_as_engineers_write_them(value: float, text: str) -> None:
    assert shown(value) == text


def test_a_unit_of_samples_changes_nothing() -> None:
    unit = Unit()
    assert (unit.at(7), unit.size(7), unit.samples_at(7), unit.tokens_per_sample(7)) == (7, 7, 7.0, 1)
    assert (unit.number(12_345), unit.number(12_345, form=""), unit.plural(1)) == ("12,345", "12345", "1 sample")
    assert unit_with(None) == unit


def test_the_place_in_tokens_adds_each_length_up_to_its_end() -> None:
    assert [LONGER.at(samples) for samples in (0, 100, 101, 160, 161)] == [0, 25_600, 26_624, 87_040, 87_552]
    assert LONGER.size(3, at=99) == 768
    assert LONGER.size(3, at=100) == 3072
    assert LONGER.plural(4, at=120) == "4,096 tokens"


@given(st.integers(0, 10**9))
def test_samples_at_is_the_inverse_of_at(samples: int) -> None:
    assert LONGER.samples_at(LONGER.at(samples)) == samples


@pytest.mark.parametrize(
    ("tokens", "problem", "remedy"),
    [
        (
            1000,
            "scale.global_batch_size = 1000 tokens is not a whole number of samples of 64 tokens.",
            "The nearest are 960 and 1024.",
        ),
        (
            32,  # probably samples, by mistake
            "scale.global_batch_size = 32 is below the 64 tokens of one sample: with train.unit = tokens, batch sizes "
            "are in tokens.",
            "For 32 samples, write 2048.",
        ),
    ],
)
def test_a_batch_must_be_a_whole_number_of_samples(tokens: int, problem: str, remedy: str) -> None:
    with pytest.raises(PlanError) as caught:
        require_whole(tokens, 64, key="scale.global_batch_size")
    assert (caught.value.problem, caught.value.remedy) == (problem, remedy)
