"""Verdicts on loss, learning rate and data: found above a threshold, and not below it or in noise."""

from typing import Any

import numpy as np
import pytest
from made_events import make_event
from made_losses import STEPS, codes, found, noisy, with_jump
from made_runs import SAMPLES, healthy_loss, step_arrays_of, steps_of, warmup_cosine, with_noise
from numpy.typing import NDArray
from synthetic import DIGITS, SYNTHETIC_JOB, evidence_of

from scaler.job import load_job
from scaler.plan.range_test import range_job, range_plan
from scaler.report.run.model import Report
from scaler.report.run.verdicts import find_verdicts
from scaler.report.run.verdicts.curve import FEWEST_STEPS
from scaler.report.run.verdicts.data import FEWEST_STEPS as FEWEST_OF_DATA
from scaler.runs import RunState


def test_a_loss_that_jumped_and_came_back(sound: Report) -> None:
    # Late and at a low learning rate, which is not to blame.
    loss = with_jump(healthy_loss(STEPS), 380, height=1.0, steps=10)
    (verdict,) = found(sound, loss, lr=warmup_cosine(STEPS))
    assert (verdict.code, verdict.message) == ("loss_spiked", "The loss jumped 1 time, and came back.")
    assert verdict.evidence.startswith("at 12,0")
    assert "back after" in verdict.evidence


def test_a_loss_that_has_not_come_back_says_so(sound: Report) -> None:
    loss = with_jump(healthy_loss(STEPS), 380, height=1.0, steps=20)
    verdict = found(sound, loss, lr=warmup_cosine(STEPS))[0]
    assert verdict.message == "The loss jumped 1 time, and had not come back at the end."
    assert "not back at the end" in verdict.evidence


@pytest.mark.parametrize(("share", "is_found"), [(0.08, False), (0.13, True)])
def test_a_jump_undoes_a_tenth_of_the_fall(sound: Report, share: float, is_found: bool) -> None:
    level = healthy_loss(STEPS)
    height = share * (level[:20].mean() - level[-20:].mean())
    loss = noisy(with_jump(level, 380, height=float(height), steps=15), share=0.002)
    assert ("loss_spiked" in codes(found(sound, loss, lr=warmup_cosine(STEPS)))) == is_found


@pytest.mark.parametrize(("height", "is_found"), [(0.3, False), (3.0, True)])
def test_a_jump_is_beyond_the_noise(sound: Report, height: float, is_found: bool) -> None:
    loss = noisy(with_jump(healthy_loss(STEPS), 380, height=height, steps=15), share=0.5, seed=3)
    assert ("loss_spiked" in codes(found(sound, loss, lr=warmup_cosine(STEPS)))) == is_found


@pytest.mark.parametrize("level", [10.8, 7.2])  # chance among 50,000 tokens, and their frequencies
@pytest.mark.parametrize("ramp", [1, 100])
def test_a_language_model_that_falls_back_to_chance_is_a_verdict(sound: Report, level: float, ramp: int) -> None:
    steps = np.arange(STEPS)
    good = 3.0 + 7.8 * np.exp(-steps / 30)
    share = np.clip((steps - 250) / ramp, 0.0, 1.0)
    loss = noisy(good * (1 - share) + level * share, share=0.02)
    assert "lr_too_high" in codes(found(sound, loss))
    falling = 0.05 * (1 + np.cos(np.pi * steps / STEPS))
    assert "loss_spiked" in codes(found(sound, loss, lr=falling))


def test_jumps_at_a_high_learning_rate_blame_it(sound: Report) -> None:
    level = healthy_loss(STEPS)
    twice = with_jump(with_jump(level, 150, height=1.0), 250, height=1.0)
    (verdict,) = found(sound, twice)
    assert verdict.code == "lr_too_high"
    assert verdict.message == "The learning rate is probably too high: the loss jumped 2 times at high learning rates."
    # A single jump that came back at the same learning rate is a spike.
    assert codes(found(sound, with_jump(level, 150, height=1.0))) == ["loss_spiked"]


