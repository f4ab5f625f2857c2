"""The report of one run, as ``report.json`` has it. A metric names its population; None means not known."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

SCHEMA_VERSION = 2

ENDED_BY = (
    "finished",
    "stopped",
    "failed",
    "running",
    "diverged",  # it went back to a checkpoint
    "lost",  # a worker died
    "hung",
    "out_of_memory",
    "killed",  # the driver was gone, and somebody resumed the run
    "preempted",
    "terminated",  # a worker got SIGTERM
    "resized",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Totals:
    """The whole run."""

    samples_seen: int  # samples in the final weights, over all workers
    progress: float  # samples of the reference's training that they are worth: samples_seen, unless rule: adascale
    steps: int
    wall_s: float | None  # from submission to the end, without the time before a resume when nobody drove the run
    train_s: float  # sum over steps of the step time, mean over ranks: without start-up, evaluation and checkpoints
    samples_per_s: float | None  # recorded samples over train_s; None without steps
    redone_samples: int  # recorded in work that a later attempt did again: in none of the other numbers
    redone_s: float  # its step time, likewise
    restart_s: float  # from an attempt's end to the next one's start, the sum of what is known


@dataclass(frozen=True, kw_only=True, slots=True)
class StepTime:
    """One worker's times of an optimizer step."""

    median: float
    p95: float
    worst: float
    worst_step: int | None  # the step that took it; None without steps


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerRow:
    """One worker, over the steps that are in the final weights. Seconds are sums over its steps."""

    rank: int
    node: str | None  # where its newest life ran
    pid: int | None
    steps: int
    samples: int
    loss_mean: float | None  # over its share of the last epoch, by the loss's weight
    worker_samples_per_s: float | None
    step_time_s: StepTime
    data_wait_s: float
    compute_s: float
    sync_wait_s: float
    update_s: float  # the rest of its step times: the optimizer, and what stands around it
    evaluation_s: float
    checkpoint_s: float  # standing still for checkpoints; writing them goes on beside training
    peak_memory_gib: float
    memory_limit_gib: float | None  # of the device; on a CPU of the machine, which its workers share
    device: str | None  # cpu, or what torch calls the GPU
    cpu_pct: float | None  # CPU time of its process over its step times; above 100 with several threads
    gpu_pct: float | None  # mean utilisation of the device; None: no GPU, or unknown


@dataclass(frozen=True, kw_only=True, slots=True)
class Budget:
    """Where the wall clock went, in seconds that add up to ``wall_s``. Of steps: means over ranks, summed over steps.

    Only ``other_s`` is not measured but what is left: ending, and what nobody claims. It can be below 0 only where the
    clocks of nodes differ.
    """

    startup_s: float  # from submission to the first attempt's first step
    compute_s: float
    data_wait_s: float
    sync_wait_s: float
    update_s: float
    evaluation_s: float
    checkpoint_s: float  # training stood still
    redone_s: float  # steps, evaluations and checkpoints that a later attempt did again
    restart_s: float
    other_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """What the run cost, in the currency of ``resources.price_per_worker_hour``."""

    price_per_worker_hour: float
    worker_hours: float  # each attempt's workers, over its time; start-up and restarts by the attempt that they led to
    total: float
    per_million_samples: float | None  # of samples in the weights; None without any


@dataclass(frozen=True, kw_only=True, slots=True)
class Scaling:
    """What more workers bought: training speed a worker, against one worker alone. Start-up and evaluation are outside.

    ``efficiency = worker_samples_per_s / one_worker_samples_per_s`` (weak or strong, as the job's batch is).
    """

    world_size: int  # of the last attempt with steps
    worker_samples_per_s: float  # samples over all workers' step times, in the attempts with that many workers
    one_worker_samples_per_s: float | None  # None: nobody measured it
    efficiency: float | None
    source: str | None  # where one worker's speed is known from: reference.samples_per_s, attempt N, or run ID


@dataclass(frozen=True, kw_only=True, slots=True)
class Flops:
    """What the recipe's FLOPs make of the speed, in 10**12 FLOPs a second and worker."""

    flops_per_sample: float
    worker_tflops: float  # achieved, over training's steps
    peak_tflops: float | None  # resources.peak_tflops_per_worker
    mfu: float | None  # achieved over peak


@dataclass(frozen=True, kw_only=True, slots=True)
class Final:
    """Where the run ended."""

    train_loss_mean: float | None  # mean over ranks and steps of the last epoch, by the loss's weight
    eval: Mapping[str, float | None]  # the last one, over all of eval_data; empty without one, None if not finite


@dataclass(frozen=True, kw_only=True, slots=True)
class AttemptRow:
    """One life of the worker group."""

    attempt: int
    world_size: int
    global_batch_size: int  # of its first step
    end_global_batch_size: int  # of its last step
    peak_lr: float  # of its first step
    start_samples: int
    end_samples: int  # where its work in the weights ends; start_samples, where all of it was done again
    ended_by: str  # one of ENDED_BY
    cause: str | None  # one sentence, with the rank; None: nothing to say, or no event tells
    per_worker_batch_size: int | None  # of its first step; None: runs of before did not say
    redone_samples: int  # recorded by it, and done again by a later attempt
    redone_s: float  # the step time of that, mean over ranks
    restart_s: float | None  # from its end to the next one's start; None: none followed, or the times are not known
    elapsed_s: float | None  # from submission to its start, as the run's clock goes; None: the times are not known

    @property
    def is_undone(self) -> bool:
        """Whether it recorded work, and all of it was done again."""
        return self.end_samples == self.start_samples and self.redone_samples > 0

    @property
    def loses_its_end(self) -> bool:
        """Whether a later attempt did the last of its steps again, and with them what stood after."""
        return self.redone_samples > 0


