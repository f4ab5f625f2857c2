"""The comparisons: each family is a reference and arms that must, or must not, be equivalent to it."""

from dataclasses import dataclass
from typing import Any, Literal

from train import EPOCHS, SAMPLES, Job, job


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One set of settings that is compared with the family's reference."""

    name: str
    job: Job
    holds: bool | None  # whether it must pass the family's test or fail it; None: shown, not judged
    sets_margin: bool = False  # in a family that tracks: the margin is a quarter of the least such control's dlog
    shift: float = 0.0  # it is compared this many epochs later than the reference


@dataclass(frozen=True, kw_only=True)
class Family:
    """A reference and the arms that are compared with it."""

    title: str
    text: str
    reference: Job
    arms: tuple[Arm, ...]
    margin: float | None = 0.10  # of dlog; None: a quarter of the least dlog of the controls that set it
    checks: Literal["every", "last"] = "every"
    compares: Literal["weights", "average"] = "weights"
    fewest_steps_ratio: float = 0.0  # an arm that holds must take this many times fewer steps
    first_seed: int = 0
    paired: tuple[str, str] | None = None  # two arms: does the first end closer to the reference than the second?
    shows_last: bool = False  # also show the very last evaluation, besides the median over the last epoch


SWEEP = (0.05, 0.1, 0.14, 0.2, 0.28, 0.4, 0.57, 0.8, 1.13, 1.6)  # learning rates of the SGD reference
TUNED = 0.8  # the best of them by the final training loss
UNSEEN = 100  # the first of the seeds that no setting was chosen by
WARMUP_DEFICIT = 1.0  # epochs' worth of learning rate that the warmup below costs


def sgd_arm(rule: str, lr: float, **more: Any) -> Job:
    """Return an arm at eight times the batch of the SGD reference with this learning rate."""
    return job(batch=64, reference=8, lr=lr, optimizer={"name": "sgd"}, rule=rule, **more)


def sgd_reference(lr: float) -> Job:
    """Return the SGD reference with this learning rate."""
    return job(batch=8, reference=8, lr=lr, optimizer={"name": "sgd"})


def sgd_with_warmup(lr: float) -> Job:
    """Return the linear rule with a warmup that costs one epoch's worth of learning rate, trained one epoch longer."""
    warmup = {"warmup": {"epochs": 2 * WARMUP_DEFICIT / (1 - 1 / 8)}}
    return sgd_arm("linear", lr, epochs=EPOCHS + WARMUP_DEFICIT, checks_every=SAMPLES, schedule=warmup)


def sgd() -> Family:
    """Linear for SGD at eight times the batch, from a reference of a low learning rate."""
    return Family(
        title="SGD, batch 8 to 64, from a reference at lr 0.05 (not tuned)",
        text="The reference's learning rate is a sixteenth of the best in the sweep. A warmup of W epochs spends "
        "W (1 - 1/k) / 2 epochs' worth of learning rate: its arm is compared, and ends, that much later. W "
        "= 16/7 makes it one epoch, so that both are compared at the end of an epoch.",
        reference=sgd_reference(0.05),
        arms=(
            Arm(name="linear", job=sgd_arm("linear", 0.05), holds=True),
            Arm(
                name="linear, 16/7 epochs of warmup, shifted",
                job=sgd_with_warmup(0.05),
                holds=True,
                shift=WARMUP_DEFICIT,
            ),
            Arm(name="sqrt", job=sgd_arm("sqrt", 0.05), holds=False),
            Arm(name="none", job=sgd_arm("none", 0.05), holds=False),
        ),
    )


def sgd_tuned() -> Family:
    """The same from the reference with the best learning rate of the sweep."""
    lr = TUNED
    adascale = sgd_arm("adascale", lr, micro=8, checks_every=SAMPLES // 4)
    return Family(
        title=f"SGD, batch 8 to 64, from the tuned reference (lr {lr})",
        text="The reference has the lowest training loss of the sweep, and is measured with seeds that the sweep "
        "did not use. It was not known before which rule holds here, so nothing is judged. AdaScale's arm "
        "is compared by its progress.",
        reference=sgd_reference(lr),
        arms=(
            Arm(name="linear", job=sgd_arm("linear", lr), holds=None),
            Arm(
                name="linear, 16/7 epochs of warmup, shifted", job=sgd_with_warmup(lr), holds=None, shift=WARMUP_DEFICIT
            ),
            Arm(name="sqrt", job=sgd_arm("sqrt", lr), holds=None),
            Arm(name="adascale", job=adascale, holds=None),
            Arm(name="none", job=sgd_arm("none", lr), holds=None),
        ),
        first_seed=UNSEEN,
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
            Arm(name="decay unchanged", job=job(**options, **ema), holds=False),
        ),
        checks="last",
        compares="average",
    )


