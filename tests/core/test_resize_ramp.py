import pytest

from scaler.core.resize_ramp import ResizeRamp
from scaler.errors import PlanError


@pytest.mark.parametrize(
    ("samples", "factor"),
    [
        (0, 1.0),  # before the resize
        (99, 1.0),
        (100, 0.25),  # the old learning rate
        (150, 0.4375),  # a quarter of the way
        (200, 0.625),
        (300, 1.0),  # the new one
        (10**15, 1.0),
    ],
)
def test_a_ramp_climbs_from_the_old_learning_rate_to_the_new_one(samples: int, factor: float) -> None:
    assert ResizeRamp(start=100, stop=300, factor=0.25).at(samples) == factor


def test_a_ramp_survives_json() -> None:
    ramp = ResizeRamp(start=100, stop=300, factor=0.1)
    assert ResizeRamp.from_dict(ramp.to_dict()) == ramp
    assert ResizeRamp.from_dict(None) is None


@pytest.mark.parametrize("wrong", [{"stop": 100}, {"start": -1}, {"factor": 0.0}, {"factor": 1.0}, {"factor": 2.0}])
def test_a_ramp_that_does_not_climb_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(PlanError, match=r"a ramp from .* does not climb\."):
        ResizeRamp(**{"start": 100, "stop": 300, "factor": 0.5, **wrong})
