"""The ``schedule`` section: the share of the peak learning rate over the training; a warmup, then a shape."""

from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from scaler.job.section import MOST, MOST_EPOCHS, TOKENS, Length, Point, Section, name_tag, problem

STEPS = "Optimizer steps at the planned global batch size; in an elastic job, at the reference's."
WARMUP_SHAPE = "linear: a straight line; constant: the start's learning rate, then a jump; cosine: half a cosine wave."


class ReferenceWarmup(Length):
    """The warmup that the reference was tuned with, in exactly one unit."""

    steps: int | None = Field(None, ge=1, le=MOST, description="Optimizer steps of the reference.")
    fraction: float | None = Field(None, gt=0, le=1, description="Share of the whole training, in (0, 1].")
    start: float = Field(0.0, ge=0, le=1, description="Learning rate at the first step, as a share of reference.lr.")
    shape: Literal["linear", "constant", "cosine"] = Field("linear", description=WARMUP_SHAPE)

    @classmethod
    def _units(cls) -> tuple[str, ...]:
        return ("epochs", "steps", "samples", "tokens", "fraction")


class Warmup(Length):
    """The climb to the peak learning rate, in exactly one unit."""

    epochs: float | None = Field(None, ge=0, le=MOST_EPOCHS, description="Passes over the training set; 0: no warmup.")
    steps: int | None = Field(None, ge=0, le=MOST, description=STEPS)
    samples: int | None = Field(None, ge=0, le=MOST, description="Training samples, over all workers.")
    tokens: int | None = Field(None, ge=0, le=MOST, description=TOKENS)
    fraction: float | None = Field(None, ge=0, le=1, description="Share of the whole training, in [0, 1].")
    start: Annotated[
        Annotated[Literal["base"], Tag("<word>")] | Annotated[float, Field(ge=0, le=1), Tag("<share>")],
        Discriminator(lambda value: "<word>" if isinstance(value, str) else "<share>"),
    ] = Field("base", description="Learning rate at the first step: base (reference.lr), or a share of the peak.")
    shape: Literal["linear", "constant", "cosine"] = Field("linear", description=WARMUP_SHAPE)

    @classmethod
    def _units(cls) -> tuple[str, ...]:
        return ("epochs", "steps", "samples", "tokens", "fraction")


class Plateau(Section):
    """torch's ReduceLROnPlateau: its factor multiplies the schedule, and it counts evaluations."""

    metric: str = Field("loss", min_length=1, description="Name of a value that the evaluation returns.")
    mode: Literal["min", "max"] = Field("min", description="min: a smaller value is better; max: a larger one.")
    factor: float = Field(0.1, gt=0, lt=1, description="The learning rate is multiplied by this at each reduction.")
    patience: int = Field(
        10, ge=0, description="Evaluations in a row without improvement that are allowed; the next one is a reduction."
    )
    threshold: float = Field(1e-4, ge=0, description="Smallest change that counts as an improvement.")
    threshold_mode: Literal["rel", "abs"] = Field(
        "rel", description="rel: the threshold is a share of the best value; abs: a difference."
    )
    cooldown: int = Field(0, ge=0, description="Evaluations after a reduction that are not counted.")
    min_factor: float = Field(0.0, ge=0, lt=1, description="Smallest product of all reductions.")

    @model_validator(mode="after")
    def _improvements_are_possible(self) -> Self:
        if self.threshold_mode == "rel" and self.threshold >= 1:
            raise problem(
                f"has threshold = {self.threshold:g} with threshold_mode rel, which needs a share below 1.",
                "Give a share below 1, or threshold_mode: abs.",
            )
        return self


class _Shape(Section):
    name: str  # every kind has its own; it is declared here so that it comes first
    warmup: Annotated[
        Annotated[Literal["auto"], Tag("<word>")] | Annotated[Warmup, Tag("<length>")],
        Discriminator(lambda value: "<word>" if isinstance(value, str) else "<length>"),
    ] = Field(
        "auto",
        description="Climb from the reference's learning rate to the peak. The warmup that the reference was tuned "
        "with is reference.warmup. auto: 5/90 of the training if the learning rate is scaled up (in an elastic job, at "
        "any number of workers) and the shape does not climb itself; otherwise none.",
    )
    plateau: Plateau | None = Field(
        None, description="Lower the learning rate when evaluations stop improving; null: never."
    )


class _Falling(_Shape):
    final_fraction: float = Field(0.0, ge=0, le=1, description="Share of the peak at the end of training.")


class Constant(_Shape):
    """The peak learning rate to the end of training."""

    name: Literal["constant"] = "constant"


class Step(_Shape):
    """Falls by a factor at regular intervals, counted from the start of training."""

    name: Literal["step"]
    every: Point = Field(description="Interval between falls.")
    decay: float = Field(0.1, gt=0, le=1, description="The learning rate is multiplied by this at each fall.")


class MultiStep(_Shape):
    """Falls by a factor at given points, counted from the start of training (Goyal et al. 2017)."""

    name: Literal["multi_step"]
    at: Annotated[tuple[Point, ...], Field(strict=False)] = Field(
        min_length=1, description="Points at which the learning rate falls, in ascending order."
    )
    decay: float = Field(0.1, gt=0, le=1, description="The learning rate is multiplied by this at each fall.")


