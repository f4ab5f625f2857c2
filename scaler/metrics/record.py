"""The record: what one worker measured in one optimizer step.

``Record`` is the only table of columns. Each column is one entry: its meaning and unit in the comment, its name, its
type (``| None`` if it may be missing), how several steps of a worker merge into one record, what it is measured for,
and its default. The Parquet schema, the merging of records, the report's step arrays and ``docs/data.md`` are derived
from it. To add a column, add an entry here and fill it in ``scaler/training/recorder.py``.
"""

from enum import Enum
from types import NoneType
from typing import Annotated, Any, NamedTuple, get_args, get_type_hints


class Merge(Enum):
    """How the values of consecutive steps of one worker become one value, in a record of several steps."""

    FIRST = "the first step's"
    SUM = "sum of those that are known"
    MAX = "largest"
    MEAN = "mean by weight"
    WEIGHT = "sum of the weights"
    MEASURED = "that of the first step with a noise measurement"


class Per(Enum):
    """What a value is measured for."""

    KEY = "key"
    """Nothing measured: it identifies the record's worker and step."""
    STEP = "step"
    """The step; the same on every worker."""
    WORKER = "worker"
    """The worker in this step."""
    BETWEEN = "worker, between steps"
    """The worker, between its previous record and this step's time; 0 in most records."""
    SAMPLE = "worker, now and then"
    """The worker at the moment when records are handed over."""


class Bits(Enum):
    """The size of a number in files, where it is not 64 bits."""

    B32 = 32


class Record(NamedTuple):
    """One worker, one optimizer step; or several consecutive steps, where ``steps`` is above 1."""

    # The attempt that the step was measured in; the first is 0.
    attempt: Annotated[int, Merge.FIRST, Per.KEY, Bits.B32]
    # Rank of the worker in its group, from 0.
    rank: Annotated[int, Merge.FIRST, Per.KEY, Bits.B32]
    # Number of optimizer steps that the plan of this attempt takes to reach samples_seen; the first step is 0.
    step: Annotated[int, Merge.FIRST, Per.STEP]
    # Samples in the weights before this step, over all workers. The learning rate is a function of it.
    samples_seen: Annotated[int, Merge.FIRST, Per.KEY]
    # Position in the schedule, in samples: samples_seen, or with adascale the part of it that counts as progress.
    progress: Annotated[float, Merge.FIRST, Per.STEP]
    # Learning rate that the optimizer used, read back from its parameter groups.
    lr: Annotated[float, Merge.FIRST, Per.STEP]
    # Learning rate of the plan, times the factors of the controllers.
    lr_planned: Annotated[float, Merge.FIRST, Per.STEP]
    # Samples of this step that this worker trained on; of workers that get the same samples (scale.mesh), one has them.
    samples: Annotated[int, Merge.SUM, Per.WORKER]
    # Mean loss over this worker's samples, or by weight for a (sum, weight) loss; None without samples or weight, and
    # where another worker has the loss of the same samples.
    loss: Annotated[float | None, Merge.MEAN, Per.WORKER]
    # Seconds from the end of the step before, or of an evaluation or checkpoint in between, to the end of this step.
    step_time_s: Annotated[float, Merge.SUM, Per.WORKER]
    # Seconds of step_time_s in which the worker waited for its samples.
    data_wait_s: Annotated[float, Merge.SUM, Per.WORKER]
    # Seconds of step_time_s in forward and backward, without the waits for other workers.
    compute_s: Annotated[float, Merge.SUM, Per.WORKER]
    # Seconds of step_time_s from the worker's last gradient to the end of the all-reduce; 0 with one worker. With
    # train.strategy: fsdp, the waits inside forward and backward, where weights are gathered and gradients summed.
    sync_wait_s: Annotated[float, Merge.SUM, Per.WORKER]
    # Norm of the gradient of the whole global batch, before clipping; of a pipeline's stage, over its parameters.
    grad_norm: Annotated[float, Merge.FIRST, Per.STEP]
    # Largest memory until the record was handed over, in 2**30 bytes: of the GPU; without a GPU, of the process.
    peak_memory_gib: Annotated[float, Merge.MAX, Per.WORKER]
    # Estimate of |G|^2, the squared norm of the true gradient, from this step; may be negative; None: not measured.
    grad_signal: Annotated[float | None, Merge.MEASURED, Per.STEP]
    # Estimate of the variance of one sample's gradient, from this step; None: not measured.
    grad_variance: Annotated[float | None, Merge.MEASURED, Per.STEP]
    # Estimate of the gradient noise scale in samples, from the trends of grad_variance and grad_signal; None: unknown.
    noise_scale: Annotated[float | None, Merge.MEASURED, Per.STEP]
    # Seconds in evaluations since the previous record; not part of step_time_s.
    evaluation_s: Annotated[float, Merge.SUM, Per.BETWEEN] = 0.0
    # Seconds that training stood still for checkpoints since the previous record; not part of step_time_s.
    checkpoint_s: Annotated[float, Merge.SUM, Per.BETWEEN] = 0.0
    # CPU seconds of the worker's process within step_time_s; with several threads it can be above step_time_s.
    cpu_s: Annotated[float | None, Merge.SUM, Per.WORKER] = None
    # Utilisation of the GPU in percent when records were handed over; None: no GPU, or not known.
    gpu_pct: Annotated[float | None, Merge.FIRST, Per.SAMPLE] = None
    # Optimizer steps in this record; above 1 if records came faster than they could be written.
    steps: Annotated[int, Merge.SUM, Per.STEP, Bits.B32] = 1
    # Weight that a (sum, weight) loss returned; None for a mean loss, whose weight is its samples. In a mesh whose
    # workers get the same samples: the weight of this worker's loss, 0 without one.
    weight: Annotated[float | None, Merge.WEIGHT, Per.WORKER] = None

    @property
    def loss_weight(self) -> float:
        """The weight of this loss in a mean of losses."""
        return self.samples if self.weight is None else self.weight


class Column(NamedTuple):
    """One column of the table."""

    name: str
    type: type[int] | type[float]
    is_nullable: bool
    bits: int
    merge: Merge
    per: Per


def _column(name: str, hint: Any) -> Column:
    value, *about = get_args(hint)
    marks = {type(mark): mark for mark in about}
    (kind,) = {*(get_args(value) or (value,))} - {NoneType}
    bits: int = marks[Bits].value if Bits in marks else 64
    return Column(name, kind, NoneType in get_args(value), bits, marks[Merge], marks[Per])


COLUMNS = tuple(_column(name, hint) for name, hint in get_type_hints(Record, include_extras=True).items())
"""The columns of ``Record``, in order."""


def columns_per(per: Per) -> tuple[Column, ...]:
    """Return the columns whose values are measured for ``per``.

    Example:
        >>> [column.name for column in columns_per(Per.BETWEEN)]
        ['evaluation_s', 'checkpoint_s']
    """
    return tuple(column for column in COLUMNS if column.per is per)
