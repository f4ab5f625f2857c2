"""The ``scale`` section: number of workers, batch sizes and scaling rule."""

from typing import Annotated, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from scaler.core.rules import HORIZON_RULES
from scaler.job.mesh import Mesh
from scaler.job.section import MOST, MOST_WORKERS, Length, Point, Section, name_tag, problem


class Workers(Section):
    """The smallest and the largest number of workers of an elastic job."""

    min: int = Field(ge=1, le=MOST_WORKERS, description="Fewest workers to train with.")
    max: int = Field(ge=1, le=MOST_WORKERS, description="Most workers to train with.")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min > self.max:
            raise problem(f"has min {self.min} above max {self.max}.", f"Write {{min: {self.max}, max: {self.min}}}.")
        return self


class CoScale(Section):
    """Values that are scaled in addition to the learning rate. All are off by default."""

    weight_decay: bool = Field(
        False,
        description="Multiply weight decay by batch_ratio / lr_ratio, which holds its timescale in samples (for SGD, "
        "AdamW and other optimizers with decoupled weight decay).",
    )
    ema: bool = Field(
        False,
        description="Use train.ema.decay ** batch_ratio, which holds the memory of the average in samples; with rule: "
        "adascale, decay ** gain.",
    )
    momentum: bool = Field(
        False,
        description="With rule: none, raise SGD's momentum instead of the learning rate: 1 - (1 - momentum) / "
        "batch_ratio. This holds the timescale of weight decay too.",
    )
    beta2: Literal["half_life"] | None = Field(
        None,
        description="half_life: beta2 ** batch_ratio, which holds the half-life of the running mean of squared "
        "gradients in samples (for Adam and its variants; RMSprop's alpha). With any rule but adam_sde. null: as in "
        "the reference.",
    )


class GrowthPoint(Section):
    """A point of training from which the global batch has another size."""

    at: Point = Field(description="The first step that starts at this point or after it has the new batch.")
    factor: float = Field(
        gt=0, le=MOST_WORKERS, description="Size of the batch, divided by its size at the start of training."
    )


class GrowAtPoints(Section):
    """A batch that changes at given points of training."""

    name: Literal["points"] = Field(description="points")
    points: Annotated[tuple[GrowthPoint, ...], Field(strict=False)] = Field(
        min_length=1, description="Points and sizes, in ascending order."
    )


class GrowByDoubling(Section):
    """A batch that doubles at regular intervals."""

    name: Literal["doubling"] = Field(description="doubling")
    every: Point = Field(description="Interval after which the batch doubles.")
    max_global_batch_size: int = Field(ge=1, le=MOST, description="Largest batch, in samples; it stops growing there.")


class GrowWithNoise(Section):
    """A batch that doubles when the 90 % interval of the measured gradient noise scale is above twice the batch."""

    name: Literal["noise_scale"] = Field(description="noise_scale")
    every: Point = Field(
        Point(epochs=1), description="Interval after which the noise scale is compared with the batch."
    )
    max_global_batch_size: int = Field(
        ge=1,
        le=MOST,
        description="Largest batch, in samples; it stops growing there. The rule must hold up to this size.",
    )


class GrowInsteadOfDecay(Section):
    """A batch that grows where the schedule lowers the learning rate, so that the learning rate falls less or not."""

    name: Literal["instead_of_decay"] = Field(description="instead_of_decay")
    max_global_batch_size: int = Field(
        ge=1,
        le=MOST,
        description="Largest batch, in samples. At this batch the learning rate falls as the schedule says.",
    )
    growth: float = Field(
        2.0,
        gt=1,
        le=MOST_WORKERS,
        description="Least factor from one batch to the next. Between two changes the learning rate falls with the "
        "schedule.",
    )
    up_to: Literal["noise_scale"] | None = Field(
        None,
        description="noise_scale: the batch grows only up to the lower end of the 90 % interval of the measured "
        "gradient noise scale, checked 100 times in the training. null: up to max_global_batch_size.",
    )


class Rewarmup(Length):
    """The climb from the old learning rate to the new one after a resize, in exactly one unit."""

    above: float = Field(
        1.5, ge=1, description="There is a climb only if the new learning rate is more than this many times the old."
    )