WITH_BETAS, SQRT_ALONE = "adam_sde: sqrt, betas and eps", "sqrt, betas and eps unchanged"


def adam(batch: int, betas: list[float], lr: float, domain: str) -> Family:
    """The square root for Adam at eight times the batch."""
    optimizer = {"name": "adam", "betas": betas}

    def arm(rule: str) -> Job:
        return job(batch=8 * batch, reference=batch, lr=lr, optimizer=optimizer, rule=rule)

    return Family(
        title=f"Adam, batch {batch} to {8 * batch}",
        text="The question is tracking, not the best loss: the linear rule ends lower than the reference here. "
        "The margin is a quarter of the smaller |dlog| of the two controls. " + domain,
        reference=job(batch=batch, reference=batch, lr=lr, optimizer=optimizer),
        arms=(
            Arm(name=WITH_BETAS, job=arm("adam_sde"), holds=True),
            Arm(name=SQRT_ALONE, job=arm("sqrt"), holds=None),
            Arm(name="none", job=arm("none"), holds=False, sets_margin=True),
            Arm(name="linear", job=arm("linear"), holds=False, sets_margin=True),
        ),
        margin=None,
        checks="last",
        first_seed=UNSEEN,
        paired=(WITH_BETAS, SQRT_ALONE),
    )


def adascale() -> Family:
    """AdaScale at 32 times the batch, where linear with warmup diverges."""
    options = {"batch": 256, "reference": 8, "lr": 0.1, "optimizer": {"name": "sgd"}, "micro": 8}
    warmup = {"warmup": {"fraction": 0.055, "start": 0.0}}
    return Family(
        title="AdaScale, batch 8 to 256 (SGD)",
        text="Progress is counted in the reference's samples. A run ends anywhere in an epoch and at a high "
        "learning rate, so all arms are judged by the median of their evaluations in the last epoch. This "
        "endpoint was chosen after a first measurement: by the very last evaluation alone, seeds 0 to 9 "
        "gave adascale +0.049 ± 0.117, too wide for the margin. In that measurement the held-out accuracy "
        "was lower than the reference's by 0.41 ± 0.34 points, which is more than its noise. The table is "
        "measured with other seeds; the line below it has the first endpoint. LSW is the linear rule with a "
        "warmup of 5.5 % of the steps from 0, as Johnson et al. compare with.",
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
        first_seed=UNSEEN,
        shows_last=True,
    )


def growing() -> Family:
    """A growing batch instead of a decaying learning rate."""
    plain = {"name": "sgd"}
    places = ({"epochs": 6}, {"epochs": 13})
    decayed = {"name": "multi_step", "at": list(places), "decay": 0.25}
    grown = {"name": "points", "points": [{"at": places[0], "factor": 4}, {"at": places[1], "factor": 16}]}
    options = {"batch": 8, "reference": 8, "lr": 0.1, "optimizer": plain}
    return Family(
        title="A growing batch instead of a decaying learning rate (SGD)",
        text="The learning rate falls to a quarter at epochs 6 and 13; or it stays constant, and the batch grows "
        "by four at these epochs (Smith et al. 2018). Both keep lr * N / B, with N the samples of an epoch "
        "and B the batch, and at these learning rates the training loss follows lr * N / B alone. So this "
        "tests that learning rates and batches change at the right points and by the right factors. It does "
        "not test the claim of Smith et al. about the gradient's noise. The control changes neither.",
        reference=job(**options, schedule=decayed),
        arms=(
            Arm(name="batch x 4 at the same epochs", job=job(**options, scale={"batch_schedule": grown}), holds=True),
            Arm(name="neither", job=job(**options), holds=False),
        ),
        fewest_steps_ratio=2.0,
    )


INSIDE = (
    "The theory (Malladi et al. 2022) assumes that the gradient's noise is much larger than the gradient: the "
    "batch must be well below the noise scale. The batch of 8 is, by the noise scale measured here."
)
OUTSIDE = (
    "The batch of 64 is not well below the noise scale, as the theory (Malladi et al. 2022) requires: it is "
    "equal to it after one epoch, and a quarter of it at the end. So this is outside the theory's domain."
)

FAMILIES = {
    "sgd": sgd,
    "sgd_tuned": sgd_tuned,
    "average": average,
    "adam1": lambda: adam(1, [0.99, 0.999], 0.0005, INSIDE),
    "adam8": lambda: adam(8, [0.98, 0.998], 0.002, OUTSIDE),
    "adascale": adascale,
    "growing": growing,
}
