import json
from math import inf, nan
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from scaler.core.plateau import Plateau, PlateauState
from scaler.errors import PlanError


def ours(plateau: Plateau, values: list[float]) -> list[float]:
    state, factors = PlateauState(), []
    for value in values:
        state = plateau.step(state, value)
        factors.append(state.factor)
    return factors


def torchs(plateau: Plateau, values: list[float], *, base_lr: float = 1.0, eps: float = 0.0) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=base_lr)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer,
        mode=plateau.mode,
        factor=plateau.factor,
        patience=plateau.patience,
        threshold=plateau.threshold,
        threshold_mode=plateau.threshold_mode,
        cooldown=plateau.cooldown,
        min_lr=plateau.min_factor * base_lr,
        eps=eps,
    )
    factors = []
    for value in values:
        scheduler.step(value)
        factors.append(optimizer.param_groups[0]["lr"] / base_lr)
    return factors


plateaus = st.builds(
    Plateau,
    mode=st.sampled_from(["min", "max"]),
    factor=st.sampled_from([0.1, 0.3, 0.5, 0.9]),
    patience=st.integers(0, 3),
    threshold=st.sampled_from([0.0, 1e-4, 0.1, 0.5]),
    threshold_mode=st.sampled_from(["rel", "abs"]),
    cooldown=st.integers(0, 3),
    min_factor=st.sampled_from([0.0, 0.05, 0.5, 1.0]),
)
# Few distinct values, so that ties and exact thresholds come up; and what a metric may be when things go wrong.
metrics = st.lists(
    st.sampled_from([-2.0, -1.0, 0.0, 0.5, 0.9, 1.0, 1.1, 2.0, nan, inf, -inf]) | st.floats(), max_size=40
)


@given(plateau=plateaus, values=metrics, base_lr=st.sampled_from([1.0, 0.5, 2.0**-10, 4.0]))
def test_every_factor_is_torchs_to_the_last_bit(plateau: Plateau, values: list[float], base_lr: float) -> None:
    assert ours(plateau, values) == torchs(plateau, values, base_lr=base_lr)


@given(plateau=plateaus, values=metrics, base_lr=st.floats(1e-3, 10.0))
def test_at_any_base_lr_it_is_torchs_but_for_rounding(plateau: Plateau, values: list[float], base_lr: float) -> None:
    assert ours(plateau, values) == pytest.approx(torchs(plateau, values, base_lr=base_lr), rel=1e-12)


def test_torchs_eps_is_a_difference_it_ignores_every_cut_of_a_small_learning_rate() -> None:
    plateau, values = Plateau(patience=0, factor=0.5), [1.0, 1.0, 1.0]
    assert torchs(plateau, values, base_lr=1e-8, eps=1e-8) == [1.0, 1.0, 1.0]
    assert ours(plateau, values) == [1.0, 0.5, 0.25]


@pytest.mark.parametrize(
    ("settings", "values", "factors"),
    [
        ({}, [1.0, 1.0, 1.0], [1.0, 0.5, 0.25]),  # no patience: each evaluation without improvement cuts
        ({"patience": 1}, [1.0, 1.0, 1.0, 1.0, 1.0], [1.0, 1.0, 0.5, 0.5, 0.25]),  # one is let pass, also after a cut
        ({"patience": 1}, [3.0, 3.0, 2.0, 2.0, 1.0], [1.0] * 5),  # an improvement starts the count again
        ({"cooldown": 2}, [1.0, 2.0, 2.0, 2.0, 2.0], [1.0, 0.5, 0.5, 0.5, 0.25]),  # two evaluations of peace
        ({"cooldown": 1}, [3.0, 3.0, 1.0, 2.0], [1.0, 0.5, 0.5, 0.25]),  # the best of a cooldown is remembered
        ({"min_factor": 0.4}, [1.0, 1.0, 1.0, 1.0], [1.0, 0.5, 0.4, 0.4]),  # a floor, reached and kept
        ({"min_factor": 1.0}, [1.0, 1.0], [1.0, 1.0]),  # a floor at the peak: never cut
        ({"threshold": 0.1}, [1.0, 0.95, 0.85], [1.0, 0.5, 0.5]),  # 5 % is not enough, 15 % of the best is
        ({"threshold": 0.1, "threshold_mode": "abs"}, [9.0, 8.95, 8.85], [1.0, 0.5, 0.5]),  # the same in units
        ({"mode": "max"}, [0.5, 0.6, 0.6], [1.0, 1.0, 0.5]),  # accuracy
        ({}, [nan, 1.0, nan], [0.5, 0.5, 0.25]),  # nan is bad and never the best
        ({}, [-1.0, -1.0], [1.0, 1.0]),  # rel below zero: a tie improves, as in torch
        ({"threshold_mode": "abs"}, [-1.0, -1.0], [1.0, 0.5]),  # abs is the way out
        ({}, [], []),  # never evaluated
    ],
)
def test_factors_by_example(settings: dict[str, Any], values: list[float], factors: list[float]) -> None:
    plateau = Plateau(**({"factor": 0.5, "patience": 0} | settings))
    assert ours(plateau, values) == factors
    assert torchs(plateau, values) == factors