class Scale(Section):
    """The number of workers, the batch sizes, and the rule that scales the learning rate with the batch."""

    num_workers: Annotated[
        Annotated[int, Field(ge=1, le=MOST_WORKERS), Tag("<number>")] | Annotated[Workers, Tag("<range>")],
        Discriminator(lambda value: "<range>" if isinstance(value, dict | Workers) else "<number>"),
    ] = Field(1, description="Number of workers, >= 1; {min, max} makes the job elastic.")
    mesh: Mesh = Field(
        default_factory=Mesh,
        description="How the workers share the model. All sizes but expert multiply to the number of workers.",
    )
    per_worker_batch_size: (
        Annotated[
            Annotated[int, Field(ge=1, le=MOST), Tag("<number>")] | Annotated[Literal["auto"], Tag("<word>")],
            Discriminator(lambda value: "<word>" if isinstance(value, str) else "<number>"),
        ]
        | None
    ) = Field(
        None,
        description="Samples in one forward/backward on one worker; with global_batch_size, the most. auto (only with "
        "global_batch_size): the worker's whole share of the batch, halved when memory runs out.",
    )
    grad_accum_steps: int | None = Field(
        None,
        ge=1,
        le=MOST,
        description="Forward/backwards per optimizer step. null: 1; with global_batch_size, as few as fit.",
    )
    global_batch_size: int | None = Field(
        None,
        ge=1,
        le=MOST,
        description="Samples per optimizer step over all workers, the same at every number of workers. null: the batch "
        "grows with the workers.",
    )
    rule: Literal["auto", "linear", "sqrt", "power", "adam_sde", "gain", "adascale", "legw", "none"] = Field(
        "auto",
        description="lr_ratio from batch_ratio. linear: batch_ratio; sqrt, adam_sde (scales betas and eps too), legw "
        "(a longer warmup too): batch_ratio ** 0.5; power: batch_ratio ** exponent; gain: by a given noise scale; "
        "adascale: by the noise measured in training; none: 1; auto: chosen by the optimizer.",
    )
    exponent: float | None = Field(None, ge=-2, le=2, description="power only: lr_ratio = batch_ratio ** exponent.")
    noise_scale: float | None = Field(None, gt=0, description="gain only: the gradient noise scale, in samples.")
    betas: Literal["sde", "power"] = Field(
        "sde",
        description="adam_sde only: how betas are scaled. sde: 1 - batch_ratio * (1 - beta), which must stay above 0; "
        "power: beta ** batch_ratio.",
    )
    horizon: bool = Field(
        False,
        description="Scale with the length of the training too, for AdamW. The rule is adam_sde with kappa = "
        "batch_ratio * reference.total_samples / total_samples in place of batch_ratio, and weight decay is multiplied "
        "by kappa ** 0.5. It needs reference.total_samples, total_tokens or epochs.",
    )
    beta2_range: Annotated[tuple[Annotated[float, Field(ge=0, lt=1)], ...], Field(strict=False)] | None = Field(
        None,
        description="Floor and ceiling of a scaled beta2 (RMSprop: alpha), such as [0.95, 0.9999]. The plan warns "
        "where it has an effect. null: no bounds.",
    )
    co_scale: CoScale = Field(
        default_factory=CoScale, description="Values that are scaled in addition to the learning rate."
    )
    batch_schedule: (
        Annotated[
            Annotated[GrowAtPoints, Tag("<points>")]
            | Annotated[GrowByDoubling, Tag("<doubling>")]
            | Annotated[GrowWithNoise, Tag("<noise_scale>")]
            | Annotated[GrowInsteadOfDecay, Tag("<instead_of_decay>")],
            Discriminator(name_tag),
        ]
        | None
    ) = Field(
        None,
        description="A global batch that changes during training; the learning rate follows by the rule. null: "
        "constant.",
    )
    on_resize: Literal["scale_with_batch", "hold_global_batch"] = Field(
        "scale_with_batch",
        description="When an elastic run changes size. scale_with_batch: the batch changes with the workers, and the "
        "learning rate by the rule; hold_global_batch: keep the batch and the learning rate of the most workers.",
    )
    rewarmup: Rewarmup | None = Field(
        Rewarmup(steps=50),
        description="Climb of the learning rate after a resize that raises it; null: it jumps.",
    )

    @property
    def beta2_bounds(self) -> tuple[float, float] | None:
        """The floor and the ceiling of ``beta2_range``."""
        return None if self.beta2_range is None else (self.beta2_range[0], self.beta2_range[1])

    @property
    def is_elastic(self) -> bool:
        """Whether the number of workers may change during the run."""
        return not isinstance(self.num_workers, int)

    @property
    def batch_follows_noise(self) -> bool:
        """Whether the batch grows with the gradient noise scale that is measured in training."""
        growth = self.batch_schedule
        return isinstance(growth, GrowWithNoise) or (
            isinstance(growth, GrowInsteadOfDecay) and growth.up_to is not None
        )

    def data_parallel_size(self, workers: int) -> int:
        """Return how many data-parallel ranks ``workers`` workers are: the batch is divided among them."""
        return workers // self.mesh.model_parallel_size

    @property
    def max_workers(self) -> int:
        """The most workers the job may get."""
        return self.num_workers if isinstance(self.num_workers, int) else self.num_workers.max

    @property
    def min_workers(self) -> int:
        """The fewest workers that the job trains with."""
        return self.num_workers if isinstance(self.num_workers, int) else self.num_workers.min

    @model_validator(mode="after")
    def _has_a_batch(self) -> Self:
        if self.per_worker_batch_size is None and self.global_batch_size is None:
            raise problem(
                "has neither per_worker_batch_size nor global_batch_size.",
                "Give per_worker_batch_size for a batch that grows with the workers, or global_batch_size for a fixed "
                "one.",
            )
        if self.per_worker_batch_size == "auto" and self.global_batch_size is None:
            raise problem(
                "has per_worker_batch_size: auto and no global_batch_size.",
                "Give global_batch_size, which auto divides among the workers.",
            )
        if self.per_worker_batch_size == "auto" and self.grad_accum_steps is not None:
            raise problem(
                f"has per_worker_batch_size: auto and grad_accum_steps: {self.grad_accum_steps}.",
                "Leave grad_accum_steps out: auto determines it.",
            )
        return self

    @property
    def held_batch(self) -> int:
        """The global batch of the most workers, which ``on_resize: hold_global_batch`` keeps."""
        if self.global_batch_size is not None:
            return self.global_batch_size
        assert self.most_per_worker is not None  # checked above
        return self.data_parallel_size(self.max_workers) * self.most_per_worker * (self.grad_accum_steps or 1)

    @property
    def most_per_worker(self) -> int | None:
        """The most samples in one forward/backward by the job file; None: no limit."""
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
        is_sde = self.rule == "adam_sde" or (self.horizon and self.rule in HORIZON_RULES)
        if self.betas != "sde" and not is_sde:
            raise problem(f"has betas: power, which rule: {self.rule} does not take.", "Use rule: adam_sde.")
        if self.horizon and not is_sde:
            raise problem(
                f"has horizon: true and rule: {self.rule}. The horizon goes with adam_sde: it scales lr, "
                "weight decay, betas and eps together.",
                "Use rule: auto, or leave horizon out.",
            )
        if self.horizon and self.co_scale.weight_decay:
            raise problem(
                "has horizon: true and co_scale.weight_decay: true, and the horizon scales weight decay already.",
                "Leave co_scale.weight_decay out.",
            )
        if is_sde and self.co_scale.beta2 is not None:
            raise problem(
                "has co_scale.beta2: half_life, and the rule adam_sde scales beta2 already.",
                "Leave co_scale.beta2 out; betas: power holds the half-life.",
            )
        if self.beta2_range is not None:
            shown = f"beta2_range: [{', '.join(f'{bound:g}' for bound in self.beta2_range)}]"
            if len(self.beta2_range) != 2 or self.beta2_range[0] > self.beta2_range[1]:
                raise problem(f"has {shown}, which is not a floor and a ceiling.", "Such as [0.95, 0.9999].")
            if not (is_sde or self.co_scale.beta2):
                raise problem(
                    f"has {shown}, and nothing scales beta2.",
                    "Give co_scale.beta2: half_life, or leave beta2_range out.",
                )
        if self.rule == "adascale" and self.batch_schedule is not None:
            raise problem(
                "has rule: adascale and a batch_schedule.", "Leave one of them out: both follow the gradient noise."
            )
        return self
