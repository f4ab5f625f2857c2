"""A phase: a stretch of training at one global batch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from scaler.core.steps import LastBatch, steps_between


@dataclass(frozen=True, kw_only=True, slots=True)
class Phase:
    """A stretch of training at one global batch, with what the rule makes of it. Most plans have one."""

    start_samples: int  # samples seen at its first step
    start_steps: int  # optimizer steps before it
    global_batch_size: int  # samples per optimizer step, over all workers
    per_worker_batch_size: int  # samples in one forward/backward on one worker
    grad_accum_steps: int  # forward/backwards per optimizer step
    batch_ratio: float  # global_batch_size / reference_batch_size
    lr_ratio: float  # what the rule makes of batch_ratio
    peak_lr: float  # peak learning rate at this global batch size
    weight_decay_ratio: float  # factor for the weight decay of groups; ``optimizer`` has it already
    ema_decay: float | None  # of train.ema, per step; with adascale and co_scale.ema, per step of the reference
    optimizer: Mapping[str, Any]  # name and options of the optimizer at this global batch size


def steps_to(samples_seen: int, phase: Phase, *, num_samples: int, last_batch: LastBatch) -> int:
    """Return how many optimizer steps lead to ``samples_seen``, which ``phase`` holds or ends at."""
    inside = steps_between(
        phase.start_samples,
        samples_seen,
        global_batch_size=phase.global_batch_size,
        num_samples=num_samples,
        last_batch=last_batch,
    )
    return phase.start_steps + inside


def read_phases(values: Sequence[Mapping[str, Any]], *, num_samples: int) -> tuple[Phase, ...]:
    """Return the phases of a plan's JSON; where ``start_steps`` is missing, it is counted."""
    names = [field.name for field in fields(Phase)]
    phases: list[Phase] = []
    for value in values:
        start = value["start_samples"]
        counted = steps_to(start, phases[-1], num_samples=num_samples, last_batch="scale") if phases else 0
        known = {"start_steps": counted, **value}
        phases.append(Phase(**{name: known[name] for name in names}))
    return tuple(phases)
