"""The models of the job file. Every key has its meaning, unit, range and default here, and nowhere else.

``scaler schema`` prints them as JSON Schema; ``docs/job-file.md`` is made from that.
"""

import re
from collections.abc import Mapping
from math import isfinite
from types import MappingProxyType
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, field_validator, model_validator
from pydantic_core import PydanticCustomError

# No training is longer or wider; beyond, arithmetic in floats would lose samples.
MOST_EPOCHS, MOST, MOST_WORKERS = 1e6, 10**15, 10**6

# Options of the optimizers that a job names in one word, with torch's own defaults (a test compares them).
OPTIMIZER_OPTIONS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "sgd": {"momentum": 0, "dampening": 0, "weight_decay": 0, "nesterov": False},
        "adam": {"betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0, "amsgrad": False},
        "adamw": {"betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 1e-2, "amsgrad": False},
        "rmsprop": {"alpha": 0.99, "eps": 1e-8, "weight_decay": 0, "momentum": 0, "centered": False},
    }
)


def problem(text: str, remedy: str) -> PydanticCustomError:
    """Return a validation error that carries its own remedy; ``load`` turns it into a ``JobFileError``."""
    return PydanticCustomError("scaler", "{problem}", {"problem": text, "remedy": remedy})


class Section(BaseModel):
    """A mapping in the job file: frozen, unknown keys refused, nothing converted from another type."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Length(Section):
    """A stretch of training, in exactly one unit."""

    epochs: float | None = Field(
        None, gt=0, le=MOST_EPOCHS, description="Passes over the training set; fractions allowed."
    )
    steps: int | None = Field(None, ge=1, le=MOST, description="Optimizer steps at the planned global batch size.")
    samples: int | None = Field(None, ge=1, le=MOST, description="Samples over all workers.")

    @model_validator(mode="after")
    def _exactly_one_unit(self) -> Self:
        units = [unit for unit in self._units() if getattr(self, unit) is not None]
        if len(units) != 1:
            known = ", ".join(self._units())
            raise problem(
                f"has {', '.join(units)}: one unit is too many." if units else "has no unit.",
                f"Give exactly one of {known}, such as {{epochs: 1}}.",
            )
        return self

    @classmethod
    def _units(cls) -> tuple[str, ...]:
        return ("epochs", "steps", "samples")


class Warmup(Length):
    """A linear climb to the peak rate, in exactly one unit."""

    epochs: float | None = Field(
        None, ge=0, le=MOST_EPOCHS, description="Passes over the training set; 0 means no warmup."
    )
    steps: int | None = Field(None, ge=0, le=MOST, description="Optimizer steps at the planned global batch size.")
    samples: int | None = Field(None, ge=0, le=MOST, description="Samples over all workers.")
    fraction: float | None = Field(None, ge=0, le=1, description="Share of the whole training.")
    start: Annotated[
        Annotated[Literal["base"], Tag("<word>")] | Annotated[float, Field(ge=0, le=1), Tag("<share>")],
        Discriminator(lambda value: "<word>" if isinstance(value, str) else "<share>"),
    ] = Field("base", description="Where the climb starts: base (the reference's rate), or a share of the peak.")

    @classmethod
    def _units(cls) -> tuple[str, ...]:
        return ("epochs", "steps", "samples", "fraction")


class Optimizer(Section):
    """The reference's optimizer; every other key is passed to it."""

    model_config = ConfigDict(frozen=True, extra="allow", strict=True, allow_inf_nan=False)

    name: str = Field(description="sgd, adam, adamw, rmsprop, or the import path of a torch optimizer, module:Class.")

    @property
    def options(self) -> dict[str, Any]:
        """The keys beside ``name``."""
        return dict(self.model_extra or {})

    @model_validator(mode="after")
    def _known(self) -> Self:
        known = OPTIMIZER_OPTIONS.get(self.name)
        if known is None and not re.fullmatch(r"[\w.]+:\w+", self.name):
            raise problem(
                f"has the name {self.name}, which is not an optimizer.",
                f"Use {', '.join(OPTIMIZER_OPTIONS)}, or an import path such as torch.optim:NAdam.",
            )
        if "lr" in self.options:
            raise problem("has the key lr.", "The rate is a key of its own: reference.lr.")
        for key, value in self.options.items():
            if isinstance(value, float) and not isfinite(value):
                raise problem(f"has {key} = {value}, which is not a finite number.", "Write a number.")
        unknown = sorted(set(self.options) - set(known)) if known is not None else []
        if unknown and known is not None:
            raise problem(
                f'has the key "{unknown[0]}", which {self.name} does not take.', f"It takes {', '.join(known)}."
            )
        return self


class Reference(Section):
    """The batch size, rate and optimizer that are known to be good together, tuned on one worker."""

    global_batch_size: int = Field(ge=1, le=MOST, description="Samples per optimizer step in the reference.")
    lr: float = Field(gt=0, description="The reference's learning rate.")
    optimizer: Optimizer = Field(description="The optimizer that the rate was tuned with.")


class Workers(Section):
    """An elastic number of workers."""

    min: int = Field(ge=1, le=MOST_WORKERS, description="The fewest workers to go on with.")
    max: int = Field(ge=1, le=MOST_WORKERS, description="The most workers to use.")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min > self.max:
            raise problem(f"has min {self.min} above max {self.max}.", "Exchange them.")
        return self


