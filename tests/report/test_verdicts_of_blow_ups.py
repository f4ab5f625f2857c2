"""Verdicts on runs that blew up, in their first steps or later, and on runs that hardly learned."""

import numpy as np
import pytest
from made_losses import STEPS, codes, found, noisy, with_jump
from made_runs import healthy_loss
from numpy.typing import NDArray

from scaler.report.run.model import Report

# Recorded losses of jobs/digits at learning rates that were far too high.
# reference.lr 3: all 72 steps
HOT = np.fromstring(
    """
2.311 2.247 2.161 2.95 14.84 91.07 589.5 335.4 2.462e+04 163.7 19.32 23.66 23.67 24.45 23.18 14.54 6.95 10.26 12.78
18.9 20.69 18.09 22.61 22.92 27.12 11.46 17.28 18.52 22.64 27.65 37.69 34.78 39.5 27.67 35.97 22.55 20.85 21.82 28.9
24.24 20.8 25.41 28.9 24.62 28.84 20.19 20.06 21.89 18.36 15.89 12.98 19.07 16.07 17.78 14.63 13.45 12.86 8.236 8.013
8.651 7.49 5.426 7.027 5.847 6.404 5.9 5.304 4.296 4.634 4.063 4.221 3.181
""",
    sep=" ",
)
# reference.lr 1: the first 60 of 180 steps; it ended at 2.305
MID = np.fromstring(
    """
2.311 2.281 2.25 2.164 1.922 2.516 11.09 19.91 4.021 64.08 95.89 5.124 5.072 5.241 6.032 6.544 5.354 4.163 3.827 4.501
4.015 3.824 3.774 2.966 5.352 4.09 3.316 4.416 4.357 3.758 3.463 3.082 3.599 3.517 3.487 3.134 3.545 2.828 3.103 3.292
2.917 3.298 2.622 2.893 2.818 2.739 2.934 3.107 2.461 2.953 2.865 2.704 2.66 2.729 2.836 2.962 2.477 2.775 2.871 3.013
""",
    sep=" ",
)
# reference.lr 0.4: the first 80 of 675 steps; it ended at 2.303
WARM = np.fromstring(
    """
2.309 2.295 2.31 2.275 2.246 2.161 2.19 1.956 1.94 1.678 1.619 1.718 1.723 1.64 1.525 0.8439 1.075 0.6558 1.223 0.9435
0.8013 0.8156 0.787 0.9585 1.306 3.223 3.274 2.046 1.551 2.045 2.138 4.399 2.399 2.236 2.511 2.518 2.617 4.734 5.337
2.111 3.507 2.784 2.107 2.097 2.281 2.021 1.97 2.138 1.983 1.958 2.267 2.09 1.891 3.129 2.35 2.618 3.163 2.822 3.395
2.889 3.028 2.472 2.895 2.489 2.611 2.785 2.678 2.495 2.622 2.74 2.482 2.681 2.453 2.348 2.516 2.384 2.396 2.243 2.219
2.639
""",
    sep=" ",
)


def settled(losses: NDArray[np.float64], level: float, steps: int) -> NDArray[np.float64]:
    """Return recorded losses, continued by an exponential approach to ``level``."""
    rest = np.arange(steps - len(losses))
    tail = level + (np.mean(losses[-10:]) - level) * np.exp(-rest / 20.0)
    return np.concatenate((losses, noisy(tail, share=0.02)))


def climbing(steps: int, warmup: int) -> NDArray[np.float64]:
    """Return learning rates that climb from an eighth of the peak, then fall in a line to 0."""
    place = np.arange(steps)
    return np.where(place < warmup, 1.0 + 7.0 * place / warmup, 8.0 * (steps - place) / (steps - warmup))


def test_a_run_that_blew_up_in_its_first_steps_and_learned_nothing(sound: Report) -> None:
    (verdict,) = found(sound, settled(MID, 2.305, 180), lr=climbing(180, 24), warmup=24)
    assert verdict.code == "lr_too_high"
    assert verdict.message == (
        "The learning rate is probably too high: the loss jumped 1 time while the learning rate rose, and ended "
        "no lower than it began."
    )
    assert verdict.evidence.startswith("at 160 samples from 2.186 to 6.288, back after ")
    assert "; 2.186 at the start and 2.3" in verdict.evidence


def test_a_fall_after_a_blow_up_is_not_still_falling(sound: Report) -> None:
    assert codes(found(sound, HOT, lr=climbing(72, 24), warmup=24)) == ["lr_too_high"]


@pytest.mark.parametrize("at", range(1, 25))
def test_a_loss_that_jumps_in_its_first_steps_and_stays_there(sound: Report, at: int) -> None:
    loss = noisy(np.where(np.arange(STEPS) < at, 2.3, 10.0), share=0.02)
    (verdict,) = found(sound, loss)
    assert verdict.code == "lr_too_high"
    assert verdict.message.endswith("ended no lower than it began.")
    assert "not back at the end (9.9" in verdict.evidence


def test_a_jump_in_the_first_steps_that_came_back_blames_the_warmup(sound: Report) -> None:
    loss = noisy(with_jump(healthy_loss(STEPS), 5, height=4.0), share=0.02)
    assert codes(found(sound, loss)) == ["warmup_too_short"]
    assert codes(found(sound, loss, lr_ratio=1.0)) == ["loss_spiked"]


@pytest.mark.parametrize(("height", "is_found"), [(0.5, False), (1.3, True)])  # 0.2 and 0.6 of the first loss, at least
def test_a_jump_in_the_first_steps_is_a_share_of_the_first_loss(sound: Report, height: float, is_found: bool) -> None:
    loss = noisy(with_jump(np.interp(np.arange(STEPS), [0, 200], [2.3, 0.5]), 5, height=height), share=0.002)
    assert ("warmup_too_short" in codes(found(sound, loss))) == is_found


def test_a_run_that_lost_all_progress_names_the_losses(sound: Report) -> None:
    loss = settled(WARM, 2.303, 675)
    verdict = found(sound, loss, lr=climbing(675, 180), warmup=180)[0]
    assert verdict.code == "lr_too_high"
    assert verdict.message.endswith("jumped 1 time while the learning rate rose, and ended no lower than it began.")
    assert "not back at the end (2.3" in verdict.evidence
    assert "at the start and 2.3" in verdict.evidence


def test_a_late_jump_that_does_not_come_back(sound: Report) -> None:
    loss = noisy(with_jump(healthy_loss(STEPS), 300, height=0.6, steps=STEPS), share=0.02)
    verdict = found(sound, loss)[0]
    assert verdict.message == (
        "The learning rate is probably too high: the loss jumped 1 time at high learning rates, and did not come back."
    )
    assert "not back at the end (1.1" in verdict.evidence


@pytest.mark.parametrize(
    ("fall", "message"),
    [
        (0.0, "The loss did not fall."),
        (0.008, "The loss hardly fell."),
        (0.017, "The loss hardly fell."),
        (0.06, None),
    ],
)
def test_a_fall_is_significant_and_a_share_of_the_loss(sound: Report, fall: float, message: str | None) -> None:
    loss = noisy(2.309 * (1.0 - fall * np.arange(STEPS) / STEPS), share=0.002)
    plateaus = [verdict for verdict in found(sound, loss) if verdict.code == "loss_plateaued"]
    assert [verdict.message for verdict in plateaus] == ([message] if message else [])
    assert "loss_still_falling" not in codes(found(sound, loss)) or not message
