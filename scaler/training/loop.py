"""The training loop: the same on one worker and on many, on Ray and in a plain process.

Everything is a function of ``samples_seen``. Nothing here counts anything else.
"""

import random
from collections.abc import Iterator
from math import isfinite
from time import perf_counter, time
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from scaler.core.batch import steps_in
from scaler.core.seeds import stream_seed
from scaler.errors import RecipeError
from scaler.job import Job
from scaler.plan import Plan
from scaler.training.checkpoint import load_checkpoint, save_checkpoint
from scaler.training.clock import clock_for
from scaler.training.data import StepIndices, batches
from scaler.training.evaluate import evaluate
from scaler.training.gradients import GradientStep
from scaler.training.optimizer import build_optimizer, set_lr, used_lr
from scaler.training.recipe import Recipe
from scaler.training.recorder import Pending, Recorder
from scaler.training.surroundings import Surroundings

HAND_OVER_S = 1.0


def seed_everything(seed: int) -> None:
    """Seed torch, numpy and ``random``, so that every worker builds the same recipe; call before ``load_recipe``."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


class Training:
    """One worker's part in one life of the worker group.

    Args:
        recipe: model, data and loss.
        job: what was asked for.
        plan: every number, for the surroundings' world size.
        surroundings: where this worker is.

    Raises:
        RecipeError: the training set's size is not the plan's.
    """

    def __init__(self, recipe: Recipe, job: Job, plan: Plan, surroundings: Surroundings) -> None:
        if (size := len(recipe.train_data)) != plan.num_samples:  # type: ignore[arg-type]
            raise RecipeError(
                f"train.num_samples = {plan.num_samples}, but the recipe's train_data has {size} samples.",
                f"Set train.num_samples to {size}, or leave it out.",
            )
        self._recipe, self._job, self._plan, self._surroundings = recipe, job, plan, surroundings
        self._device = surroundings.device
        self._clock = clock_for(self._device)
        self._module: nn.Module = recipe.model.to(self._device)
        self._module.train()
        self._scaler = torch.amp.GradScaler(self._device.type, enabled=job.train.precision == "fp16")
        self._gradient = GradientStep(
            self._module,
            recipe.loss,
            world_size=surroundings.world_size,
            device=self._device,
            precision=job.train.precision,
            scaler=self._scaler,
            clock=self._clock,
        )
        self._optimizer = build_optimizer(self._module.parameters(), plan.optimizer)
        self._parameters = [parameter for group in self._optimizer.param_groups for parameter in group["params"]]
        self._recorder = Recorder(rank=surroundings.rank, attempt=surroundings.attempt, clock=self._clock)
        self._events: list[dict[str, Any]] = []
        self._pace = _Pace()
        self._step_ended = self._clock.mark()
        self.samples_seen = 0

    def restore(self, samples_seen: int) -> None:
        """Go on from a checkpoint. The learning rate is not restored: each step writes its own."""
        state = load_checkpoint(self._surroundings.folder, samples_seen)
        self._module.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._scaler.load_state_dict(state["scaler"])
        self.samples_seen = samples_seen

    def run(self) -> bool:
        """Train to the end, or until somebody asks to stop.

        Returns:
            Whether training is over; False when it was stopped before.
        """
        plan, surroundings = self._plan, self._surroundings
        self._event(
            "attempt_started",
            start_samples=self.samples_seen,
            world_size=surroundings.world_size,
            global_batch_size=plan.global_batch_size,
            peak_lr=plan.peak_lr,
        )
        # Workers built the same model from one seed; their dropout must differ.
        torch.manual_seed(stream_seed(self._job.train.seed, "rank", surroundings.rank))
        source = self._batches()
        self._step_ended = self._clock.mark()
        try:
            while size := plan.step_size(self.samples_seen):
                self._step(source, size)
                stopped = self._hand_over_when_due()
                self._save_and_evaluate_when_due(size, stopped=stopped)
                if stopped:
                    break
            return plan.step_size(self.samples_seen) == 0
        finally:
            # Also when something raised: what was measured is worth more than ever.
            self._hand_over()

    def _batches(self) -> Iterator[Any]:
        recipe, train = self._recipe, self._job.train
        indices = StepIndices(self._plan, seed=train.seed, rank=self._surroundings.rank, samples_seen=self.samples_seen)
        pin = self._device.type == "cuda"
        return batches(recipe, recipe.train_data, indices, data_workers=train.data_workers, pin=pin)

    def _step(self, source: Iterator[Any], size: int) -> None:
        plan = self._plan
        began = self._clock.mark()
        lr = plan.lr_at(self.samples_seen)
        set_lr(self._optimizer, lr)
        bounds = plan.micro_batch_bounds(size, rank=self._surroundings.rank)
        measures = self._gradient(source, [stop - start for start, stop in bounds], step_samples=size)
        self._scaler.unscale_(self._optimizer)
        gradients = [parameter.grad for parameter in self._parameters if parameter.grad is not None]
        grad_norm = torch.nn.utils.get_total_norm(gradients)
        if self._job.train.clip_grad_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(self._parameters, self._job.train.clip_grad_norm, grad_norm)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self._optimizer.zero_grad()
        previous_end, self._step_ended = self._step_ended, self._clock.mark()
        self._recorder.add(
            Pending(
                step=self._steps(self.samples_seen),
                samples_seen=self.samples_seen,
                lr=used_lr(self._optimizer, planned=lr),  # after the step: a hook of the recipe's would show
                previous_end=previous_end,
                began=began,
                ended=self._step_ended,
                measures=measures,
                grad_norm=grad_norm,
                peak_memory_gib=self._clock.peak_memory_gib(),
            )
        )
        self.samples_seen += size

    def _steps(self, samples: int) -> int:
        return steps_in(samples, global_batch_size=self._plan.global_batch_size, num_samples=self._plan.num_samples)

    def _hand_over_when_due(self) -> bool:
        """About once a second, at a step that all workers agree on: hand records over, and ask whether to stop."""
        if not self._pace.is_due():
            return False
        self._hand_over()
        stop = torch.tensor([self._surroundings.stop_requested(), self._pace.step_time_s()], dtype=torch.float64)
        if self._surroundings.world_size > 1:
            stop = stop.to(self._device)
            dist.all_reduce(stop, op=dist.ReduceOp.MAX)
        asked, step_time_s = stop.tolist()
        self._pace.next_after(step_time_s)
        return bool(asked)

    def _hand_over(self) -> None:
        events, self._events = self._events, []
        self._surroundings.hand_over(self._recorder.drain(), events)

    def _save_and_evaluate_when_due(self, size: int, *, stopped: bool) -> None:
        """After a step of ``size`` samples: what falls due with it, and at the end of training both."""
        before, ended = self.samples_seen - size, self._plan.step_size(self.samples_seen) == 0

        def due(every: int) -> bool:
            return ended or before // every != self.samples_seen // every

        save = due(self._plan.checkpoint_every_samples) or stopped
        measure = due(self._plan.eval_every_samples) and self._recipe.eval_data is not None
        if save or measure:
            self._share_buffers()
        if save:
            self._save()
        if measure:
            self._evaluate()
        if save or measure:
            self._step_ended = self._clock.mark()  # the next step's time begins here

    def _share_buffers(self) -> None:
        """Give every worker rank 0's buffers (BatchNorm's statistics): one model is saved and evaluated."""
        if self._surroundings.world_size > 1:
            for buffer in self._module.buffers():
                dist.broadcast(buffer, 0)

    def _evaluate(self) -> None:
        began, surroundings = perf_counter(), self._surroundings
        values = evaluate(
            self._recipe,
            self._module,
            rank=surroundings.rank,
            world_size=surroundings.world_size,
            batch_size=self._plan.per_worker_batch_size,
            device=self._device,
        )
        known = {name: value if isfinite(value) else None for name, value in values.items()}
        self._event("evaluated", values=known, seconds=perf_counter() - began)

    def _save(self) -> None:
        """Write a checkpoint, once every record of the work in it has arrived."""
        began, surroundings = perf_counter(), self._surroundings
        self._hand_over()
        surroundings.settle()
        if surroundings.world_size > 1:
            dist.barrier()
        if surroundings.rank == 0:
            state = {
                "model": self._module.state_dict(),
                "optimizer": self._optimizer.state_dict(),
                "scaler": self._scaler.state_dict(),
            }
            keep = self._job.checkpoint.keep
            save_checkpoint(surroundings.folder, state, samples_seen=self.samples_seen, keep=keep)
            self._event("checkpointed", seconds=perf_counter() - began)

    def _event(self, kind: str, **values: Any) -> None:
        """Note something that happened to the whole group; rank 0 speaks for all."""
        if self._surroundings.rank == 0:
            where = {"attempt": self._surroundings.attempt, "samples_seen": self.samples_seen}
            self._events.append({"kind": kind, "time": time(), **where, **values})


class _Pace:
    """Decides at which steps records are handed over, in steps, so that all workers can agree on them."""

    def __init__(self) -> None:
        self._steps = 0
        self._due = 1
        self._began = perf_counter()

    def is_due(self) -> bool:
        """Count a step; return whether it is one of those."""
        self._steps += 1
        return self._steps >= self._due

    def step_time_s(self) -> float:
        """Return this worker's mean time per step since the last hand-over."""
        return (perf_counter() - self._began) / max(self._steps, 1)

    def next_after(self, step_time_s: float) -> None:
        """Set the next hand-over ``HAND_OVER_S`` away; at most ten times as far as the last: first steps are slow."""
        self._due = max(1, min(int(HAND_OVER_S / max(step_time_s, 1e-9)), 10 * self._due))
        self._steps, self._began = 0, perf_counter()