@dataclass(frozen=True, kw_only=True, slots=True)
class LrAudit:
    """What the optimizers used against what was planned, over every record.

    Planned is the plan's rate times what the controllers made of it, recorded at each step; that is compared with the
    rate made again from the job and the events too: see ``audit_rates``. Attempts whose plan is not known for want of
    events are left out.
    """

    checked_steps: int
    max_abs_error: float | None  # None without steps, or when a rate was no number
    as_planned: bool | None  # every record's rate, but for a float's last digits; None without steps


@dataclass(frozen=True, kw_only=True, slots=True)
class Noise:
    """The gradient noise scale at the last measured step, in samples, and a 90 % interval of it: an estimate."""

    noise_scale: float | None  # None: not known, or the signal is lost in the noise
    lower: float | None  # None: not known, from too few steps or because the trend bends too fast
    upper: float | None  # None, where there is a lower end: without bound
    measured_steps: int
    meaning: str
    is_preconditioned: bool = False  # of the gradient as Adam or RMSprop divides it: in another measure of length
    last_step: int | None = None  # the measured step that it is the noise scale of; None where it is not known
    first_step: int | None = None  # the first of the steps whose trend gave it
    fitted_steps: int | None = None  # how many measured steps from that one to the last


@dataclass(frozen=True, kw_only=True, slots=True)
class Gain:
    """What ``rule: adascale`` measured."""

    mean: float  # steps of the reference that a step was worth
    steps_saved: float  # against the reference's steps for the same progress


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """Something that a controller did while the run was training."""

    samples_seen: int
    elapsed_s: float | None  # since submission; None: not known
    attempt: int
    kind: str  # lr_lowered, diverged, batch_grown, or micro_batch_halved
    message: str
    undone: bool  # a later attempt began before it


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """Something the numbers say: a stable code, whom it concerns, the evidence, and what to do next."""

    code: str
    rank: int | None
    message: str
    evidence: str
    next: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Series:
    """Curves over ``samples_seen``, thinned for drawing: each point stands for a stretch of steps, extremes kept."""

    samples_seen: tuple[int, ...]  # the first step of each stretch
    elapsed_s: tuple[float | None, ...]  # when that step began, since submission; idle time before a resume left out
    loss_mean: tuple[float | None, ...]  # mean over ranks and steps, by the loss's weight
    loss_weight: tuple[float | None, ...]  # that it is a mean over: samples, or what a (sum, weight) loss returns
    loss_min: tuple[float | None, ...]  # the least of any rank and step in the stretch
    loss_max: tuple[float | None, ...]
    lr: tuple[float | None, ...]  # as used
    lr_planned: tuple[float | None, ...]  # with what the controllers made of it
    global_batch_size: tuple[int, ...]
    progress: tuple[float, ...]
    world_size: tuple[int, ...]
    samples_per_s: tuple[float | None, ...]  # over all workers: samples of the stretch over step times, mean over ranks
    samples_per_s_min: tuple[float | None, ...]  # of the slowest step
    samples_per_s_max: tuple[float | None, ...]
    step_time_s_max: tuple[float, ...]  # the slowest rank in the slowest step
    compute_s: tuple[float, ...]  # of a step: mean over ranks and steps; these four are its whole time
    data_wait_s: tuple[float, ...]
    sync_wait_s: tuple[float, ...]
    update_s: tuple[float, ...]
    memory_gib_mean: tuple[float | None, ...]  # mean over ranks of the most memory held so far
    memory_gib_max: tuple[float | None, ...]  # of the rank with the most
    grad_norm_mean: tuple[float | None, ...]
    grad_norm_max: tuple[float | None, ...]
    noise_samples_seen: tuple[int, ...]  # steps that the noise was measured in
    noise_elapsed_s: tuple[float | None, ...]
    noise_scale: tuple[float | None, ...]  # the estimate there, from the steps up to it; None: not known
    eval_samples_seen: tuple[int, ...]
    eval_elapsed_s: tuple[float | None, ...]
    evals: Mapping[str, tuple[float | None, ...]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """Everything that is said about one run."""

    schema_version: int
    run_id: str
    state: str
    plan: Mapping[str, Any]
    totals: Totals
    workers: tuple[WorkerRow, ...]
    budget: Budget | None  # None until the run has ended, or when its times are not known
    cost: Cost | None  # None without a price, until the run has ended, or when its times are not known
    scaling: Scaling | None  # None without steps
    flops: Flops | None  # None unless the recipe gives flops_per_sample
    final: Final
    attempts: tuple[AttemptRow, ...]
    decisions: tuple[Decision, ...]
    lr_audit: LrAudit
    noise: Noise | None  # None when it was not measured
    gain: Gain | None  # None unless rule: adascale
    verdicts: tuple[Verdict, ...]
    failure: str | None  # the error that ended the run, with its traceback
    series: Series

    @property
    def is_uneven(self) -> bool:
        """Whether the attempts tell more than the totals: there are several, or the batch changed in one."""
        return len(self.attempts) > 1 or any(
            row.end_global_batch_size != row.global_batch_size for row in self.attempts
        )

    @property
    def all_clear(self) -> str | None:
        """What is said where there is no verdict; None where there is one."""
        if self.verdicts:
            return None
        return "Nothing to report: every record is there, and every step used the planned rate."

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON has it."""
        return asdict(self)
