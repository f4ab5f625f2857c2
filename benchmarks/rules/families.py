"""What is compared with what: each family is a reference and the arms that shall, or shall not, be equivalent to it."""

from dataclasses import dataclass
from typing import Any, Literal

from train import EPOCHS, SAMPLES, Job, job


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One way to train, compared with the family's reference."""

    name: str
    job: Job
    holds: bool | None  # whether it must pass the family's test, or fail it; None: shown, not judged
    sets_margin: bool = False  # in a family that tracks: the margin is a quarter of the least such control's dlog
    shift: float = 0.0  # epochs later than the reference at which it is looked at


@dataclass(frozen=True, kw_only=True)
class Family:
    """Arms against one reference."""

    title: str
    text: str
    reference: Job
    arms: tuple[Arm, ...]
    margin: float | None = 0.10  # of dlog; None: a quarter of the least dlog of the controls that set it
    checks: Literal["every", "last"] = "every"
    compares: Literal["weights", "average"] = "weights"
    fewest_steps_ratio: float = 0.0  # how many times fewer steps an arm that holds must take


def sgd() -> Family:
    """Linear for SGD at eight times the batch."""
    plain = {"name": "sgd"}

    def arm(rule: str, **more: Any) -> Job:
        return job(batch=64, reference=8, lr=0.05, optimizer=plain, rule=rule, **more)

    deficit = 1.0
    warmup = 2 * deficit / (1 - 1 / 8)
    climbing = arm("linear", epochs=EPOCHS + deficit, checks_every=SAMPLES, schedule={"warmup": {"epochs": warmup}})
    return Family(
        title="SGD, batch 8 to 64",
        text="A warmup of W epochs spends W (1 - 1/k) / 2 epochs' worth of rate: its arm is looked at, and ends, that "
        "much later. W = 16/7 makes it one epoch, so that both are looked at where an epoch ends.",
        reference=job(batch=8, reference=8, lr=0.05, optimizer=plain),
        arms=(
            Arm(name="linear", job=arm("linear"), holds=True),
            Arm(name="linear, 16/7 epochs of warmup, shifted", job=climbing, holds=True, shift=deficit),
            Arm(name="sqrt", job=arm("sqrt"), holds=False),
            Arm(name="none", job=arm("none"), holds=False),
        ),
    )


def average() -> Family:
    """The average of weights at eight times the batch."""
    options = {"batch": 64, "reference": 8, "lr": 0.05, "optimizer": {"name": "sgd"}, "rule": "linear"}
    ema = {"train": {"ema": {"decay": 0.999}}}
    return Family(
        title="EMA of weights, batch 8 to 64 (SGD, linear)",
        text="The loss of the averaged weights, decay 0.999 at the reference.",
        reference=job(batch=8, reference=8, lr=0.05, optimizer={"name": "sgd"}, **ema),
        arms=(
            Arm(name="decay ** k", job=job(**options, **ema, scale={"co_scale": {"ema": True}}), holds=True),
            Arm(name="decay as it is", job=job(**options, **ema), holds=False),
        ),
        checks="last",
        compares="average",
    )


def adam(batch: int, betas: list[float], lr: float) -> Family:
    """The square root for Adam at eight times the batch."""
    optimizer = {"name": "adam", "betas": betas}

    def arm(rule: str) -> Job:
        return job(batch=8 * batch, reference=batch, lr=lr, optimizer=optimizer, rule=rule)

    return Family(
        title=f"Adam, batch {batch} to {8 * batch}",
        text="Tracking, not the best loss, is the question: the linear rule ends lower than the reference here. The "
        "margin is a quarter of what no rule and the linear rule miss by.",
        reference=job(batch=batch, reference=batch, lr=lr, optimizer=optimizer),
        arms=(
            Arm(name="adam_sde: sqrt, betas and eps", job=arm("adam_sde"), holds=True),
            Arm(name="sqrt, betas as they are", job=arm("sqrt"), holds=None),
            Arm(name="none", job=arm("none"), holds=False, sets_margin=True),
            Arm(name="linear", job=arm("linear"), holds=False, sets_margin=True),
        ),
        margin=None,
        checks="last",
    )


def adascale() -> Family:
    """AdaScale at 32 times the batch, where linear with warmup diverges."""
    options = {"batch": 256, "reference": 8, "lr": 0.1, "optimizer": {"name": "sgd"}, "micro": 8}
    warmup = {"warmup": {"fraction": 0.055, "start": 0.0}}
    return Family(
        title="AdaScale, batch 8 to 256 (SGD)",
        text="Progress is counted in the reference's samples. A run ends anywhere in an epoch and at a high rate, so "
        "all are judged by the median of their evaluations in the last epoch; by the very last step alone, the first "
        "measurement gave adascale +0.049 ± 0.117, too wide for the margin. LSW is the linear rule with a warmup of "
        "5.5 % of the steps from 0, as Johnson et al. compare with.",
        reference=job(batch=8, reference=8, lr=0.1, optimizer={"name": "sgd"}, checks_every=SAMPLES // 8),
        arms=(
            Arm(name="adascale", job=job(**options, rule="adascale", checks_every=256), holds=True),
            Arm(
                name="linear with warmup (LSW)",
                job=job(**options, rule="linear", checks_every=256, schedule=warmup),
                holds=False,
            ),
        ),
        margin=0.15,
        checks="last",
        fewest_steps_ratio=2.0,
    )


def growing() -> Family:
    """A growing batch instead of a decaying rate."""
    plain = {"name": "sgd"}
    places = ({"epochs": 6}, {"epochs": 13})
    decayed = {"name": "multi_step", "at": list(places), "decay": 0.25}
    grown = {"name": "points", "points": [{"at": places[0], "factor": 4}, {"at": places[1], "factor": 16}]}
    options = {"batch": 8, "reference": 8, "lr": 0.1, "optimizer": plain}
    return Family(
        title="A growing batch instead of a decaying rate (SGD)",
        text="The rate falls to a quarter at epochs 6 and 13; or it stays, and the batch grows by four there (Smith et "
        "al. 2018). The control does neither.",
        reference=job(**options, schedule=decayed),
        arms=(
            Arm(name="batch x 4 at the same epochs", job=job(**options, scale={"batch_schedule": grown}), holds=True),
            Arm(name="neither", job=job(**options), holds=False),
        ),
        fewest_steps_ratio=2.0,
    )


FAMILIES = {
    "sgd": sgd,
    "average": average,
    "adam1": lambda: adam(1, [0.99, 0.999], 0.0005),
    "adam8": lambda: adam(8, [0.98, 0.998], 0.002),
    "adascale": adascale,
    "growing": growing,
}
