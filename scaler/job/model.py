"""The job file: the meaning, unit, range and default of every key.

``scaler schema`` prints these models as JSON Schema, and ``docs/job-file.md`` is made from them.
"""

import re
from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from scaler.errors import JobFileError
from scaler.job.acceleration import ActivationCheckpointing, CompileChoice
from scaler.job.fsdp import Fsdp, require_shardable
from scaler.job.mesh import require_mesh
from scaler.job.optimizer import LayerDecay, ParameterGroup
from scaler.job.reference import Reference
from scaler.job.resources import Resources
from scaler.job.runtime_env import RuntimeEnv
from scaler.job.scale import Scale
from scaler.job.schedule import Constant, Schedule, schedule_tag
from scaler.job.section import MOST, Length, Point, Section, file_name, problem
from scaler.job.tracking import Tracking
from scaler.job.unit import require_unit


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
    strategy: Literal["ddp", "fsdp"] = Field(
        "ddp",
        description="How the workers share the model. ddp: each has a copy of weights and optimizer. fsdp: each has a "
        "part, and gathers the weights of one block at a time, for models that do not fit one worker.",
    )
    fsdp: Fsdp = Field(default_factory=Fsdp, description="strategy: fsdp: how the model is sharded.")
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
        description="Where run folders are created: a folder, or a URI such as s3://bucket/prefix. A relative folder "
        "is relative to the current folder, not to this file.",
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

    @model_validator(mode="after")
    def _fits_its_workers(self) -> Self:
        require_shardable(self)
        require_mesh(self)
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
