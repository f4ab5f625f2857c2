"""The share of the peak rate over the training: a warmup, then one of these shapes."""

from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from scaler.job.section import MOST, MOST_EPOCHS, Length, Point, Section, name_tag, problem

STEPS = "Optimizer steps at the planned global batch size; of an elastic job, steps of the reference."


class ReferenceWarmup(Length):
    """The warmup that the reference was tuned with, in exactly one unit."""

    steps: int | None = Field(None, ge=1, le=MOST, description="Optimizer steps of the reference.")
    fraction: float | None = Field(None, gt=0, le=1, description="Share of the whole training.")
    start: float = Field(0.0, ge=0, le=1, description="Where the climb starts, as a share of reference.lr.")
    shape: Literal["linear", "constant", "cosine"] = Field(
        "linear", description="linear; constant: the start's learning rate, then a jump; cosine: half a wave."
    )

    @classmethod
    def _units(cls) -> tuple[str, ...]:
        return ("epochs", "steps", "samples", "fraction")


class Warmup(Length):
    """A climb to the peak rate, in exactly one unit."""

    epochs: float | None = Field(
        None, ge=0, le=MOST_EPOCHS, description="Passes over the training set; 0 means no warmup."
    )
    steps: int | None = Field(None, ge=0, le=MOST, description=STEPS)
    samples: int | None = Field(None, ge=0, le=MOST, description="Samples over all workers.")
    fraction: float | None = Field(None, ge=0, le=1, description="Share of the whole training.")
    start: Annotated[
        Annotated[Literal["base"], Tag("<word>")] | Annotated[float, Field(ge=0, le=1), Tag("<share>")],
        Discriminator(lambda value: "<word>" if isinstance(value, str) else "<share>"),
    ] = Field("base", description="Where the climb starts: base (the reference's rate), or a share of the peak.")
    shape: Literal["linear", "constant", "cosine"] = Field(
        "linear", description="linear; constant: the start's rate, then a jump; cosine: half a wave."
    )

    @classmethod
    def _units(cls) -> tuple[str, ...]:
        return ("epochs", "steps", "samples", "fraction")


class Plateau(Section):
    """torch's ReduceLROnPlateau over evaluations, on top of the schedule."""

    metric: str = Field("loss", min_length=1, description="Which value of the evaluation.")
    mode: Literal["min", "max"] = Field("min", description="Whether less or more is better.")
    factor: float = Field(0.1, gt=0, lt=1, description="What the rate is multiplied by.")
    patience: int = Field(10, ge=0, description="Evaluations without improvement that are borne.")
    threshold: float = Field(1e-4, ge=0, description="An improvement smaller than this does not count.")
    threshold_mode: Literal["rel", "abs"] = Field("rel", description="Of the best value, or as it is.")
    cooldown: int = Field(0, ge=0, description="Evaluations after a change that are not counted.")
    min_factor: float = Field(0.0, ge=0, lt=1, description="The smallest product of all changes.")

    @model_validator(mode="after")
    def _improvements_are_possible(self) -> Self:
        if self.threshold_mode == "rel" and self.threshold >= 1:
            raise problem(f"has threshold = {self.threshold:g} of the best value.", "Give a share below 1, or abs.")
        return self


class _Shape(Section):
    name: str  # each kind says its own; here, so that it comes first
    warmup: Annotated[
        Annotated[Literal["auto"], Tag("<word>")] | Annotated[Warmup, Tag("<length>")],
        Discriminator(lambda value: "<word>" if isinstance(value, str) else "<length>"),
    ] = Field(
        "auto",
        description="The climb from the reference's learning rate to the peak; the reference's own warmup is "
        "reference.warmup. auto: 5/90 of the training if the learning rate is scaled up (at any number of workers, in "
        "an elastic job) and the shape does not climb by itself; else none.",
    )
    plateau: Plateau | None = Field(None, description="Lower the rate when an evaluation stops getting better.")


class _Falling(_Shape):
    final_fraction: float = Field(0.0, ge=0, le=1, description="Share of the peak at the end.")


class Constant(_Shape):
    """The peak rate to the end."""

    name: Literal["constant"] = "constant"


