"""The report of one run: the contents of ``report.json``.

The name of a metric names its population, such as the mean over workers; None means not known.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

SCHEMA_VERSION = 2

ENDED_BY = (
    "finished",
    "stopped",
    "failed",
    "running",
    "diverged",  # training returned to a checkpoint
    "lost",  # a worker died
    "hung",
    "out_of_memory",
    "killed",  # the run driver was gone until somebody resumed the run
    "preempted",
    "terminated",  # a worker got SIGTERM
    "resized",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Totals:
    """The whole run."""

    samples_seen: int  # samples in the final weights, over all workers
    progress: float  # training done, in samples of the reference's training: samples_seen, unless rule: adascale
    steps: int  # optimizer steps in the final weights
    wall_s: float | None  # from submission to the end, without the time before a resume in which nothing ran
    train_s: float  # sum of step times, mean over ranks: without start-up, evaluations and checkpoints
    samples_per_s: float | None  # recorded samples over train_s; None without steps
    # of a job that counts tokens; None: it counts samples
    tokens_seen: int | None = None  # planned tokens in the final weights: those of samples_seen, padding included
    tokens_per_s: float | None = None  # planned tokens of the recorded samples over train_s
    real_tokens: float | None = None  # sum of the weights of the losses; None too where the loss returns no weight
    real_tokens_per_s: float | None = None  # real_tokens over train_s
    redone_samples: int  # recorded samples that a later attempt trained again; part of no other number
    redone_s: float  # step time of these samples, mean over ranks; part of no other number
    restart_s: float  # sum over attempts of the time from an attempt's end to the next one's start, as far as known


@dataclass(frozen=True, kw_only=True, slots=True)
class StepTime:
    """The times of one worker's optimizer steps, in seconds."""

    median: float  # seconds
    p95: float  # seconds; 95 % of the steps are faster
    worst: float  # seconds of the slowest step
    worst_step: int | None  # number of the slowest step; None without steps


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerRow:
    """One worker, over its steps in the final weights. Seconds are sums over these steps."""

    rank: int  # rank of the worker
    node: str | None  # host name of the node of its newest attempt
    pid: int | None  # process id in its newest attempt
    steps: int  # optimizer steps that it recorded
    samples: int  # samples that it trained on
    tokens: int | None = None  # planned tokens that it trained on; None: the job counts samples
    loss_mean: float | None  # mean by weight over its samples of the last epoch
    worker_samples_per_s: float | None  # samples over the sum of its step times; None without steps
    step_time_s: StepTime  # times of its steps
    data_wait_s: float  # waiting for its samples
    compute_s: float  # forward and backward, before the all-reduce
    sync_wait_s: float  # from its last gradient to the end of the all-reduce
    update_s: float  # the rest of its step times: the optimizer and the loop
    evaluation_s: float  # in evaluations; not part of the step times
    checkpoint_s: float  # training stood still for checkpoints; they are written while training continues
    peak_memory_gib: float  # most memory held: of the GPU, or on a CPU of its process
    memory_limit_gib: float | None  # memory of the GPU; on a CPU of the machine, which its workers share
    device: str | None  # "cpu", or what torch calls the GPU
    cpu_pct: float | None  # CPU time of its process over its step times; above 100 with several threads
    gpu_pct: float | None  # mean utilisation of the GPU; None: no GPU, or not known


@dataclass(frozen=True, kw_only=True, slots=True)
class Budget:
    """Where the wall clock went: seconds that add up to ``wall_s``. Those of steps are means over ranks.

    All are measured except ``other_s``, which is the rest. The rest is negative only where the clocks of nodes differ.
    """

    startup_s: float  # from submission to the first attempt's first step
    compute_s: float  # forward and backward
    data_wait_s: float  # waiting for samples
    sync_wait_s: float  # waiting for the all-reduce
    update_s: float  # the rest of the steps: the optimizer and the loop
    evaluation_s: float  # in evaluations
    checkpoint_s: float  # training stood still for checkpoints
    redone_s: float  # steps that a later attempt trained again, and evaluations and checkpoints that it repeated
    restart_s: float  # from an attempt's end to the next one's start
    other_s: float  # the rest: the end of the run, and what is not measured


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """What the run cost, in the currency of ``resources.price_per_worker_hour``."""

    price_per_worker_hour: float  # resources.price_per_worker_hour
    worker_hours: float  # sum over attempts of workers times hours, with the start-up or restart before each attempt
    total: float  # price times hours
    per_million_samples: float | None  # total for a million samples in the final weights; None without samples


@dataclass(frozen=True, kw_only=True, slots=True)
class Scaling:
    """The training speed of a worker against the speed of one worker alone, without start-up and evaluations.

    ``efficiency = worker_samples_per_s / one_worker_samples_per_s``; it is strong scaling if the job fixes the global
    batch, and weak scaling if the batch grows with the workers.
    """

    world_size: int  # workers of the last attempt with steps
    worker_samples_per_s: float  # samples over all workers' step times, in the attempts with that many workers
    one_worker_samples_per_s: float | None  # speed of one worker alone; None: not measured
    efficiency: float | None  # share, 1 is perfect; None: one worker's speed is not known
    source: str | None  # where one worker's speed is from: "reference.samples_per_s", "attempt N" or "run ID"


