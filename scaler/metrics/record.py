"""The record: what one worker measured in one optimizer step."""

from typing import NamedTuple


class Record(NamedTuple):
    """One worker, one optimizer step. Population: this worker, unless the name or the text says otherwise.

    Where ``steps`` is above 1, samples, weight and times are sums over that many steps, the loss is their mean by
    weight, the memory their largest, the noise of the first that was measured, and everything else of the first step.
    """

    attempt: int  # the life of the worker group it was measured in; the first is 0
    rank: int
    step: int  # optimizer steps that samples_seen takes at this global batch size; the first is 0
    samples_seen: int  # samples in the weights before this step, over all workers: the clock that lr was read at
    progress: float  # where the schedule was, in samples: samples_seen, or with adascale its share that counts
    lr: float  # as the optimizer used it, read back from its parameter groups
    lr_planned: float  # the plan's, times what the controllers make of it
    samples: int  # this worker's share of the step
    loss: float | None  # mean over this worker's samples, or by weight; None where there is nothing to take it of
    step_time_s: float  # from the end of the step before (or of the evaluation or checkpoint between) to its own
    data_wait_s: float  # waiting for this worker's samples
    compute_s: float  # forward and backward before the all-reduce
    sync_wait_s: float  # from this worker's last gradient to the end of the all-reduce; 0 with one worker
    grad_norm: float  # of the whole batch's gradient, before clipping; the same on every worker
    peak_memory_gib: float  # most memory held until records were handed over: of the device, on a CPU of the process
    grad_signal: float | None  # this step's estimate of |G|^2, may be negative; None unless measured. On all alike
    grad_variance: float | None  # likewise, of a sample's gradient
    noise_scale: float | None  # in samples, an estimate from the trend of both up to here; None: unknown
    evaluation_s: float = 0.0  # in evaluations, between the record before and this one; not in step_time_s
    checkpoint_s: float = 0.0  # standing still for checkpoints, likewise
    cpu_s: float | None = None  # CPU time of this worker's process within step_time_s; above it with several threads
    gpu_pct: float | None = None  # the device's utilisation when records were handed over; None: no GPU, or unknown
    steps: int = 1  # optimizer steps that this record stands for: above 1 where the collector could not keep up
    weight: float | None = None  # what a (sum, weight) loss is divided by; None: of a mean, which has its samples

    @property
    def loss_weight(self) -> float:
        """What the loss counts with in every mean of it."""
        return self.samples if self.weight is None else self.weight
