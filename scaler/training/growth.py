"""A batch that grows with the gradient noise."""

from scaler.metrics.events import BatchGrown
from scaler.training.run import Run


def grow_when_due(run: Run, start: int) -> bool:
    """Grow the batch from the next step on if the job and the measured noise ask for it; return whether it did.

    Args:
        run: a worker's part of a run; every worker decides the same.
        start: where the last step began, in samples.
    """
    position = run.position
    if run.divergence is not None or not position.is_grow_check_due(start):
        return False
    grown = run.controllers.next_batch(
        position.phase.global_batch_size, instead_of_decay=position.batch_instead_of_decay()
    )
    if grown is None or not position.next_size():
        return False
    phase = position.grow(grown)
    run.event(BatchGrown, global_batch_size=grown, peak_lr=phase.peak_lr)
    position.align()
    return True
