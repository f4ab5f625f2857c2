"""The job file: the meaning, unit, range and default of every key.

``scaler schema`` prints these models as JSON Schema, and ``docs/job-file.md`` is made from them.
"""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from scaler.errors import JobFileError
from scaler.job.acceleration import ActivationCheckpointing, CompileChoice
from scaler.job.optimizer import LayerDecay, Optimizer, OwnRule, ParameterGroup, Patterns
from scaler.job.resources import Resources
from scaler.job.runtime_env import RuntimeEnv
from scaler.job.scale import Scale
from scaler.job.schedule import Constant, ReferenceWarmup, Schedule, schedule_tag
from scaler.job.section import MOST, MOST_EPOCHS, Length, Point, Section, file_name, problem
from scaler.job.tracking import Tracking
from scaler.job.unit import require_unit

LENGTH_KEYS = ("total_samples", "total_tokens", "epochs")  # of the training that the reference was tuned in
FALLBACK = "fallback"  # the name of ``reference.optimizer.fallback`` among several optimizers


class NamedOptimizer(Section):
    """One of several optimizers, where it was tuned with another learning rate or another optimizer than the rest."""

    match: Patterns | None = Field(
        None,
        description='Patterns for the names of the parameters that it trains, such as ["head.*"], in a recipe with one '
        "loss. reference.optimizer trains the rest. null: the recipe says what it trains.",
    )
    lr: float | None = Field(None, gt=0, description="Its learning rate in the reference; null: reference.lr.")
    optimizer: Optimizer | None = Field(None, description="Its optimizer; null: reference.optimizer.")
    rule: OwnRule | None = Field(None, description="Its rule; null: scale.rule.")

    @model_validator(mode="after")
    def _does_something(self) -> Self:
        if self.lr is None and self.optimizer is None and self.rule is None:
            raise problem("changes nothing.", "Give lr, optimizer or rule, or leave it out.")
        if self.optimizer is not None and self.optimizer.fallback is not None:
            raise problem("has an optimizer with a fallback.", "Give the fallback to reference.optimizer.")
        return self


class Reference(Section):
    """The batch size, learning rate and optimizer that were tuned together, on one worker."""

    global_batch_size: int = Field(
        ge=1, le=MOST, description="Samples per optimizer step that the reference was tuned with."
    )
    lr: float = Field(gt=0, description="Learning rate that the reference was tuned with.")
    optimizer: Optimizer = Field(description="Optimizer that the reference was tuned with.")
    optimizers: dict[str, NamedOptimizer] = Field(
        default_factory=dict,
        description="Several optimizers: name -> what differs from lr and optimizer above, such as {d: {lr: 0.0004}} "
        'for the optimizer d of a recipe, or {head: {match: ["head.*"], lr: 0.001}} for parameters by their names. '
        "Everything else has lr and optimizer above.",
    )
    warmup: ReferenceWarmup | None = Field(
        None,
        description="Warmup that the reference was tuned with. It is a part of every plan; schedule.warmup is the "
        "warmup that scaling adds. With rule: legw it is batch_ratio times as long. null: none.",
    )
    total_samples: int | None = Field(
        None,
        ge=1,
        le=MOST,
        description="Length of the training that the reference was tuned in, in samples. A plan warns if its training "
        "is much longer or shorter; scale.horizon needs it. null: not known.",
    )
    total_tokens: int | None = Field(
        None, ge=1, le=MOST, description="The same length in tokens, with train.unit: tokens."
    )
    epochs: float | None = Field(
        None,
        gt=0,
        le=MOST_EPOCHS,
        description="The same length as total_samples, in epochs of this job's training set.",
    )
    samples_per_s: float | None = Field(
        None,
        gt=0,
        description="Speed of one worker that trains alone, in samples per second. The report computes the scaling "
        "efficiency from it. null: not known.",
    )

    @model_validator(mode="after")
    def _has_one_length(self) -> Self:
        given = {key: value for key in LENGTH_KEYS if (value := getattr(self, key)) is not None}
        if len(given) > 1:
            texts = " and ".join(f"{key}: {value:g}" for key, value in given.items())
            raise problem(f"has {texts}, which are the same length.", "Give one of them.")
        return self

    @property
    def has_length(self) -> bool:
        """Whether the length of the reference's training is known."""
        return any(getattr(self, key) is not None for key in LENGTH_KEYS)

    @property
    def several(self) -> Mapping[str, NamedOptimizer]:
        """``optimizers``, and after them the fallback of ``optimizer``, under the name ``fallback``."""
        beside = self.optimizer.beside
        if beside is None:
            return self.optimizers
        optimizer = Optimizer(name=beside.name, **beside.options)
        own = NamedOptimizer(match=beside.match, lr=beside.lr, optimizer=optimizer, rule=beside.rule)
        return {**self.optimizers, FALLBACK: own}

    @property
    def splits(self) -> bool:
        """Whether the parameters of a recipe with one loss are split among several optimizers."""
        return self.optimizer.fallback is not None or any(own.match for own in self.optimizers.values())

    @model_validator(mode="after")
    def _optimizers_fit_together(self) -> Self:
        matching = [name for name, own in self.optimizers.items() if own.match is not None]
        if self.splits and len(matching) < len(self.optimizers):
            name = next(name for name in self.optimizers if name not in matching)
            raise problem(
                f"has optimizers.{name} without match, and {matching[0] if matching else FALLBACK} splits the "
                "parameters.",
                f'Say what it trains, such as {name}: {{match: ["{name}.*"], ...}}.',
            )
        if FALLBACK in self.optimizers and self.optimizer.fallback is not None:
            raise problem(f"has optimizers.{FALLBACK}, which is the name of optimizer.fallback.", "Use another name.")
        for name, own in self.several.items() if self.splits else ():
            other = own.optimizer or self.optimizer
            if own.lr is None and other.has_lr_of_adam != self.optimizer.has_lr_of_adam:
                where = "optimizer.fallback" if name == FALLBACK else f"optimizers.{name}"
                raise problem(
                    f"has {where} without lr, and a learning rate of {self.optimizer.name} is not one of {other.name}.",
                    f"Give the learning rate that {other.name} was tuned with, such as {{name: {other.name}, "
                    "lr: 0.001}; or adjust_lr_fn: match_rms_adamw, with which muon takes the steps of AdamW.",
                )
        return self