@given(plateau=plateaus, values=metrics)
def test_the_factor_never_rises_and_never_falls_below_its_least(plateau: Plateau, values: list[float]) -> None:
    factors = [1.0, *ours(plateau, values)]
    assert factors == sorted(factors, reverse=True)
    assert min(factors) >= plateau.min_factor


def test_a_least_factor_that_was_raised_on_resume_does_not_raise_the_learning_rate() -> None:
    state = PlateauState(best=1.0, factor=0.01)
    assert Plateau(patience=0, min_factor=0.1).step(state, 2.0).factor == 0.01


@given(plateau=plateaus, values=metrics, split=st.integers(0, 40))
def test_a_state_that_goes_through_json_goes_on_as_if_nothing_had_happened(
    plateau: Plateau, values: list[float], split: int
) -> None:
    state, factors = PlateauState(), []
    for index, value in enumerate(values):
        if index == split:
            state = PlateauState.from_dict(json.loads(json.dumps(state.to_dict())))
        state = plateau.step(state, value)
        factors.append(state.factor)
    assert factors == ours(plateau, values)


def test_a_state_is_plain_values() -> None:
    assert PlateauState().to_dict() == {"best": None, "bad": 0, "cooldown_left": 0, "factor": 1.0}


@pytest.mark.parametrize(
    ("setting", "text"),
    [
        ({"mode": "low"}, "plateau.mode = low is not a mode.\n  Modes: min, max."),
        ({"threshold_mode": "pct"}, "plateau.threshold_mode = pct is not a mode.\n  Modes: rel, abs."),
        (
            {"factor": 1.0},
            ("plateau.factor = 1 is not in (0, 1).\n  A cut multiplies the learning rate by it, such as 0.1."),
        ),
        (
            {"factor": 0.0},
            ("plateau.factor = 0 is not in (0, 1).\n  A cut multiplies the learning rate by it, such as 0.1."),
        ),
        (
            {"factor": nan},
            ("plateau.factor = nan is not in (0, 1).\n  A cut multiplies the learning rate by it, such as 0.1."),
        ),
        ({"min_factor": 1.5}, "plateau.min_factor = 1.5 is not in [0, 1].\n  It is a share of peak_lr."),
        ({"patience": -1}, "plateau.patience = -1 is negative.\n  It counts evaluations; 0 means none."),
        ({"cooldown": -2}, "plateau.cooldown = -2 is negative.\n  It counts evaluations; 0 means none."),
        (
            {"threshold": -0.1},
            "plateau.threshold = -0.1 is not a number of 0 or more.\n  Use 0 to count any improvement.",
        ),
        (
            {"threshold": inf},
            "plateau.threshold = inf is not a number of 0 or more.\n  Use 0 to count any improvement.",
        ),
        (
            {"threshold": 1.0},
            "plateau.threshold = 1 is not below 1, which threshold_mode = rel needs.\n"
            "  It is a share of the best value; for a difference use threshold_mode: abs.",
        ),
    ],
)
def test_settings_out_of_range_are_refused(setting: dict[str, Any], text: str) -> None:
    with pytest.raises(PlanError) as caught:
        Plateau(**setting)
    assert str(caught.value) == text
