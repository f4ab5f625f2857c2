"""The same plan in smaller bites."""

from dataclasses import replace

from scaler.core.batch import strong_batch
from scaler.plan.model import Plan
from scaler.plan.phase import Phase


def limit_micro_batches(plan: Plan, most: int) -> Plan:
    """Return the plan with at most ``most`` samples in one forward/backward on one worker.

    Global batch, rate and everything else stay; only the accumulation is solved again.

    Args:
        plan: any plan of a job with ``per_worker_batch_size: auto``.
        most: samples, >= 1.
    """

    def limited(phase: Phase) -> Phase:
        batch = strong_batch(
            num_workers=plan.world_size,
            global_batch_size=phase.global_batch_size,
            per_worker_batch_size=min(most, phase.per_worker_batch_size),
            grad_accum_steps=None,
        )
        return replace(
            phase, per_worker_batch_size=batch.per_worker_batch_size, grad_accum_steps=batch.grad_accum_steps
        )

    phases = tuple(limited(phase) for phase in plan.phases)
    return replace(
        plan,
        phases=phases,
        per_worker_batch_size=phases[0].per_worker_batch_size,
        grad_accum_steps=phases[0].grad_accum_steps,
    )