def test_a_jump_that_ended_when_the_learning_rate_fell_blames_it(sound: Report) -> None:
    lr = np.where(np.arange(STEPS) < 170, 0.1, 0.01)
    loss = with_jump(healthy_loss(STEPS), 150, height=1.0, steps=25)
    assert codes(found(sound, loss, lr=lr)) == ["lr_too_high"]
    later = np.where(np.arange(STEPS) < 190, 0.1, 0.01)  # the loss was back before
    assert codes(found(sound, loss, lr=later)) == ["loss_spiked"]


def test_a_loss_that_rises_at_the_highest_learning_rate_blames_it(sound: Report) -> None:
    place = np.arange(STEPS)
    lr = np.where(place < 200, 0.1, 0.01)
    loss = np.where(place < 40, 2.3 - place / 40, np.where(place < 200, 1.3 + (place - 40) / 400, 0.8))
    verdicts = found(sound, noisy(loss, share=0.01), lr=lr)
    assert "lr_too_high" not in codes(verdicts)  # it fell, then rose: no trend over all these steps
    rising = np.where(place < 10, 2.3, np.where(place < 200, 1.3 + place / 400, 0.8))
    warm = np.where(place < 40, 0.05, lr)
    verdicts = found(sound, noisy(rising, share=0.01), lr=warm)
    assert "lr_too_high" in codes(verdicts)
    falling = np.where(place < 200, 1.3 - place / 400, 0.8)
    assert "lr_too_high" not in codes(found(sound, noisy(falling, share=0.01), lr=warm))


def test_a_jump_after_the_warmup_that_came_back_blames_the_warmup(sound: Report) -> None:
    lr = np.minimum((np.arange(STEPS) + 1) / 40, 1.0) * 0.1
    loss = with_jump(healthy_loss(STEPS), 45, height=1.0, steps=15)
    (verdict,) = found(sound, loss, lr=lr, warmup=40)
    assert verdict.code == "warmup_too_short"
    assert verdict.message == (
        "The warmup is probably too short: the loss jumped after a warmup of 1,280 samples, and came back at the "
        "same learning rate."
    )
    assert verdict.evidence.endswith("the peak learning rate is 4 times the reference's")
    # At the reference's learning rate no warmup is needed; a later jump is not the warmup's.
    assert codes(found(sound, loss, lr=lr, warmup=40, lr_ratio=1.0)) == ["loss_spiked"]
    late = with_jump(healthy_loss(STEPS), 70, height=1.0, steps=15)
    assert codes(found(sound, late, lr=lr, warmup=40)) == ["loss_spiked"]


def flat_after(part: float, *, slope: float = 0.0, steps: int = STEPS) -> NDArray[np.float64]:
    """A loss that falls by 1 up to a part of the steps, and by ``slope`` over the rest."""
    place = np.arange(steps) / steps
    return 2.0 - np.minimum(place / part, 1.0) - slope * np.maximum(place - part, 0.0) / (1.0 - part)


def test_a_loss_without_progress_at_a_high_learning_rate(sound: Report) -> None:
    (verdict,) = found(sound, noisy(flat_after(0.4), share=0.01))
    assert verdict.code == "loss_plateaued"
    assert verdict.message == (
        "The loss made no progress over the last 50% of the steps, at a learning rate that was not low."
    )
    assert verdict.evidence.startswith("from 1.9")
    assert verdict.evidence.endswith("at a mean learning rate of 0.1")


def test_a_loss_that_falls_a_little_is_no_plateau(sound: Report) -> None:
    assert found(sound, noisy(flat_after(0.4, slope=0.04), share=0.01)) == ()


def test_noise_that_could_hide_progress_is_no_plateau(sound: Report) -> None:
    assert found(sound, noisy(flat_after(0.4), share=1.0)) == ()


