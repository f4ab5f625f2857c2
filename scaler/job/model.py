"""The job file. Every key has its meaning, unit, range and default in these models, and nowhere else.

``scaler schema`` prints them as JSON Schema; ``docs/job-file.md`` is made from that.
"""

import re
from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from scaler.job.optimizer import LayerDecay, Optimizer, ParameterGroup
from scaler.job.scale import Scale
from scaler.job.schedule import Constant, ReferenceWarmup, Schedule, schedule_tag
from scaler.job.section import MOST, Length, Section, problem
from scaler.job.tracking import Tracking


class Reference(Section):
    """The batch size, rate and optimizer that are known to be good together, tuned on one worker."""

    global_batch_size: int = Field(ge=1, le=MOST, description="Samples per optimizer step in the reference.")
    lr: float = Field(gt=0, description="The reference's learning rate.")
    optimizer: Optimizer = Field(description="The optimizer that the rate was tuned with.")
    warmup: ReferenceWarmup | None = Field(
        None,
        description="The warmup that the learning rate was tuned with; it is part of every plan, and what scaling adds "
        "is schedule.warmup. legw makes it batch_ratio times as long. null: none.",
    )
    samples_per_s: float | None = Field(
        None, gt=0, description="What one worker trained at, measured alone; the report's efficiency is against it."
    )


class Ema(Section):
    """A running average of the weights."""

    decay: float = Field(ge=0, lt=1, description="How much of the average a step of the reference keeps.")