class Exponential(_Shape):
    """Falls smoothly, by a factor in every interval."""

    name: Literal["exponential"]
    every: Point = Field(Point(epochs=1), description="Interval in which the learning rate falls by decay.")
    decay: float = Field(gt=0, le=1, description="The learning rate is multiplied by this over each interval.")


class Linear(_Falling):
    """Falls on a straight line to the end of training."""

    name: Literal["linear"]


class Polynomial(_Falling):
    """Falls with a power of (1 - progress) to the end of training."""

    name: Literal["polynomial"]
    power: float = Field(1.0, gt=0, le=100, description="Exponent; 1 is a straight line.")


class Cosine(_Falling):
    """Falls on half a cosine wave to the end of training."""

    name: Literal["cosine"]


class CosineRestarts(_Falling):
    """Falls on half a cosine wave and restarts at the peak, repeatedly (SGDR, Loshchilov and Hutter 2017)."""

    name: Literal["cosine_restarts"]
    first: Point = Field(description="Length of the first period.")
    growth: float = Field(
        1.0, ge=1, le=1000, description="Length of each period, divided by that of the period before it."
    )


class _Cycling(_Shape):
    low_momentum: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="Momentum (Adam: beta1) at the highest learning rate; needs high_momentum. null: not cycled.",
    )
    high_momentum: float | None = Field(
        None, ge=0, lt=1, description="Momentum (Adam: beta1) at the lowest learning rate; needs low_momentum."
    )

    @model_validator(mode="after")
    def _momentum_has_both_ends(self) -> Self:
        if (self.low_momentum is None) != (self.high_momentum is None):
            raise problem(
                "has only one of low_momentum and high_momentum.", "Give low_momentum and high_momentum, or neither."
            )
        return self


class Cyclical(_Cycling):
    """Climbs and falls repeatedly, on straight lines (Smith 2017)."""

    name: Literal["cyclical"]
    climb: Point = Field(description="Length of the climb.")
    descent: Point | None = Field(None, description="Length of the descent; null: the same as climb.")
    low: float = Field(ge=0, le=1, description="Share of the peak at the lowest point.")
    mode: Literal["triangular", "triangular2", "exp_range"] = Field(
        "triangular",
        description="triangular: equal cycles; triangular2: each cycle has half the height of the one before; "
        "exp_range: the height falls smoothly by decay.",
    )
    decay: float = Field(
        1.0, gt=0, le=1, description="exp_range only: the height is multiplied by this over one cycle."
    )


class OneCycle(_Cycling):
    """Climbs once and falls to almost 0 (Smith and Topin 2017). The last step has the lowest learning rate."""

    name: Literal["one_cycle"]
    climb: Point = Field(Point(fraction=0.3), description="Length of the climb.")
    start_fraction: float = Field(1 / 25, ge=0, le=1, description="Share of the peak at the first step.")
    final_fraction: float = Field(1 / 25e4, ge=0, le=1, description="Share of the peak at the last step.")
    anneal: Literal["cosine", "linear"] = Field("cosine", description="Form of the climb and of the descent.")


class Wsd(_Falling):
    """Warmup-stable-decay: stays at the peak, then falls at the end of training (Hu et al. 2024)."""

    name: Literal["wsd"]
    tail_length: Point = Field(Point(fraction=0.1), description="Length of the fall at the end of training.")
    tail: Literal["linear", "sqrt", "1-sqrt"] = Field(
        "linear",
        description="Form of the fall, with p from 0 to 1: linear: 1 - p; sqrt: (1 - p) ** 0.5; 1-sqrt: 1 - p ** 0.5.",
    )


class InverseSqrt(_Shape):
    """Falls with one over the root of the samples seen (Vaswani et al. 2017)."""

    name: Literal["inverse_sqrt"]
    timescale: Point | None = Field(
        None, description="Length after which it has fallen to 0.71 of the peak; null: the length of the warmup."
    )


Schedule = (
    Annotated[Constant, Tag("<constant>")]
    | Annotated[Step, Tag("<step>")]
    | Annotated[MultiStep, Tag("<multi_step>")]
    | Annotated[Exponential, Tag("<exponential>")]
    | Annotated[Linear, Tag("<linear>")]
    | Annotated[Polynomial, Tag("<polynomial>")]
    | Annotated[Cosine, Tag("<cosine>")]
    | Annotated[CosineRestarts, Tag("<cosine_restarts>")]
    | Annotated[Cyclical, Tag("<cyclical>")]
    | Annotated[OneCycle, Tag("<one_cycle>")]
    | Annotated[Wsd, Tag("<wsd>")]
    | Annotated[InverseSqrt, Tag("<inverse_sqrt>")]
)


def schedule_tag(value: Any) -> str:
    """Return the tag of a schedule's kind, for pydantic's ``Discriminator``; without a name it is constant."""
    tag = name_tag(value)
    return "<constant>" if tag == "<>" else tag
