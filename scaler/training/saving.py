"""When a training saves and evaluates, and what a checkpoint holds."""

from collections.abc import Mapping
from time import perf_counter
from typing import Any

import torch.distributed as dist

from scaler.metrics.events import SAVING, WAITING
from scaler.training.activity import Activity
from scaler.training.checkpoints.writer import CheckpointWriter
from scaler.training.data.sources import gather_places
from scaler.training.evaluation.evaluator import Evaluator
from scaler.training.hand_over import HandOver
from scaler.training.randomness import gather_random_states
from scaler.training.run import Run
from scaler.training.start_checks.data_digests import Digests
from scaler.training.stepper import Stepper
from scaler.training.worker_context import WorkerContext


class Saving:
    """Saves and evaluates as the plan says, on every worker at the same steps.

    Args:
        train_data: the recipe's; a checkpoint has each worker's place in data that are read forward.
        run: this worker's part of the run.
        context: this worker's.
        stepper: has the model.
        evaluation: of the recipe.
        checkpoints: writes them.
        hand_over: of this worker's records.
        activity: updated with what this worker is doing.

    Attributes:
        is_complete: whether the end of the training has been evaluated and saved.
        digests: of the data that the model was trained on.
    """

    def __init__(
        self,
        train_data: Any,
        run: Run,
        context: WorkerContext,
        stepper: Stepper,
        evaluation: Evaluator,
        checkpoints: CheckpointWriter,
        hand_over: HandOver,
        activity: Activity,
    ) -> None:
        self._train_data = train_data
        self._run, self._context, self._stepper, self._evaluation = run, context, stepper, evaluation
        self._checkpoints, self._hand_over, self._activity = checkpoints, hand_over, activity
        self.is_complete = False
        self.digests: Digests = {}

    def when_due(self, start: int, *, now: bool) -> None:
        """Save and evaluate as the plan says, and at the end of the training.

        Args:
            start: where the last step began, in samples.
            now: whether to save even if no checkpoint is due.
        """
        run, recorder = self._run, self._run.recorder
        is_end = run.position.next_size() == 0
        save = is_end or now or run.plan.is_checkpoint_due(start, run.samples_seen)
        evaluate = (is_end or run.plan.is_eval_due(start, run.samples_seen)) and self._evaluation.is_there
        if not (save or evaluate) or run.divergence is not None:
            return
        self._stepper.broadcast_buffers()
        if evaluate or is_end:
            self._stepper.set_mode(training=False)
        values = self._evaluate() if evaluate else None
        is_best = values is not None and run.best.is_best(values)
        if evaluate and not is_end:
            self._stepper.set_mode(training=True)
        if evaluate:
            recorder.add_pause("evaluation_s")
        if save or is_best:
            self.save(values, is_best=is_best)
        self.is_complete = is_end
        self._hand_over.interval.end_at_next_step()

    def save(self, values: Mapping[str, float] | None = None, *, is_best: bool = False) -> None:
        """Start to write a checkpoint, unless the training has diverged. Training waits for a copy in memory only.

        Args:
            values: of an evaluation of these weights; None: they were not evaluated.
            is_best: whether these are the best so far.
        """
        began = perf_counter()
        if self._is_sound():
            if is_best and values is not None:
                self._run.best.keep(values)
            self._activity.begin(SAVING)
            world_size = self._context.world_size
            of_workers = {
                "random": gather_random_states(self._context.device, world_size=world_size),
                "places": gather_places(self._train_data, world_size=world_size),
            }
            if self._checkpoints.takes_part:
                state = {**self._stepper.state_dict(), **self._run.state_dict(), "data": self.digests, **of_workers}
                self._checkpoints.save(state, self._run.plan, values=values, is_best=is_best, began=began)
        self._run.recorder.add_pause("checkpoint_s")

    def finish(self) -> None:
        """Wait on every worker for the last checkpoint: a worker that leaves earlier may end rank 0 too.

        Raises:
            RunError: it cannot be written.
        """
        self._activity.begin(SAVING)
        self._checkpoints.finish()
        if self._context.world_size > 1:
            self._activity.begin(WAITING)
            dist.barrier()
        self._run.recorder.add_pause("checkpoint_s")

    def _evaluate(self) -> dict[str, float]:
        began = perf_counter()
        values = self._evaluation.values(self._run.plan)
        self._run.evaluated(values, seconds=perf_counter() - began)
        return values

    def _is_sound(self) -> bool:
        """Return whether training could go back to the present weights."""
        run, controllers = self._run, self._run.controllers
        self._hand_over.now()
        if run.divergence is None and controllers.is_guarded:
            run.divergence = self._stepper.broken_weight()
        if run.divergence is not None:
            return False
        return not (run.position.next_size() and controllers.is_suspect())
