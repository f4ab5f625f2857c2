"""The steps of one's own loop: it fetches batches and lets optimizers step; everything else happens here."""

from collections.abc import Callable
from time import perf_counter
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from scaler.errors import TrainingError
from scaler.job import Job
from scaler.metrics.events import COMPUTING, LOADING
from scaler.plan.optimizers import job_of
from scaler.training.activity import Activity
from scaler.training.clock import Clock, Mark
from scaler.training.hand_over import HAND_OVER_S
from scaler.training.optimizer.scheduler import name_of_class
from scaler.training.own_loop.compare import COMPARED_EVERY, digest_of, require_equal_steps
from scaler.training.own_loop.context import LoopContext
from scaler.training.own_loop.counts import OfStep, StepCounts
from scaler.training.own_loop.group import LoopGroup
from scaler.training.own_loop.loader import samples_of
from scaler.training.own_loop.mesh import LoopMesh
from scaler.training.own_loop.open_step import OpenStep
from scaler.training.own_loop.ready import GradientReady
from scaler.training.own_loop.scheduled import Scheduled, require_reference
from scaler.training.run import Run
from scaler.training.worker_context import Leave


class LoopSteps:
    """Counts samples where they are fetched, writes learning rates where optimizers step, and records the steps.

    A step is everything from the fetch of its first batch to the fetch after an optimizer's step: several
    micro-batches, and the steps of several optimizers on the same batch.

    Args:
        run: this process's part of the run.
        job: of the run.
        context: this process's.
        group: of the processes.
        mesh: says which of them train on the same samples.
        clock: of the device; replaced when the device is known.
        activity: updated with what this process is doing.
        begin: called before each batch; it begins the attempt before the first one.

    Attributes:
        clock: of the device.
        optimizers: that the script has prepared.
        open: the step that is being computed.
        left: what all processes were asked to do, at the same step.
        ended_at: when the last step ended, by ``perf_counter``.
    """

    def __init__(
        self,
        run: Run,
        job: Job,
        context: LoopContext,
        group: LoopGroup,
        mesh: LoopMesh,
        clock: Clock,
        activity: Activity,
        begin: Callable[[], None],
    ) -> None:
        self._run, self._job, self._context, self._group, self._begin = run, job, context, group, begin
        self._activity, self._mesh = activity, mesh
        self.clock = clock
        self._counts = StepCounts(group, mesh)
        self._ready = GradientReady(lambda: self.clock.mark())
        self.optimizers: list[Scheduled] = []
        self.open = OpenStep()
        self.left = Leave.NOT
        self._asked: Mark | None = None  # for the next batch, with ``fetching``
        self._taken = 0  # steps of this attempt
        self._last: tuple[int, Tensor, float] | None = None  # ``OfStep`` of the last step, if it is to be compared
        self._digest = 0.0  # of the open step's batches
        self._losses: tuple[Tensor, dist.Work | None] | None = None  # that the divergence guard gets next
        self._handed_over_at = self.ended_at = perf_counter()

    @property
    def samples_seen(self) -> int:
        """Samples in the weights, over all processes."""
        return self._run.samples_seen + (self._counts.take().samples if self.open.is_taken else 0)

    @property
    def _is_compared(self) -> bool:
        """Whether the processes compare the open step with one another."""
        return self._taken % COMPARED_EVERY == 0

    def watch(self, model: nn.Module) -> None:
        """Note when the gradients of a model are complete."""
        self._ready.watch(model)

    def schedule(self, optimizer: torch.optim.Optimizer) -> Scheduled:
        """Write the learning rate of each of an optimizer's steps; an optimizer that was given before is not changed.

        Raises:
            PlanError: the optimizer is not the reference's, or a group's learning rate cannot be its.
        """
        for known in self.optimizers:
            if known.optimizer is optimizer:
                return known
        plan, name = self._run.plan, name_of_class(type(optimizer))
        own = next((own for own in plan.optimizers if own.optimizer["name"] == name != plan.optimizer["name"]), None)
        job = self._job if own is None else job_of(self._job, own.name)
        scheduled = Scheduled(
            optimizer,
            job,
            plan,
            own=own,
            before=self._before_update,
            ready=self._gradients_ready,
            after=self._after_update,
        )
        if own is not None or not self.optimizers:
            require_reference(scheduled, job)
        self.optimizers.append(scheduled)
        return scheduled

    def fetch(self, get: Callable[[], Any]) -> Any:
        """Return the next batch of a loader, which ``get`` returns, and count it."""
        asked = self._begin_fetch()
        try:
            batch = get()
        except StopIteration:
            self.forget_fetch()
            raise
        self.open.waits.append((asked, self.clock.mark()))
        if self._is_compared and self._mesh.is_shared:
            self._digest += digest_of(batch)
        self._count(samples_of(batch))
        return batch

    def fetching(self) -> None:
        """Begin a fetch that ``count`` ends."""
        self.forget_fetch()
        self._asked = self._begin_fetch()

    def forget_fetch(self) -> None:
        """Begin the next step when its first batch is asked for again."""
        self._asked = None
        if not self._counts.own:
            self.open.began = None

    def count(self, samples: int) -> None:
        """Count samples of this process for the next step, as ``fetch`` does."""
        asked, self._asked = self._asked, None
        if asked is not None:
            self.open.waits.append((asked, self.clock.mark()))
        else:
            self._begin_fetch()
        self._count(samples)

    def end(self) -> None:
        """End the step if an optimizer has taken it: record it, and hand records over about once a second.

        Raises:
            TrainingError: the training has diverged.
        """
        step = self.open
        if not step.is_taken:
            return
        assert step.first is not None
        assert step.planned is not None
        assert step.began is not None
        synced = step.synced if step.synced is not None else self.clock.mark()
        ready = self._ready.take(synced=synced)
        if self._group.world_size == 1:  # what comes after the gradient is no wait
            ready = synced
        self._run.recorder.values.add(step.counted_values(self._mesh), samples=1)
        if self._is_compared:
            self._last, self._digest = (self._counts.own, step.grad_norm, self._digest), 0.0
        self._taken += 1
        self._run.end_step(
            step.planned,
            lr=step.lr_used,
            began=step.began,
            measures=step.measures(samples=self._counts.own, mesh=self._mesh, ready=ready, synced=synced),
            grad_norm=step.grad_norm,
        )
        self._counts.clear()
        self.open = OpenStep()
        self.ended_at = perf_counter()
        self._check_losses()
        if step.is_due:
            self._hand_over()

    def _begin_fetch(self) -> Mark:
        """End the step before, if there is one, and return the moment at which the next batch is asked for."""
        self.end()
        if self._counts.own and self._counts.take().samples >= self._run.plan.global_batch_size:
            self._skip()
        self._begin()
        self._activity.begin(LOADING)
        asked = self.clock.mark()
        if self.open.began is None:
            self.open.began = asked
        return asked

    def _count(self, samples: int) -> None:
        self._activity.begin(COMPUTING)
        self.open.last_fetched = samples
        last, self._last = self._last, None
        compare = None if last is None else OfStep(last[0], float(last[1]), last[2])
        is_due = perf_counter() - self._handed_over_at >= HAND_OVER_S
        leave = self._context.leave_requested() if is_due else Leave.NOT
        self._counts.add(samples, leave=leave, is_due=is_due, compare=compare)

    def _before_update(self, scheduled: Scheduled) -> None:
        """Write the learning rate of a step right before an optimizer takes it."""
        sums = self._counts.take()
        self._require_samples(sums.samples)
        planned = self._run.planned_step(sums.samples)
        scheduled.write(planned.phase, samples_seen=planned.samples_seen, samples=planned.samples, share=planned.share)
        if self.open.first is None:
            compared = self._counts.take_compared()
            if compared is not None:
                require_equal_steps(compared, self._mesh)
            step = self.open
            step.first, step.planned, step.is_due = scheduled, planned, sums.dues > 0
            self.left = max(self.left, sums.leave)

    def _gradients_ready(self, scheduled: Scheduled) -> None:
        if scheduled is self.open.first:
            self.open.synced, self.open.grad_norm = self.clock.mark(), scheduled.grad_norm()

    def _after_update(self, scheduled: Scheduled) -> None:
        self.open.is_taken = True
        if scheduled is self.open.first:
            self.open.lr_used = scheduled.used_lr

    def _skip(self) -> None:
        """Move on after a step that no optimizer took: a ``GradScaler`` found gradients that are not finite."""
        self._run.position.advance(self._counts.take().samples, worth=1.0)
        self._counts.clear()
        self.open, self._digest = OpenStep(), 0.0

    def _hand_over(self) -> None:
        """Hand records over; every process does at the same step, so that their losses can be summed."""
        self._run.hand_over()
        self._handed_over_at = perf_counter()
        losses = self._run.unchecked_losses()
        if self._run.controllers.is_guarded:
            self._losses = losses, self._group.begin_sum(losses)

    def _check_losses(self) -> None:
        """Give the divergence guard the losses that were handed over a step ago, as means over all processes."""
        if self._losses is None:
            return
        (losses, work), self._losses = self._losses, None
        if work is not None:
            work.wait()
        self._run.check_losses(losses)
        if self._run.divergence is not None:
            raise self._run.controllers.divergence_error(self._run.report_divergence(goes_back=False))

    def _require_samples(self, samples: int) -> None:
        """Refuse a step without samples, and one with more than the plan's.

        Raises:
            TrainingError: says what to change in the loop.
        """
        if samples == 0:
            raise TrainingError(
                "an optimizer step without counted samples.",
                "Iterate over the loader that run.prepare returns, or call run.count(samples) before each forward.",
            )
        plan, processes, tokens = self._run.plan, self._group.world_size, self._run.plan.tokens_per_sample
        if samples > plan.global_batch_size:
            raise TrainingError(
                f"a step has {samples} samples over {processes} process{'' if processes == 1 else 'es'}, and the plan "
                f"{plan.global_batch_size}{f', of {tokens} tokens each' if tokens is not None else ''}.",
                f"Use batch_size=run.batch_size ({plan.per_worker_batch_size}) in the loader and step after "
                f"run.accumulation ({plan.grad_accum_steps}) batches; or set scale.per_worker_batch_size in the job.",
            )
