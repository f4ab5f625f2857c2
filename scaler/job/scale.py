"""Workers, batch and rule."""

from typing import Annotated, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from scaler.job.section import MOST, MOST_WORKERS, Length, Point, Section, name_tag, problem


class Workers(Section):
    """An elastic number of workers."""

    min: int = Field(ge=1, le=MOST_WORKERS, description="The fewest workers to go on with.")
    max: int = Field(ge=1, le=MOST_WORKERS, description="The most workers to use.")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min > self.max:
            raise problem(f"has min {self.min} above max {self.max}.", "Exchange them.")
        return self


class CoScale(Section):
    """What is scaled beside the rate; each only when asked for."""

    weight_decay: bool = Field(
        False, description="Hold the timescale of weight decay in samples: x batch_ratio / lr_ratio (AdamW, SGD)."
    )
    ema: bool = Field(
        False,
        description="Hold the memory of train.ema in samples: decay ** batch_ratio; with adascale, decay ** gain.",
    )
    momentum: bool = Field(
        False,
        description="With rule: none, raise SGD's momentum instead: 1 - (1 - momentum) / batch_ratio. That holds the "
        "timescale of weight decay too.",
    )


class GrowthPoint(Section):
    """From here on, another batch."""

    at: Point = Field(description="When; the first step that starts at or after it has the new batch.")
    factor: float = Field(gt=0, le=MOST_WORKERS, description="Times the batch at the start of training.")


class GrowAtPoints(Section):
    """A batch that changes at listed points of training."""

    name: Literal["points"] = Field(description="points")
    points: Annotated[tuple[GrowthPoint, ...], Field(strict=False)] = Field(
        min_length=1, description="In ascending order."
    )


class GrowByDoubling(Section):
    """A batch that doubles at regular intervals."""

    name: Literal["doubling"] = Field(description="doubling")
    every: Point = Field(description="How often it doubles.")
    max_global_batch_size: int = Field(ge=1, le=MOST, description="It stays there.")


class GrowWithNoise(Section):
    """A batch that doubles when the measured gradient noise scale is surely above twice the batch."""

    name: Literal["noise_scale"] = Field(description="noise_scale")
    every: Point = Field(Point(epochs=1), description="How often it is looked at.")
    max_global_batch_size: int = Field(ge=1, le=MOST, description="It stays there. The rule must hold up to it.")


class Rewarmup(Length):
    """A climb from the old rate to the new one after a resize, in exactly one unit."""

    above: float = Field(1.5, ge=1, description="Only when the resize multiplies the rate by more than this.")