class Train(Length):
    """How long, on what, and how. With ``rule: adascale`` the length is counted in the reference's samples."""

    num_samples: int | None = Field(
        None, ge=1, le=MOST, description="Size of the training set; checked when the run starts."
    )
    last_batch: Literal["scale", "drop", "carry"] = Field(
        "scale",
        description="What becomes of the rest of an epoch that is smaller than the global batch. scale: a step at the "
        "learning rate of its own size; drop: it is left out; carry: it joins the next epoch's first samples.",
    )
    seed: int = Field(0, ge=0, lt=2**32, description="Of initial weights, data order and dropout.")
    precision: Literal["fp32", "bf16", "fp16"] = Field("fp32", description="Of forward and backward; weights are fp32.")
    clip_grad_norm: float | None = Field(
        None, gt=0, description="The largest norm of the whole gradient; null: no clipping."
    )
    ema: Ema | None = Field(None, description="Keep a running average of the weights; evaluated beside them.")
    noise_scale_every: int | None = Field(
        20,
        ge=1,
        le=MOST,
        description="Steps between measurements of the gradient noise scale; null: none. It takes two workers or "
        "micro-steps.",
    )
    data_workers: int = Field(
        0,
        ge=0,
        description="Processes that load data ahead for each worker; 0: the worker itself. Unused for tensors.",
    )
    check_data: bool = Field(
        True,
        description="Whether to compare a few samples between workers, and with those that the run began with, at the "
        "start of every attempt; data that differ are refused.",
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
    price_per_worker_hour: float | None = Field(
        None, ge=0, description="What a worker costs an hour, in any currency; the report says what the run cost."
    )
    peak_tflops_per_worker: float | None = Field(
        None, gt=0, description="The device's peak at train.precision, in 10**12 FLOPs a second; for the report's MFU."
    )


class Cadence(Length):
    """How often, in exactly one unit."""

    seconds: float | None = Field(None, gt=0, le=MOST, description="Time, as the worker of rank 0 measures it.")

    @classmethod
    def _units(cls) -> tuple[str, ...]:
        return ("epochs", "steps", "samples", "seconds")


class Best(Section):
    """The evaluation's value that makes a checkpoint the best."""

    metric: str = Field(description="Of the values that an evaluation gives, such as loss or accuracy.")
    mode: Literal["min", "max"] = Field("min", description="Whether a smaller or a larger value is better.")


class Checkpoint(Section):
    """What is kept to go on from."""

    every: Cadence = Field(
        Cadence(epochs=1), description="How often; always at the end. steps count as full global batches."
    )
    keep: int = Field(2, ge=1, description="How many of the newest are kept.")
    best: Best | None = Field(
        None, description="Also keep the best by an evaluation's value, whenever it was; null: only the newest."
    )


class Divergence(Section):
    """When the loss has gone astray, and what is done."""

    multiple: float | None = Field(
        10.0,
        gt=1,
        description="Also when the loss is above the running median this many times, ten steps in a row, or has undone "
        "half of its fall for fifty; null: only NaN and infinity.",
    )
    then: Literal["stop", "go_back"] = Field(
        "stop", description="stop: with a report; go_back: to the last checkpoint, with a lower rate."
    )
    lr_factor: float = Field(0.5, gt=0, lt=1, description="go_back: what the rate is multiplied by each time.")
    max_times: int = Field(3, ge=1, description="go_back: how often; then it stops.")


class Failures(Section):
    """What is done when something fails."""

    max_restarts: int = Field(
        3,
        ge=0,
        description="Restarts after a lost worker. An error of the recipe is final: it would come again.",
    )
    hang_timeout_s: float | None = Field(
        600.0,
        gt=0,
        le=MOST,
        description="A worker that does one thing for this many seconds hangs: it is named, and restarted; null: wait. "
        "Longer than the slowest step, evaluation batch or building of the recipe.",
    )
    divergence: Divergence | None = Field(
        Divergence(), description="The guard of the loss; null: train on, whatever it is."
    )


class Job(Section):
    """One job file."""

    name: str = Field(description="Letters, digits, '.', '_', '-'; starts the run's id.")
    recipe: str = Field(
        description="module:function or path/file.py:function that builds model and data; the path is from the job "
        "file's folder, a module lies next to the job file, in PYTHONPATH or among the installed packages."
    )
    recipe_args: dict[str, Any] = Field(default_factory=dict, description="Keyword arguments of the recipe's function.")
    reference: Reference = Field(description="What is known to be good together, tuned on one worker.")
    scale: Scale = Field(description="Workers, batch and rule.")
    groups: Annotated[
        Annotated[tuple[ParameterGroup, ...], Field(strict=False), Tag("<list>")]
        | Annotated[Literal["recipe"], Tag("<word>")],
        Discriminator(lambda value: "<word>" if isinstance(value, str) else "<list>"),
    ] = Field(
        (), description="Parameters with a rate, weight decay or freezing of their own; recipe: the recipe gives them."
    )
    layer_decay: LayerDecay | None = Field(None, description="A lower rate for each layer further from the output.")
    schedule: Annotated[Schedule, Discriminator(schedule_tag)] = Field(
        Constant(), description="Shape of the rate over the training."
    )
    train: Train = Field(description="Length and ways of the training.")
    resources: Resources = Field(default_factory=Resources, description="What each worker gets.")
    checkpoint: Checkpoint = Field(default_factory=Checkpoint, description="What is kept to go on from.")
    failures: Failures = Field(default_factory=Failures, description="What is done when something fails.")
    tracking: Tracking = Field(default_factory=Tracking, description="Where the curves go too, as the run goes by.")
    storage: str = Field(
        "runs", min_length=1, description="Where run folders go: a folder, or a URI such as s3://bucket/prefix."
    )

    @model_validator(mode="after")
    def _length_is_in_samples_where_steps_vary(self) -> Self:
        elastic, grows = self.scale.is_elastic, self.scale.batch_schedule is not None
        if self.train.steps is not None and (elastic or grows):
            why = "grow and shrink with the workers" if elastic else "grow with scale.batch_schedule"
            raise problem(
                f"train.steps = {self.train.steps} has no fixed length: steps {why}.",
                "Give train.epochs or train.samples.",
            )
        if self.scale.co_scale.ema and self.train.ema is None:
            raise problem("scale.co_scale.ema = true, and there is no average to scale.", "Give train.ema.")
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
        where, _, function = recipe.rpartition(":")
        is_module = re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", where)
        if not function.isidentifier() or not (is_module or where.endswith(".py")):
            raise problem(
                f"= {recipe!r} is neither module:function nor file.py:function.",
                "For build() in recipe.py next to the job: recipe:build; in another folder: src/pkg/train.py:build.",
            )
        return recipe
