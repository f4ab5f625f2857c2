"""A training that has diverged goes back to its last checkpoint, or stops."""

from collections.abc import Callable

from scaler.errors import TrainingError
from scaler.metrics.events import CheckpointPassedOver
from scaler.training.checkpoints.files import find_checkpoint
from scaler.training.checkpoints.writer import CheckpointWriter
from scaler.training.process_group import from_rank_0
from scaler.training.run import Run
from scaler.training.worker_context import WorkerContext


class Recovery:
    """Goes back to the last checkpoint, with a lower learning rate.

    Args:
        run: this worker's part of the run.
        context: this worker's.
        checkpoints: of the run.
        restore: continues from the checkpoint at a number of samples seen.
    """

    def __init__(
        self, run: Run, context: WorkerContext, checkpoints: CheckpointWriter, restore: Callable[[int], None]
    ) -> None:
        self._run, self._context, self._checkpoints, self._restore = run, context, checkpoints, restore

    def go_back(self) -> None:
        """Load the last checkpoint and begin another attempt there; every worker calls this.

        Raises:
            TrainingError: the job says to stop, or allows no further return to a checkpoint.
        """
        run, controllers, context = self._run, self._run.controllers, self._context
        goes_back, times = controllers.may_go_back(), controllers.times_gone_back + 1
        reason = run.report_divergence(goes_back=goes_back)
        if not goes_back:
            raise controllers.divergence_error(reason)
        start = [0, 0]
        self._checkpoints.wait()
        if context.rank == 0:
            found, passed_over = find_checkpoint(context.folder)
            for samples, why in passed_over:
                run.event(CheckpointPassedOver, samples_seen=samples, reason=why)
            if found is None:
                raise TrainingError(f"{reason}, and no checkpoint to go back to can be read.", "Submit the job again.")
            start = [found, context.next_attempt()]
        samples_seen, attempt = from_rank_0(start, world_size=context.world_size, device=context.device)
        run.end_attempt(self._checkpoints.events())
        run.recorder.unchecked_records()  # these steps are undone
        self._restore(samples_seen)
        controllers.set_times_gone_back(times=times)
        context.attempt = attempt