class Scale(Section):
    """How many workers, what they share, and the rule that makes a rate of it."""

    num_workers: Annotated[
        Annotated[int, Field(ge=1, le=MOST_WORKERS), Tag("<number>")] | Annotated[Workers, Tag("<range>")],
        Discriminator(lambda value: "<range>" if isinstance(value, dict | Workers) else "<number>"),
    ] = Field(1, description="Workers, >= 1; {min, max} makes the run elastic.")
    per_worker_batch_size: (
        Annotated[
            Annotated[int, Field(ge=1, le=MOST), Tag("<number>")] | Annotated[Literal["auto"], Tag("<word>")],
            Discriminator(lambda value: "<word>" if isinstance(value, str) else "<number>"),
        ]
        | None
    ) = Field(
        None,
        description="Samples in one forward/backward on one worker; with global_batch_size, the most. auto (with "
        "global_batch_size): a worker's whole share, and half of it whenever memory does not suffice.",
    )
    grad_accum_steps: int | None = Field(
        None,
        ge=1,
        le=MOST,
        description="Forward/backwards per optimizer step. Default 1; with global_batch_size, as few as fit.",
    )
    global_batch_size: int | None = Field(
        None, ge=1, le=MOST, description="Samples per optimizer step over all workers: fixed, whatever their number."
    )
    rule: Literal["auto", "linear", "sqrt", "power", "adam_sde", "gain", "adascale", "legw", "none"] = Field(
        "auto", description="From the ratio of batch sizes to the ratio of rates; auto chooses by optimizer."
    )
    exponent: float | None = Field(None, ge=-2, le=2, description="power only: lr_ratio = batch_ratio ** exponent.")
    noise_scale: float | None = Field(None, gt=0, description="gain only: the gradient noise scale, in samples.")
    betas: Literal["sde", "power"] = Field(
        "sde", description="adam_sde only: 1 - batch_ratio * (1 - beta), or beta ** batch_ratio for any ratio."
    )
    co_scale: CoScale = Field(default_factory=CoScale, description="What is scaled beside the rate.")
    batch_schedule: (
        Annotated[
            Annotated[GrowAtPoints, Tag("<points>")]
            | Annotated[GrowByDoubling, Tag("<doubling>")]
            | Annotated[GrowWithNoise, Tag("<noise_scale>")],
            Discriminator(name_tag),
        ]
        | None
    ) = Field(None, description="A global batch that grows as training goes on; the rate follows by the rule.")
    on_resize: Literal["scale_with_batch", "hold_global_batch"] = Field(
        "scale_with_batch",
        description="When an elastic run changes size: plan batch and rate anew, or hold those of the most workers.",
    )
    rewarmup: Rewarmup | None = Field(
        Rewarmup(steps=50), description="The climb after a resize that raises the rate; null: it jumps."
    )

    @property
    def is_elastic(self) -> bool:
        """Whether the number of workers may change while it runs."""
        return not isinstance(self.num_workers, int)

    @property
    def max_workers(self) -> int:
        """The most workers the job may get."""
        return self.num_workers if isinstance(self.num_workers, int) else self.num_workers.max

    @property
    def min_workers(self) -> int:
        """The fewest workers the job goes on with."""
        return self.num_workers if isinstance(self.num_workers, int) else self.num_workers.min

    @model_validator(mode="after")
    def _has_a_batch(self) -> Self:
        if self.per_worker_batch_size is None and self.global_batch_size is None:
            raise problem(
                "has neither per_worker_batch_size nor global_batch_size.",
                "per_worker_batch_size lets the batch grow with the workers, global_batch_size fixes it.",
            )
        if self.per_worker_batch_size == "auto" and self.global_batch_size is None:
            raise problem(
                "has per_worker_batch_size: auto and no global_batch_size.",
                "auto divides a fixed batch: give global_batch_size.",
            )
        if self.per_worker_batch_size == "auto" and self.grad_accum_steps is not None:
            raise problem(
                f"has per_worker_batch_size: auto and grad_accum_steps: {self.grad_accum_steps}.",
                "Leave grad_accum_steps out: auto finds it.",
            )
        return self

    @property
    def held_batch(self) -> int:
        """The global batch of the most workers: what ``on_resize: hold_global_batch`` holds."""
        if self.global_batch_size is not None:
            return self.global_batch_size
        assert self.most_per_worker is not None  # checked above
        return self.max_workers * self.most_per_worker * (self.grad_accum_steps or 1)

    @property
    def most_per_worker(self) -> int | None:
        """The most samples in one forward/backward that the file gives; None: no limit."""
        return self.per_worker_batch_size if isinstance(self.per_worker_batch_size, int) else None

    @model_validator(mode="after")
    def _has_the_rule_s_options(self) -> Self:
        for key, rule in (("exponent", "power"), ("noise_scale", "gain")):
            value, meaning = getattr(self, key), type(self).model_fields[key].description or ""
            if self.rule == rule and value is None:
                what = meaning.removeprefix(f"{rule} only: ")
                raise problem(f"has rule: {rule} and no {key}.", f"Give {key}: {what}")
            if self.rule != rule and value is not None:
                raise problem(f"has {key} = {value:g}, which rule: {self.rule} does not take.", f"Use rule: {rule}.")
        if self.betas != "sde" and self.rule != "adam_sde":
            raise problem(f"has betas: power, which rule: {self.rule} does not take.", "Use rule: adam_sde.")
        if self.rule == "adascale" and self.batch_schedule is not None:
            raise problem("has rule: adascale and a batch_schedule.", "Use one: both follow the noise of the gradient.")
        return self