class Step(_Shape):
    """Falls by a factor at regular intervals, counted from the start of training."""

    name: Literal["step"]
    every: Point = Field(description="How often it falls.")
    decay: float = Field(0.1, gt=0, le=1, description="What each fall multiplies the rate by.")


class MultiStep(_Shape):
    """Falls by a factor at listed points, counted from the start of training (Goyal et al. 2017)."""

    name: Literal["multi_step"]
    at: Annotated[tuple[Point, ...], Field(strict=False)] = Field(min_length=1, description="In ascending order.")
    decay: float = Field(0.1, gt=0, le=1, description="What each fall multiplies the rate by.")


class Exponential(_Shape):
    """Falls smoothly by a factor in every interval."""

    name: Literal["exponential"]
    every: Point = Field(Point(epochs=1), description="The interval.")
    decay: float = Field(gt=0, le=1, description="What an interval multiplies the rate by.")


class Linear(_Falling):
    """A straight line to the end."""

    name: Literal["linear"]


class Polynomial(_Falling):
    """A power of what is left of the way."""

    name: Literal["polynomial"]
    power: float = Field(1.0, gt=0, le=100, description="1 is a straight line.")


class Cosine(_Falling):
    """Half a cosine to the end."""

    name: Literal["cosine"]


class CosineRestarts(_Falling):
    """Half a cosine, again and again (SGDR, Loshchilov and Hutter 2017)."""

    name: Literal["cosine_restarts"]
    first: Point = Field(description="Length of the first period.")
    growth: float = Field(1.0, ge=1, le=1000, description="Each period over the one before it.")


class _Cycling(_Shape):
    low_momentum: float | None = Field(
        None, ge=0, lt=1, description="Momentum (Adam: beta1) at the highest rate; with high_momentum."
    )
    high_momentum: float | None = Field(None, ge=0, lt=1, description="Momentum (Adam: beta1) at the lowest rate.")

    @model_validator(mode="after")
    def _momentum_has_both_ends(self) -> Self:
        if (self.low_momentum is None) != (self.high_momentum is None):
            raise problem("has one end of the momentum's cycle.", "Give low_momentum and high_momentum, or neither.")
        return self


class Cyclical(_Cycling):
    """Up and down in straight lines (Smith 2017)."""

    name: Literal["cyclical"]
    climb: Point = Field(description="Length of the way up.")
    descent: Point | None = Field(None, description="Length of the way down; null: as the way up.")
    low: float = Field(ge=0, le=1, description="Share of the peak at the foot.")
    mode: Literal["triangular", "triangular2", "exp_range"] = Field(
        "triangular", description="triangular2 halves each cycle's height; exp_range lets it fall smoothly by decay."
    )
    decay: float = Field(1.0, gt=0, le=1, description="exp_range only: the height's factor over one cycle.")


class OneCycle(_Cycling):
    """Up once and down to almost nothing (Smith and Topin 2017); the last step has the least rate."""

    name: Literal["one_cycle"]
    climb: Point = Field(Point(fraction=0.3), description="Length of the way up.")
    start_fraction: float = Field(1 / 25, ge=0, le=1, description="Share of the peak at the first step.")
    final_fraction: float = Field(1 / 25e4, ge=0, le=1, description="Share of the peak at the last step.")
    anneal: Literal["cosine", "linear"] = Field("cosine", description="The form of both ways.")


class Wsd(_Falling):
    """Warmup, the peak for long, then a fall (Hu et al. 2024)."""

    name: Literal["wsd"]
    tail_length: Point = Field(Point(fraction=0.1), description="Length of the fall, at the end of training.")
    tail: Literal["linear", "sqrt", "1-sqrt"] = Field(
        "linear", description="The fall, with p its share done: 1 - p, (1 - p) ** 0.5, or 1 - p ** 0.5."
    )


class InverseSqrt(_Shape):
    """Falls with the root of the samples seen (Vaswani et al. 2017)."""

    name: Literal["inverse_sqrt"]
    timescale: Point | None = Field(None, description="After which it has fallen to 0.71; null: the warmup's length.")


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
    """Return the tag of a schedule's kind; one without a name is constant. For pydantic's ``Discriminator``."""
    tag = name_tag(value)
    return "<constant>" if tag == "<>" else tag