class Scale(Section):
    """How many workers, what they share, and the rule that makes a rate of it."""

    num_workers: Annotated[
        Annotated[int, Field(ge=1, le=MOST_WORKERS), Tag("<number>")] | Annotated[Workers, Tag("<range>")],
        Discriminator(lambda value: "<range>" if isinstance(value, dict | Workers) else "<number>"),
    ] = Field(1, description="Workers, >= 1; {min, max} makes the run elastic.")
    per_worker_batch_size: int | None = Field(
        None,
        ge=1,
        le=MOST,
        description="Samples in one forward/backward on one worker; with global_batch_size, the most.",
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
    rule: Literal["auto", "linear", "sqrt", "none"] = Field(
        "auto", description="From the ratio of batch sizes to the ratio of rates; auto chooses by optimizer."
    )
    on_resize: Literal["scale_with_batch", "hold_global_batch"] = Field(
        "scale_with_batch",
        description="When an elastic run changes size: plan batch and rate anew, or hold those of the most workers.",
    )

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
        return self


class Schedule(Section):
    """The share of the peak rate over the training."""

    name: Literal["constant", "cosine"] = Field("constant", description="Its shape after the warmup.")
    warmup: Annotated[
        Annotated[Literal["auto"], Tag("<word>")] | Annotated[Warmup, Tag("<length>")],
        Discriminator(lambda value: "<word>" if isinstance(value, str) else "<length>"),
    ] = Field(
        "auto",
        description="auto: 5/90 of the training, from the reference's rate, if the rate is scaled up; else none.",
    )
    final_fraction: float = Field(0.0, ge=0, le=1, description="Share of the peak at the end (cosine).")


class Train(Length):
    """How long, on what, and how."""

    num_samples: int | None = Field(
        None, ge=1, le=MOST, description="Size of the training set; checked when the run starts."
    )
    seed: int = Field(0, ge=0, lt=2**32, description="Of initial weights, data order and dropout.")
    precision: Literal["fp32", "bf16", "fp16"] = Field("fp32", description="Of forward and backward; weights are fp32.")
    clip_grad_norm: float | None = Field(
        None, gt=0, description="The largest norm of the whole gradient; null: no clipping."
    )
    data_workers: int = Field(
        0,
        ge=0,
        description="Processes that load data ahead for each worker; 0: the worker itself. Unused for tensors.",
    )
    eval_every: Length = Field(
        Length(epochs=1), description="How often to evaluate; always at the end. steps count as full global batches."
    )


class Resources(Section):
    """What each worker gets from the cluster."""

    cpus_per_worker: float = Field(
        1.0, gt=0, description="CPUs reserved, fractions allowed; also torch's threads, at least 1."
    )
    gpus_per_worker: float = Field(0.0, ge=0, description="GPUs reserved, fractions allowed; 0 trains on the CPU.")


class Checkpoint(Section):
    """What is kept to go on from."""

    every: Length = Field(
        Length(epochs=1), description="How often; always at the end. steps count as full global batches."
    )
    keep: int = Field(2, ge=1, description="How many of the newest are kept.")


class Failures(Section):
    """What a lost worker costs."""

    max_restarts: int = Field(
        3,
        ge=0,
        description="Restarts after a lost worker. An error of the recipe is final: it would come again.",
    )


class Job(Section):
    """One job file."""

    name: str = Field(description="Letters, digits, '.', '_', '-'; starts the run's id.")
    recipe: str = Field(description="module:function that builds model and data; next to the job file, or installed.")
    recipe_args: dict[str, Any] = Field(default_factory=dict, description="Keyword arguments of the recipe's function.")
    reference: Reference = Field(description="What is known to be good together, tuned on one worker.")
    scale: Scale = Field(description="Workers, batch and rule.")
    schedule: Schedule = Field(default_factory=Schedule, description="Shape of the rate over the training.")
    train: Train = Field(description="Length and ways of the training.")
    resources: Resources = Field(default_factory=Resources, description="What each worker gets.")
    checkpoint: Checkpoint = Field(default_factory=Checkpoint, description="What is kept to go on from.")
    failures: Failures = Field(default_factory=Failures, description="What a lost worker costs.")
    storage: str = Field(
        "runs", min_length=1, description="Where run folders go: a folder, or a URI such as s3://bucket/prefix."
    )

    @model_validator(mode="after")
    def _elastic_length_is_in_samples(self) -> Self:
        if self.train.steps is not None and not isinstance(self.scale.num_workers, int):
            raise problem(
                f"train.steps = {self.train.steps} has no fixed length: steps grow and shrink with the workers.",
                "Give train.epochs or train.samples.",
            )
        return self

    @field_validator("name")
    @classmethod
    def _name_is_a_file_name(cls, name: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}", name):
            raise problem(
                f"= {name!r} cannot name a run.",
                "Use 1 to 100 letters, digits, '.', '_' and '-'; a letter, digit or '_' first.",
            )
        return name

    @field_validator("recipe")
    @classmethod
    def _recipe_is_a_path(cls, recipe: str) -> str:
        if not re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", recipe):
            raise problem(
                f"= {recipe!r} is not module:function.", "For build() in recipe.py next to the job: recipe:build."
            )
        return recipe