@pytest.mark.parametrize(("low_lr", "is_found"), [(0.012, True), (0.008, False)])
def test_a_plateau_at_a_low_learning_rate_is_no_verdict(sound: Report, low_lr: float, is_found: bool) -> None:
    lr = np.where(np.arange(STEPS) < STEPS // 2, 0.1, low_lr)
    assert codes(found(sound, noisy(flat_after(0.4), share=0.01), lr=lr)) == (["loss_plateaued"] if is_found else [])


def test_a_loss_that_never_fell(sound: Report) -> None:
    (verdict,) = found(sound, noisy(np.full(STEPS, 2.3), share=0.01))
    assert (verdict.code, verdict.message) == ("loss_plateaued", "The loss did not fall.")


def test_a_run_that_has_not_ended_is_not_judged_by_its_end(sound: Report) -> None:
    assert codes(found(sound, noisy(flat_after(0.4), share=0.01), state=RunState.RUNNING)) == ["not_finished"]
    assert codes(found(sound, straight(0.5), state=RunState.RUNNING)) == ["not_finished"]


def straight(fall: float, steps: int = STEPS) -> NDArray[np.float64]:
    """A loss that falls in a straight line to the end, from 2."""
    return noisy(2.0 * (1.0 - fall * np.arange(steps) / steps), share=0.01)


def test_a_loss_that_was_still_falling(sound: Report) -> None:
    (verdict,) = found(sound, straight(0.5))
    assert verdict.code == "loss_still_falling"
    assert verdict.evidence.startswith("in the last 20% of the steps it fell by ")


@pytest.mark.parametrize(("end", "is_found"), [(0.03, False), (0.08, True)])
def test_a_fall_at_the_end_counts_from_a_twentieth(sound: Report, end: float, is_found: bool) -> None:
    place = np.arange(STEPS) / STEPS
    loss = np.interp(place, [0.0, 0.4, 0.8, 1.0], [2.0, 1.2, 1.0 + end, 1.0])
    assert codes(found(sound, noisy(loss, share=0.002))) == (["loss_still_falling"] if is_found else [])


def test_too_few_steps_have_no_verdict_on_the_loss(sound: Report) -> None:
    assert found(sound, straight(0.5, FEWEST_STEPS - 1)) == ()
    assert codes(found(sound, straight(0.5, FEWEST_STEPS))) == ["loss_still_falling"]


def test_a_small_steady_fall_may_need_a_higher_learning_rate(sound: Report) -> None:
    verdicts = found(sound, straight(0.15))
    assert codes(verdicts) == ["loss_still_falling", "lr_maybe_too_low"]
    assert verdicts[1].message.startswith("The learning rate may be too low, or the training far too short")
    assert codes(found(sound, straight(0.25))) == ["loss_still_falling"]  # a larger fall
    # With a cosine the fall is judged over the summed lr: the loss is flat at the end, but steady over that sum.
    lr = warmup_cosine(STEPS)
    done = np.cumsum(lr) / lr.sum()
    assert "lr_maybe_too_low" in codes(found(sound, noisy(2.0 - 0.3 * done, share=0.002), lr=lr))
    slowing = noisy(2.0 - 0.3 * done**0.5, share=0.002)
    assert "lr_maybe_too_low" not in codes(found(sound, slowing, lr=lr))


def test_a_learning_rate_is_never_too_high_and_too_low(sound: Report) -> None:
    loss = with_jump(with_jump(straight(0.15), 150, height=1.0), 250, height=1.0)
    verdicts = codes(found(sound, loss))
    assert "lr_too_high" in verdicts
    assert "lr_maybe_too_low" not in verdicts


def evaluated(*values: float) -> list[dict[str, Any]]:
    every = STEPS * 2 * SAMPLES // len(values)
    return [
        make_event("evaluated", samples_seen=every * (index + 1), values={"loss": value})
        for index, value in enumerate(values)
    ]


OVERFIT = (2.0, 1.5, 1.2, 1.0, 1.1, 1.2, 1.3, 1.4)


def test_an_evaluation_that_gets_worse_while_the_training_gets_better(sound: Report) -> None:
    (verdict,) = found(sound, straight(0.9), events=evaluated(*OVERFIT))
    assert verdict.code == "overfitting"
    assert verdict.evidence == (
        "evaluation loss 1 at 6,400 samples, and 1.4 at 12,800 samples; the training loss fell meanwhile"
    )


def test_the_advice_for_a_run_that_overfits_is_not_to_train_for_longer(sound: Report) -> None:
    """The loss of this training alone has the verdict ``lr_maybe_too_low``."""
    assert codes(found(sound, straight(0.15), events=evaluated(*OVERFIT))) == ["overfitting"]


@pytest.mark.parametrize(
    "values",
    [
        (2.0, 1.5, 1.2, 1.0, 1.02, 1.05, 1.09, 1.09),  # worse by less than a tenth of the fall
        (2.0, 1.5, 1.2, 1.0, 1.4, 1.05, 1.4, 1.4),  # as noisy as it is worse
        (2.0, 1.5, 1.2, 1.1, 1.05, 1.0, 1.3, 1.4),  # only two after the best
        (2.0, 1.0, 1.1, 1.2, 1.3),  # too few
    ],
)
def test_an_evaluation_that_does_not_get_worse_enough(sound: Report, values: tuple[float, ...]) -> None:
    assert "overfitting" not in codes(found(sound, straight(0.9), events=evaluated(*values)))


def test_a_training_loss_that_rises_too_is_no_overfitting(sound: Report) -> None:
    loss = noisy(np.interp(np.arange(STEPS), [0, 200, STEPS], [2.0, 1.0, 1.4]), share=0.01)
    assert "overfitting" not in codes(found(sound, loss, events=evaluated(*OVERFIT)))


def uneven(*offsets: float, steps: int = STEPS, share: float = 0.3, seed: int = 1) -> NDArray[np.float64]:
    losses = with_noise(healthy_loss(steps), len(offsets), share, np.random.default_rng(seed))
    return losses * (1.0 + np.array(offsets))


def test_a_rank_whose_loss_differs_from_the_others(sound: Report) -> None:
    (verdict,) = found(sound, uneven(0.0, 0.0, 0.4, 0.0))
    assert (verdict.code, verdict.rank) == ("uneven_data", 2)
    assert verdict.message == "The loss of rank 2 differs from the others' by more than chance."
    assert "rank 2 by +" in verdict.evidence
    assert "rank 0" not in verdict.evidence


def test_of_two_ranks_neither_is_named(sound: Report) -> None:
    (verdict,) = found(sound, uneven(0.0, 0.4))
    assert (verdict.code, verdict.rank) == ("uneven_data", None)
    assert verdict.message == "The losses of the two ranks differ by more than chance."


def test_a_significant_but_small_difference_is_no_verdict(sound: Report) -> None:
    assert found(sound, uneven(0.0, 0.0, 0.05, 0.0, share=0.01)) == ()
    assert codes(found(sound, uneven(0.0, 0.0, 0.08, 0.0, share=0.01))) == ["uneven_data"]


def test_a_difference_that_may_be_chance_is_no_verdict(sound: Report) -> None:
    assert found(sound, uneven(0.0, 0.0, 0.15, 0.0, share=1.0)) == ()


def test_too_few_steps_have_no_verdict_on_the_data(sound: Report) -> None:
    few = uneven(0.0, 0.0, 0.4, 0.0, steps=FEWEST_OF_DATA - 1, share=0.05)
    assert found(sound, few) == ()
    enough = uneven(0.0, 0.0, 0.4, 0.0, steps=FEWEST_OF_DATA, share=0.05)
    assert codes(found(sound, enough)) == ["uneven_data"]


def test_a_loss_that_is_not_finite_ends_the_curve(sound: Report) -> None:
    loss = straight(0.5)
    loss[-1] = np.nan
    assert found(sound, loss) == ()


def test_a_range_test_has_no_verdict_on_its_loss(sound: Report) -> None:
    loss = with_jump(with_jump(healthy_loss(STEPS), 150, height=1.0), 250, height=1.0)
    assert codes(found(sound, loss)) == ["lr_too_high"]
    job = range_job(load_job(DIGITS, overrides=SYNTHETIC_JOB), steps=STEPS)
    plan = range_plan(job, lowest=1e-5, highest=10.0, spacing="exponential", num_samples=100, parameters=None)
    arrays = step_arrays_of(steps_of(STEPS, loss=loss[:, None]))
    assert find_verdicts(evidence_of(sound, arrays=arrays, plan=plan)) == ()