class Ema(Section):
    """An exponential moving average of the weights."""

    decay: float = Field(ge=0, lt=1, description="Share of the average that one step of the reference keeps.")


class SequenceLength(Section):
    """A point of training from which samples have another number of tokens."""

    at: Length = Field(description="The first step that starts at this point or after it has the new length.")
    tokens_per_sample: int = Field(ge=1, le=MOST, description="Tokens of one sample from this point on.")


class Train(Length):
    """The length of the training and its settings. With `rule: adascale`, lengths are samples of the reference."""

    unit: Literal["samples", "tokens"] = Field(
        "samples",
        description="What the batch sizes of the job count. tokens: every global_batch_size, per_worker_batch_size, "
        "max_global_batch_size and noise_scale is in tokens, and lengths may be given as {tokens: ...}; a sample is a "
        "sequence of tokens_per_sample tokens.",
    )
    tokens_per_sample: int | None = Field(
        None,
        ge=1,
        le=MOST,
        description="unit: tokens: tokens of one sample, at the start of training. null: those that the recipe gives, "
        "Recipe(tokens_per_sample=...).",
    )
    sequence_lengths: Annotated[tuple[SequenceLength, ...], Field(strict=False)] = Field(
        (),
        description="unit: tokens: points from which samples have another number of tokens, in ascending order. The "
        "global batch keeps its tokens, and so does the learning rate.",
    )
    num_samples: int | None = Field(
        None,
        ge=1,
        le=MOST,
        description="Samples in the training set; checked when the run starts. null: the length of the recipe's data.",
    )
    stop_after: Point | None = Field(
        None,
        description="End this run here, with an evaluation and a checkpoint. The schedule stays that of the whole "
        "training, and a resume with a later point continues it. null: train to the end.",
    )
    last_batch: Literal["scale", "drop", "carry"] = Field(
        "scale",
        description="What to do with the last samples of an epoch when they are fewer than a global batch. scale: a "
        "step with the learning rate for its own size; drop: skip them; carry: one step with the first samples of the "
        "next epoch.",
    )
    seed: int = Field(0, ge=0, lt=2**32, description="Seed of the initial weights, the data order and dropout.")
    precision: Literal["fp32", "bf16", "fp16"] = Field(
        "fp32",
        description="Precision of forward and backward; weights and optimizer are fp32. fp16: the loss is scaled, and "
        "a step whose gradient overflows is skipped. bf16: not every GPU has it.",
    )
    tf32: bool | None = Field(
        None,
        description="Compute fp32 matrix multiplications and convolutions in TF32 on GPUs that have it: faster, with "
        "10 bits of mantissa instead of 23. null: what torch does, which is TF32 for convolutions only. Nothing "
        "changes on the CPU.",
    )
    compile: CompileChoice = Field(
        False,
        description="Compile the model with torch.compile when the start checks have passed. true: with the defaults "
        "below. What the loss calls besides model(...) is not compiled. The node needs a C++ compiler.",
    )
    activation_checkpointing: ActivationCheckpointing | None = Field(
        None,
        description="Blocks of the model whose activations are not kept: backward computes them again, which saves "
        "memory and costs about a third more time. A list of class names; or auto: the blocks of one class that stand "
        "together in an nn.ModuleList or nn.Sequential. A block inside such a block is not counted. null: none.",
    )
    channels_last: bool = Field(
        False,
        description="Keep the weights of convolutions in torch's memory format channels_last, so that convolutions "
        "compute in it. Often faster for images, mostly with bf16 or fp16.",
    )
    pin_memory: bool = Field(
        True,
        description="Copy each batch into pinned memory first, from which a GPU reads without blocking the worker. "
        "Nothing changes on the CPU.",
    )
    clip_grad_norm: float | None = Field(
        None, gt=0, description="Largest norm of the gradient of all parameters; null: no clipping."
    )
    ema: Ema | None = Field(None, description="Average of the weights, which is evaluated too; null: none.")
    noise_scale_every: int | None = Field(
        20,
        ge=1,
        le=MOST,
        description="Steps between measurements of the gradient noise scale, which need two workers or two "
        "micro-steps; null: no measurements.",
    )
    data_workers: int = Field(
        0,
        ge=0,
        description="Processes per worker that load data ahead; 0: the worker loads it itself. Not used for data that "
        "are tensors.",
    )
    check_data: bool = Field(
        True,
        description="At the start of every attempt, compare a few samples between the workers and with those at the "
        "start of the run, and refuse data that differ.",
    )
    eval_every: Length = Field(
        Length(epochs=1),
        description="How often to evaluate; always at the end too. A step counts as a whole global batch.",
    )


