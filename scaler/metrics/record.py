"""The record: what one worker measured in one optimizer step."""

from typing import NamedTuple


class Record(NamedTuple):
    """One worker, one optimizer step. Population: this worker, unless the name or the text says otherwise."""

    attempt: int  # the life of the worker group it was measured in; the first is 0
    rank: int
    step: int  # optimizer steps taken before this one, over the whole run
    samples_seen: int  # samples in the weights before this step, over all workers: the clock that lr was read at
    lr: float  # as the optimizer used it, read back from its parameter groups
    samples: int  # this worker's share of the step
    loss: float | None  # mean over this worker's samples (or by weight); None when its share was empty
    step_time_s: float  # from the end of the step before, without evaluation and checkpoint
    data_wait_s: float  # waiting for this worker's samples
    compute_s: float  # forward and backward before the all-reduce
    sync_wait_s: float  # from this worker's last gradient to the end of the all-reduce; 0 with one worker
    grad_norm: float | None  # of the whole averaged gradient before clipping; None when it was not asked for
    peak_memory_gib: float  # most memory held so far: of the device, on a CPU of the process