@dataclass(frozen=True, kw_only=True, slots=True)
class Flops:
    """The speed in floating-point operations, by the recipe's ``flops_per_sample``."""

    flops_per_sample: float  # FLOPs of a sample's forward and backward, as the recipe says
    worker_tflops: float  # achieved in steps, in 10**12 FLOPs a second and worker
    peak_tflops: float | None  # resources.peak_tflops_per_worker, in 10**12 FLOPs a second
    mfu: float | None  # model FLOPs utilisation: worker_tflops over peak_tflops, as a share


@dataclass(frozen=True, kw_only=True, slots=True)
class Final:
    """The result of the training."""

    train_loss_mean: float | None  # mean by weight over ranks and the steps of the last epoch
    eval: Mapping[str, float | None]  # values of the last evaluation by metric; empty without one; None: not finite
    # values that the recipe or one's own loop recorded, by name: mean by weight over the last epoch; None: not finite
    train: Mapping[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class AttemptRow:
    """One attempt of the worker group."""

    attempt: int  # number of the attempt; the first is 0
    world_size: int  # workers in the group
    data_parallel_size: int  # workers with samples of their own, among which the batch is divided
    mesh: Mapping[str, int]  # workers in each dimension: replicate, shard, tensor, context, pipeline, expert
    global_batch_size: int  # samples in its first step, over all workers
    end_global_batch_size: int  # samples in its last step, over all workers
    peak_lr: float  # peak learning rate at the batch of its first step
    start_samples: int  # samples in the weights at its start
    end_samples: int  # samples up to which its work is in the final weights; start_samples if all was trained again
    # finished, stopped, failed, running, diverged, lost, hung, out_of_memory, killed, preempted, terminated or resized
    ended_by: str
    cause: str | None  # why it ended, in one sentence with the rank; None: no cause, or not known
    per_worker_batch_size: int | None  # most samples in one forward/backward at its start; None: it made no step
    redone_samples: int  # recorded samples that a later attempt trained again
    redone_s: float  # step time of these samples, mean over ranks
    restart_s: float | None  # from its end to the next one's start; None: no next one, or not known
    elapsed_s: float | None  # from submission to its start, without time in which nothing ran; None: not known

    @property
    def is_undone(self) -> bool:
        """Whether the attempt recorded work, and all of it was trained again."""
        return self.end_samples == self.start_samples and self.redone_samples > 0

    @property
    def loses_its_end(self) -> bool:
        """Whether a later attempt trained its last steps again, with the evaluations and checkpoints after them."""
        return self.redone_samples > 0


@dataclass(frozen=True, kw_only=True, slots=True)
class LrAudit:
    """The learning rates that the optimizers used against the planned ones, over every record.

    The planned learning rate is the plan's times the controllers' factors, as recorded at each step. The
    planned learning rate is also compared with the one that is computed again from the job and the events: see
    ``audit_lrs``. Attempts whose plan is not known, because events are missing, are left out.
    """

    checked_steps: int  # optimizer steps that were compared, on every rank
    max_abs_error: float | None  # largest difference; None without steps, or where a learning rate was not finite
    as_planned: bool | None  # whether every difference is below 1e-9 of the peak; None without steps


@dataclass(frozen=True, kw_only=True, slots=True)
class Noise:
    """The estimated gradient noise scale at the last measured step, in samples, with a 90 % interval."""

    noise_scale: float | None  # samples; None: not known, or the noise hides the gradient
    lower: float | None  # samples; None: not known, because steps are too few or the trend bends too fast
    upper: float | None  # samples; None while lower is known: there is no upper bound
    measured_steps: int  # steps with a measurement
    meaning: str  # what the number means, and what it does not mean
    is_preconditioned: bool = False  # whether it is of the preconditioned gradient, as Adam or RMSprop divides it
    last_step: int | None = None  # number of the measured step that it is for; None: not known
    first_step: int | None = None  # number of the first step of the fitted trend; None: not known
    fitted_steps: int | None = None  # measured steps in the fitted trend; None: not known


@dataclass(frozen=True, kw_only=True, slots=True)
class Gain:
    """The gain that ``rule: adascale`` measured."""

    mean: float  # mean number of reference steps that one step was worth
    steps_saved: float  # how many more steps the reference needs for the same progress


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """A decision of a controller while the run was training."""

    samples_seen: int  # samples in the weights when the decision was taken
    elapsed_s: float | None  # since submission; None: not known
    attempt: int  # attempt in which the decision was taken
    kind: str  # kind of the event: lr_lowered, diverged, batch_grown or micro_batch_halved
    message: str  # one sentence
    undone: bool  # whether a later attempt started before it, so that it no longer holds


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """A finding: what is wrong with the run, the evidence, and what to do next."""

    code: str  # stable name, see docs/verdicts.md
    rank: int | None  # rank of the worker that it is about; None: it is about the whole run
    message: str  # one sentence
    evidence: str  # the numbers that led to it
    next: str  # what to do


@dataclass(frozen=True, kw_only=True, slots=True)
class Series:
    """Curves over ``samples_seen`` for drawing: each point stands for a stretch of steps, with its extremes.

    Lists whose names begin with ``noise_`` or ``eval_`` have points of their own; all others have one entry for each
    entry of ``samples_seen``.
    """

    samples_seen: tuple[int, ...]  # samples in the weights before the first step of the stretch
    elapsed_s: tuple[float | None, ...]  # from submission to the start of that step, without time in which nothing ran
    loss_mean: tuple[float | None, ...]  # mean by weight over ranks and steps
    loss_weight: tuple[float | None, ...]  # sum of the weights of loss_mean: samples, unless the loss returns a weight
    loss_min: tuple[float | None, ...]  # least loss of any rank and step
    loss_max: tuple[float | None, ...]  # greatest loss of any rank and step
    lr: tuple[float | None, ...]  # learning rate that the optimizer used in the first step
    lr_planned: tuple[float | None, ...]  # planned learning rate of the first step, with the controllers' factors
    global_batch_size: tuple[int, ...]  # samples a step
    progress: tuple[float, ...]  # where the schedule was in the first step, in samples
    world_size: tuple[int, ...]  # workers
    samples_per_s: tuple[float | None, ...]  # of all workers: samples over step times, mean over ranks
    samples_per_s_min: tuple[float | None, ...]  # of the slowest step
    samples_per_s_max: tuple[float | None, ...]  # of the fastest step
    step_time_s_max: tuple[float, ...]  # of the slowest rank in the slowest step
    compute_s: tuple[float, ...]  # of one step, mean over ranks and steps; this and the next three are its whole time
    data_wait_s: tuple[float, ...]  # of one step, mean over ranks and steps
    sync_wait_s: tuple[float, ...]  # of one step, mean over ranks and steps
    update_s: tuple[float, ...]  # of one step, mean over ranks and steps: the rest
    memory_gib_mean: tuple[float | None, ...]  # most memory held so far, mean over ranks
    memory_gib_max: tuple[float | None, ...]  # most memory held so far, of the rank with the most
    grad_norm_mean: tuple[float | None, ...]  # norm of the gradient before clipping, mean over steps
    grad_norm_max: tuple[float | None, ...]  # norm of the gradient before clipping, largest of the steps
    noise_samples_seen: tuple[int, ...]  # steps in which the noise was measured
    noise_elapsed_s: tuple[float | None, ...]  # when these steps began, since submission
    noise_scale: tuple[float | None, ...]  # estimate from the steps up to each of them; None: not known
    eval_samples_seen: tuple[int, ...]  # samples in the weights at each evaluation
    eval_elapsed_s: tuple[float | None, ...]  # when it ended, since submission
    evals: Mapping[str, tuple[float | None, ...]]  # values by metric, one for each evaluation


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """Everything that is reported about one run."""

    schema_version: int  # version of these fields: 2
    run_id: str  # name of the run's folder
    state: str  # starting, running, succeeded, failed, stopped or lost
    plan: Mapping[str, Any]  # plan.json
    totals: Totals  # of the whole run
    workers: tuple[WorkerRow, ...]  # one for each rank
    budget: Budget | None  # where the time went; None until the run has ended, or where its times are not known
    cost: Cost | None  # None without a price, until the run has ended, or where its times are not known
    scaling: Scaling | None  # speed of a worker; None without steps
    flops: Flops | None  # None unless the recipe gives flops_per_sample
    final: Final  # loss and metrics at the end
    data_order: str | None  # stream, ranges, shards: train_data's own; sampler: the recipe's; None: scaler's order
    attempts: tuple[AttemptRow, ...]  # in order
    decisions: tuple[Decision, ...]  # of the controllers, in order
    lr_audit: LrAudit  # whether the planned learning rates were used
    noise: Noise | None  # gradient noise scale; None when it was not measured
    gain: Gain | None  # None unless rule: adascale
    verdicts: tuple[Verdict, ...]  # findings, the most important first
    failure: str | None  # the error that ended the run, with its traceback; None without one
    branched_from: Mapping[str, Any] | None  # the checkpoint of another run that it began from; None: it began at 0
    series: Series  # curves

    @property
    def unit(self) -> str:
        """What the job counts: ``samples`` or ``tokens``."""
        return str(self.plan.get("unit", "samples"))

    @property
    def is_uneven(self) -> bool:
        """Whether there are several attempts, or the global batch changed within one."""
        return len(self.attempts) > 1 or any(
            row.end_global_batch_size != row.global_batch_size for row in self.attempts
        )

    @property
    def all_clear(self) -> str | None:
        """The sentence that is shown when there is no verdict; None when there is one."""
        if self.verdicts:
            return None
        return "Nothing to report: every record is there, and every step used the planned learning rate."

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON has it."""
        return asdict(self)