class Cadence(Length):
    """An interval, in exactly one unit."""

    seconds: float | None = Field(None, gt=0, le=MOST, description="Seconds, measured by the worker of rank 0.")

    @classmethod
    def _units(cls) -> tuple[str, ...]:
        return ("epochs", "steps", "samples", "tokens", "seconds")


class Best(Section):
    """The value of an evaluation that decides which checkpoint is the best."""

    metric: str = Field(description="Name of a value that the evaluation returns, such as loss or accuracy.")
    mode: Literal["min", "max"] = Field("min", description="min: a smaller value is better; max: a larger one.")


class Checkpoint(Section):
    """The checkpoints that a run can be resumed from."""

    every: Cadence = Field(
        Cadence(epochs=1),
        description="How often to write one; always at the end too. A step counts as a whole global batch.",
    )
    keep: int = Field(2, ge=1, description="Number of the newest checkpoints to keep.")
    best: Best | None = Field(
        None, description="Also keep the checkpoint with the best value of an evaluation; null: only the newest."
    )


class Divergence(Section):
    """When the loss counts as diverged, and what happens then. A loss of NaN or infinity always counts."""

    multiple: float | None = Field(
        10.0,
        gt=1,
        description="A loss also counts as diverged when it is above this many times the running median in ten steps "
        "in a row, or when it has risen again by half of its fall since the start in fifty steps in a row; null: only "
        "NaN and infinity count.",
    )
    then: Literal["stop", "go_back"] = Field(
        "stop",
        description="stop: end the run with a report; go_back: resume from the last checkpoint with a lower "
        "learning rate.",
    )
    lr_factor: float = Field(0.5, gt=0, lt=1, description="go_back: the learning rate is multiplied by this each time.")
    max_times: int = Field(3, ge=1, description="go_back: at most this often; then the run stops.")


class Failures(Section):
    """What happens when a worker is lost or hangs, or when the loss diverges."""

    max_restarts: int = Field(
        3,
        ge=0,
        description="Restarts after a worker is lost. An error of the recipe ends the run, because it would occur "
        "again.",
    )
    hang_timeout_s: float | None = Field(
        600.0,
        gt=0,
        le=MOST,
        description="A worker without progress for this many seconds counts as hanging: it is reported, and the "
        "workers are restarted. Set it longer than the slowest step, evaluation batch and building of the "
        "recipe. null: wait for ever.",
    )
    divergence: Divergence | None = Field(
        Divergence(), description="What to do when the loss diverges; null: nothing, training continues."
    )


class Job(Section):
    """One training: what a job file describes."""

    name: str = Field(description="Name of the job, of letters, digits, '.', '_' and '-'. Run ids begin with it.")
    recipe: str | None = Field(
        None,
        description="Function that builds the model and the data: module:function or path/file.py:function. A path is "
        "relative to the job file's folder; a module is next to the job file, in PYTHONPATH or installed. null: the "
        "job is for a loop of one's own (scaler.start).",
    )
    recipe_args: dict[str, Any] = Field(
        default_factory=dict, description="Keyword arguments for the recipe's function."
    )
    reference: Reference = Field(description="Batch size, learning rate and optimizer that were tuned together.")
    scale: Scale = Field(description="Number of workers, batch sizes and scaling rule.")
    groups: Annotated[
        Annotated[tuple[ParameterGroup, ...], Field(strict=False), Tag("<list>")]
        | Annotated[Literal["recipe"], Tag("<word>")],
        Discriminator(lambda value: "<word>" if isinstance(value, str) else "<list>"),
    ] = Field(
        (),
        description="Parameters with a learning rate, weight decay or freezing of their own. recipe: the recipe has "
        "the list.",
    )
    layer_decay: LayerDecay | None = Field(
        None, description="A lower learning rate for layers further from the output; null: none."
    )
    schedule: Annotated[Schedule, Discriminator(schedule_tag)] = Field(
        Constant(), description="Learning rate over the training, as a share of the peak."
    )
    train: Train = Field(description="Length and settings of the training.")
    resources: Resources = Field(default_factory=Resources, description="CPUs and GPUs of each worker.")
    runtime_env: RuntimeEnv = Field(
        default_factory=RuntimeEnv, description="Packages, environment variables and image of the workers."
    )
    checkpoint: Checkpoint = Field(default_factory=Checkpoint, description="Which checkpoints to write and to keep.")
    failures: Failures = Field(default_factory=Failures, description="What happens when something fails.")
    tracking: Tracking = Field(default_factory=Tracking, description="Trackers that also get the run's curves.")
    storage: str = Field(
        "runs",
        min_length=1,
        description="Where run folders are created: a folder, or a URI such as s3://bucket/prefix.",
    )

    @model_validator(mode="after")
    def _length_is_in_samples_where_steps_vary(self) -> Self:
        elastic, grows = self.scale.is_elastic, self.scale.batch_schedule is not None
        if self.train.steps is not None and (elastic or grows):
            why = "grow and shrink with the workers" if elastic else "grow with scale.batch_schedule"
            raise problem(
                f"train.steps = {self.train.steps} is not a fixed number of samples: steps {why}.",
                "Give train.epochs or train.samples.",
            )
        if self.scale.co_scale.ema and self.train.ema is None:
            raise problem("scale.co_scale.ema = true, and train.ema is missing.", "Give train.ema.")
        if self.scale.horizon and not self.reference.has_length:
            raise problem(
                "scale.horizon = true, and the length of the reference's training is missing.",
                "Give reference.total_samples, reference.total_tokens or reference.epochs.",
            )
        return self

    @model_validator(mode="after")
    def _counts_in_one_unit(self) -> Self:
        require_unit(self)
        return self

    @field_validator("name")
    @classmethod
    def _name_is_a_file_name(cls, name: str) -> str:
        return file_name(name)

    @field_validator("recipe")
    @classmethod
    def _recipe_is_a_path(cls, recipe: str | None) -> str | None:
        if recipe is None:
            return None
        where, _, function = recipe.rpartition(":")
        is_module = re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", where)
        if not function.isidentifier() or not (is_module or where.endswith(".py")):
            raise problem(
                f"= {recipe!r} is neither module:function nor file.py:function.",
                "For build() in recipe.py next to the job: recipe:build; in another folder: src/pkg/train.py:build.",
            )
        return recipe

    @property
    def recipe_function(self) -> str:
        """The recipe of a job that scaler's own loop trains.

        Raises:
            JobFileError: the job has none.
        """
        if self.recipe is None:
            raise JobFileError(
                f"the job {self.name} has no recipe: it is for a loop of one's own, which calls scaler.start.",
                "Run that script; or give a function that returns a scaler.Recipe, such as recipe: recipe:build.",
            )
        return self.recipe
