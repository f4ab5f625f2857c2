"""What ``scaler.start`` returns: it counts the samples of one's own loop, writes its learning rate, and records it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from time import perf_counter, time
from types import TracebackType
from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn

from scaler.errors import TrainingError
from scaler.job import Job
from scaler.metrics.events import OWN_LOOP, AttemptStarted, Evaluated, Event, LrLowered
from scaler.metrics.record import Record
from scaler.plan import Phase, Plan
from scaler.training.clock import Mark, clock_for
from scaler.training.controllers import Controllers
from scaler.training.gradients.step import StepMeasures
from scaler.training.own_loop.counts import StepCounts
from scaler.training.own_loop.group import LoopGroup
from scaler.training.own_loop.loader import CountedLoader, samples_of
from scaler.training.own_loop.ready import GradientReady
from scaler.training.own_loop.scheduled import Scheduled, require_reference
from scaler.training.own_loop.torch_scheduler import LoopScheduler
from scaler.training.position import Position
from scaler.training.recorder import HAND_OVER_S, Recorder, StepMeasurement

Optimizer = torch.optim.Optimizer
Number = Tensor | float

COMPARED_EVERY = 100  # steps from one comparison of the processes' gradient norms to the next
SAME_NORM = 1e-3  # relative difference of gradient norms that rounding explains


class LoopContext(Protocol):
    """One process's place among the processes, and where its records, events and results go."""

    attempt: int
    """The number of this attempt in the run; known after ``begin``."""

    run_uri: str | None
    """The folder of the run, in every process; None before ``begin``."""

    @property
    def rank(self) -> int:
        """This process's number, in [0, world_size)."""

    @property
    def world_size(self) -> int:
        """Processes."""

    def begin(self, *, device: torch.device, from_samples: int | None, run: str | None) -> None:
        """Make the run's folder, or continue that of ``run``; every process calls this before its first batch.

        Args:
            device: of this process's model.
            from_samples: samples in the weights that the script has loaded; None: it starts at 0.
            run: the folder of the run that they are from.
        """

    def take_values(self, sums: Mapping[str, tuple[float, float]], *, samples_seen: int) -> None:
        """Take what the script has recorded besides the loss; ``hand_over`` follows.

        Args:
            sums: by name: sum of weight times value, and sum of the weights.
            samples_seen: in the weights, over all processes.
        """

    def hand_over(self, records: Sequence[Record], events: Sequence[Event], *, samples_seen: int) -> None:
        """Pass on records and events up to ``samples_seen``, without waiting."""

    def is_asked_to_stop(self) -> bool:
        """Return whether this process knows that the run is to be stopped."""

    def end(self, error: BaseException | None) -> Any:
        """Write the end of the run; ``error`` is what ended the script. Returns the report at rank 0."""


@dataclass(kw_only=True, slots=True)
class _Step:
    """What is known of the step that is being computed."""

    began: Mark | None = None  # its first batch was there
    synced: Mark | None = None  # the first optimizer began its step
    waits: list[tuple[Mark, Mark]] = field(default_factory=list)  # for batches
    losses: list[tuple[Tensor, float | Tensor]] = field(default_factory=list)  # with samples; or sums with weights
    is_weighted: bool = False
    last_fetched: int = 0  # samples in the last batch
    lr_planned: float = 0.0
    lr_used: float = 0.0
    grad_norm: Tensor = field(default_factory=lambda: torch.zeros(()))
    has_stepped: bool = False  # an optimizer has taken it


class OwnLoop:
    """A training with a loop of one's own: ``scaler.start`` makes it, one in each process.

    It writes the learning rate and the constants of each optimizer step right before the step, from the samples that
    all processes have fetched. Do not use another learning-rate scheduler.

    A step is everything from the fetch of its first batch to the fetch after an optimizer's step: several
    micro-batches, and the steps of several optimizers on the same batch.

    Args:
        job: of the run.
        plan: its plan, for the processes that there are.
        context: this process's.
        group: of the processes.

    Attributes:
        plan: the plan: every number, with its reason.
    """

    def __init__(self, job: Job, plan: Plan, context: LoopContext, group: LoopGroup) -> None:
        self.plan = plan
        self._job, self._context = job, context
        self._world_size = context.world_size
        self._clock = clock_for(torch.device("cpu"))  # until the device is known
        self._device: torch.device | None = None
        self._controllers = Controllers(job, plan)
        self._position = Position(job, plan, self._controllers)
        self._counts = StepCounts(group)
        self._recorder = Recorder(context, self._clock)
        self._optimizers: list[Scheduled] = []
        self._ready = GradientReady(lambda: self._clock.mark())
        self._resumed: Mapping[str, Any] | None = None
        self._best: float | None = None
        self._is_begun = self._is_stopped = self._is_finished = False
        self._steps = 0  # of this attempt
        self._norm: Tensor | None = None  # of the last step's gradient, if it is to be compared
        self._handed_over_at = self._step_ended_at = perf_counter()
        self._step = _Step()
        self._asked: Mark | None = None  # for the next batch, with ``fetching``
        self._values: dict[str, list[tuple[Number, Number]]] = {}  # recorded since the last hand-over, with weights

    # What a script asks.

    @property
    def batch_size(self) -> int:
        """Samples in one forward and backward of this process: the batch size of its loader."""
        return self.plan.per_worker_batch_size

    @property
    def accumulation(self) -> int:
        """Forward and backwards of this process for one optimizer step; 1: no accumulation."""
        return self.plan.grad_accum_steps

    @property
    def samples_seen(self) -> int:
        """Samples in the weights, over all processes."""
        return self._position.samples_seen + (self._counts.take().samples if self._step.has_stepped else 0)

    @property
    def is_over(self) -> bool:
        """Whether the training has all its samples, or was asked to stop; the same in every process."""
        return self._is_stopped or self.samples_seen >= self.plan.end_samples

    def lr(self) -> float:
        """Return the learning rate of the next step with a whole batch, for a group that has the reference's."""
        self._end_step()
        return self._position.lr(self._position.next_phase())

    # What a script tells.

    def prepare(self, *objects: Any) -> Any:
        """Return models, optimizers and loaders in the order in which they are given.

        Models come back as they are: wrap them yourself, before or after. The learning rates of an optimizer must be
        those of the reference. A loader comes back as one that counts its samples; a batch's number of samples is the
        length of its first tensor.

        Raises:
            PlanError: the optimizer is not the reference's, or a group's learning rate cannot be its.
        """
        found = [self._prepared(each) for each in objects]
        return found[0] if len(found) == 1 else tuple(found)

    def scheduler(self, optimizer: Optimizer) -> LoopScheduler:
        """Return a torch scheduler for a framework that requires one; its ``step`` does nothing.

        Args:
            optimizer: one that ``prepare`` got; another one is prepared.

        Raises:
            PlanError: as ``prepare``.
        """
        self._schedule(optimizer)
        return LoopScheduler(optimizer)

    def fetching(self) -> None:
        """Say that the next batch is asked for now: the time until ``count`` is a wait for data.

        For loops without a loader; it may be left out. An optimizer's step before it is complete.
        """
        self._forget_fetch()
        self._asked = self._begin_fetch()

    def count(self, samples: int) -> None:
        """Count samples of this process that the next optimizer step trains on, for loops without a loader.

        Call it in every process, before the forward of each micro-batch.
        """
        asked, self._asked = self._asked, None
        if asked is not None:
            self._step.waits.append((asked, self._clock.mark()))
        else:
            self._begin_fetch()
        self._counted(samples)

    def record(self, *, loss: Number, weight: Number | None = None, **values: Number) -> None:
        """Record the loss of the last batch that was fetched, and other values. It does not wait for a GPU.

        Args:
            loss: mean over the batch's samples of this process; with ``weight``, the mean over its weights.
            weight: of the loss in means over micro-batches, processes and steps, such as the number of tokens;
                None: the batch's samples.
            values: other means over the batch, by name, such as ``accuracy``; the report has their means by weight.

        Raises:
            TrainingError: a loss with a weight and one without it in the same step.
        """
        step = self._step
        if step.losses and step.is_weighted != (weight is not None):
            raise TrainingError(
                "scaler.record with a weight and without one in the same step.", "Give each loss its weight, or none."
            )
        value = loss.detach() if isinstance(loss, Tensor) else torch.tensor(float(loss))
        if weight is None:
            weighed: Tensor | float = float(step.last_fetched)
            step.losses.append((value, weighed))
        else:
            step.is_weighted = True
            weighed = weight.detach() if isinstance(weight, Tensor) else float(weight)
            step.losses.append((value * weighed, weighed))
        for name, each in values.items():
            self._values.setdefault(name, []).append((each.detach() if isinstance(each, Tensor) else each, weighed))

    def evaluated(self, **values: float) -> bool:
        """Report an evaluation of the present weights. Every process must call it, with the same values.

        With ``schedule.plateau``, it may lower the learning rate.

        Returns:
            Whether ``checkpoint.best``'s value is the best so far; False where the job does not name one.

        Raises:
            TrainingError: a value that the job names is missing.
        """
        self._end_step()
        self._begin()
        self._forget_fetch()
        self._recorder.add_pause("evaluation_s")
        plain = {name: float(value) for name, value in values.items()}
        known = {name: value if isfinite(value) else None for name, value in plain.items()}
        self._event(Evaluated, values=known, seconds=perf_counter() - self._step_ended_at)
        wanted = self._job.schedule.plateau
        if wanted is not None and wanted.metric not in plain:
            raise TrainingError(
                f"run.evaluated has {', '.join(plain) or 'no value'}, and schedule.plateau follows {wanted.metric}.",
                f"Give it: run.evaluated({wanted.metric}=...).",
            )
        lowered = self._controllers.add_evaluation(plain)
        if lowered is not None:
            self._event(LrLowered, by="plateau", factor=lowered.factor, reason=lowered.reason)
        return self._is_best(plain)

    def state_dict(self) -> dict[str, Any]:
        """Return the state for the script's own checkpoint: plain values, the same in every process."""
        self._end_step()
        return {
            **self._position.state_dict(),
            "controllers": self._controllers.state_dict(),
            "best": self._best,
            "run": self._context.run_uri,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a checkpoint of the script, on any number of processes; call it before the first step.

        The optimizer's state may be loaded before or after. The run that wrote the checkpoint continues, if its folder
        is there and no process runs it.

        Raises:
            TrainingError: the loop has taken a step already.
        """
        if self._is_begun:
            raise TrainingError(
                "load_state_dict after the first step of this loop.", "Load the checkpoint before training begins."
            )
        self._controllers.load_state_dict(state["controllers"])
        self._position.load_state_dict(state)
        self._best = state["best"]
        self._resumed = dict(state)

    def finish(self, error: BaseException | None = None) -> Any:
        """Write the end of the run and its report. Without this call, it happens when the script ends.

        Args:
            error: what ended the training; None: nothing did.

        Returns:
            The report, in the process of rank 0; None in the others, and in a second call.
        """
        if self._is_finished or not self._is_begun:
            return None
        self._is_finished = True
        self._end_step()
        self._recorder.end_attempt()
        self._hand_over()
        return self._context.end(error)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.finish(error)

    # How a step goes.

    def _prepared(self, each: Any) -> Any:
        if isinstance(each, nn.Module):
            self._ready.watch(each)
            self._device = self._device or next((p.device for p in each.parameters()), None)
            return each
        if isinstance(each, Optimizer):
            self._schedule(each)
            return each
        return CountedLoader(each, self._fetch)

    def _schedule(self, optimizer: Optimizer) -> None:
        if any(known.optimizer is optimizer for known in self._optimizers):
            return
        scheduled = Scheduled(
            optimizer,
            self._job,
            self.plan,
            before=self._before_update,
            ready=self._gradients_ready,
            after=self._after_update,
        )
        if not self._optimizers:
            require_reference(scheduled, self._job)
        self._optimizers.append(scheduled)
        self._device = self._device or scheduled.device()

    def _fetch(self, get: Callable[[], Any]) -> Any:
        """Return the next batch of a loader, and count it unless it is for an evaluation, without gradients."""
        if not torch.is_grad_enabled():
            return get()
        if self.is_over:
            raise StopIteration
        asked = self._begin_fetch()
        try:
            batch = get()
        except StopIteration:
            self._forget_fetch()
            raise
        self._step.waits.append((asked, self._clock.mark()))
        self._counted(samples_of(batch))
        return batch

    def _begin_fetch(self) -> Mark:
        """End the step before, if there is one, and return the moment at which the next batch is asked for."""
        self._end_step()
        if self._counts.own and self._counts.take().samples >= self.plan.global_batch_size:
            self._skip_step()
        self._begin()
        asked = self._clock.mark()
        if self._step.began is None:
            self._step.began = asked
        return asked

    def _forget_fetch(self) -> None:
        """Begin the next step when its first batch is asked for again."""
        self._asked = None
        if not self._counts.own:
            self._step.began = None

    def _counted(self, samples: int) -> None:
        self._step.last_fetched = samples
        norm, self._norm = (float(self._norm) if self._norm is not None else None), None
        self._counts.add(samples, is_asked_to_stop=self._context.is_asked_to_stop(), norm=norm)

    def _before_update(self, scheduled: Scheduled) -> None:
        """Write the learning rate of a step right before an optimizer takes it."""
        sums = self._counts.take()
        if sums.samples == 0:
            raise TrainingError(
                "an optimizer step without counted samples.",
                "Iterate over the loader that run.prepare returns, or call run.count(samples) before each forward.",
            )
        own = self._own_phase(sums.samples)
        share = self._position.share(own)
        scheduled.write(samples_seen=self._position.samples_seen, samples=sums.samples, share=share)
        if scheduled is self._optimizers[0]:
            self._require_equal_gradients(sums.norms, sums.norm, sums.square)
            self._step.lr_planned = own.peak_lr * share
            self._is_stopped = self._is_stopped or sums.stops > 0

    def _gradients_ready(self, scheduled: Scheduled) -> None:
        if scheduled is self._optimizers[0]:
            self._step.synced = self._clock.mark()
            self._step.grad_norm = scheduled.grad_norm()

    def _after_update(self, scheduled: Scheduled) -> None:
        self._step.has_stepped = True
        if scheduled is self._optimizers[0]:
            self._step.lr_used = scheduled.used_lr

    def _own_phase(self, samples: int) -> Phase:
        """Return the phase of a step with this many samples over all processes."""
        whole = self.plan.global_batch_size
        if samples > whole:
            raise TrainingError(
                f"a step has {samples} samples over {self._world_size} "
                f"process{'' if self._world_size == 1 else 'es'}, and the plan {whole}.",
                f"Use batch_size=run.batch_size ({self.batch_size}) in the loader and step after run.accumulation "
                f"({self.accumulation}) batches; or set scale.per_worker_batch_size in the job.",
            )
        return self.plan.step_phase(self._position.samples_seen, samples=samples)

    def _require_equal_gradients(self, count: int, norm: float, square: float) -> None:
        """Compare the gradient norms of all processes in an earlier step.

        Raises:
            TrainingError: they differ, so the processes train different models.
        """
        if count < 2:
            return
        mean = norm / count
        spread = max(square / count - mean * mean, 0.0) ** 0.5
        if spread > SAME_NORM * max(mean, 1e-30):
            raise TrainingError(
                f"the gradient norms of the {count} processes differ by {spread / mean:.0%}: nothing averages the "
                "gradients, so each process trains a model of its own.",
                "Wrap the model before training: DistributedDataParallel(model).",
            )

    def _end_step(self) -> None:
        """Record the step if an optimizer has taken it."""
        if not self._step.has_stepped:
            return
        sums = self._counts.take()
        began = self._step.began
        assert began is not None
        synced = self._step.synced if self._step.synced is not None else self._clock.mark()
        ready = self._ready.take(synced=synced)
        if self._world_size == 1:  # what comes after the gradient is no wait
            ready = synced
        position = self._position
        self._recorder.add(
            StepMeasurement(
                step=self.plan.steps(position.samples_seen),
                samples_seen=position.samples_seen,
                progress=position.progress,
                lr=self._step.lr_used,
                lr_planned=self._step.lr_planned,
                began=began,
                measures=StepMeasures(
                    losses=tuple(self._step.losses),
                    is_sum=self._step.is_weighted,
                    samples=self._counts.own,
                    data_waits=tuple(self._step.waits),
                    ready=ready,
                    synced=synced,
                ),
                grad_norm=self._step.grad_norm,
                squares=None,
                noise_scale=None,
            )
        )
        if self._steps % COMPARED_EVERY == 0 and not self._optimizers[0].is_sharded():
            self._norm = self._step.grad_norm
        self._steps += 1
        position.advance(sums.samples, worth=1.0)
        self._counts.clear()
        self._step = _Step()
        self._step_ended_at = perf_counter()
        if self._step_ended_at - self._handed_over_at >= HAND_OVER_S:
            self._hand_over()

    def _skip_step(self) -> None:
        """Move on after a step that no optimizer took: a ``GradScaler`` found gradients that are not finite."""
        self._position.advance(self._counts.take().samples, worth=1.0)
        self._counts.clear()
        self._step = _Step()

    # The run's folder.

    def _begin(self) -> None:
        """Begin the attempt, before the first batch or evaluation."""
        if self._is_begun:
            return
        self._is_begun = True
        resumed, device = self._resumed, self._device or torch.device("cpu")
        self._clock = clock_for(device)
        self._recorder = Recorder(self._context, self._clock)
        self._context.begin(
            device=device,
            from_samples=None if resumed is None else self._position.samples_seen,
            run=None if resumed is None else resumed["run"],
        )
        phase, ramp = self._position.next_phase(), self._position.ramp
        self._event(
            AttemptStarted,
            start_samples=self._position.samples_seen,
            world_size=self._world_size,
            global_batch_size=phase.global_batch_size,
            per_worker_batch_size=phase.per_worker_batch_size,
            peak_lr=phase.peak_lr,
            ramp=ramp.to_dict() if ramp is not None else None,
            flops_per_sample=None,
            data_order=OWN_LOOP,
        )
        self._recorder.begin()

    def _hand_over(self) -> None:
        sums, self._values = {name: _summed(pairs) for name, pairs in self._values.items()}, {}
        self._context.take_values(sums, samples_seen=self._position.samples_seen)
        self._recorder.hand_over(samples_seen=self._position.samples_seen)
        self._recorder.unchecked_records()
        self._handed_over_at = perf_counter()

    def _event(self, kind: Any, **values: Any) -> None:
        where = {"time": time(), "attempt": self._context.attempt, "samples_seen": self._position.samples_seen}
        self._recorder.event(kind(**where, **values))

    def _is_best(self, values: Mapping[str, float]) -> bool:
        wanted = self._job.checkpoint.best
        if wanted is None:
            return False
        if wanted.metric not in values:
            raise TrainingError(
                f"run.evaluated has {', '.join(values) or 'no value'}, and checkpoint.best follows {wanted.metric}.",
                f"Give it: run.evaluated({wanted.metric}=...).",
            )
        value = values[wanted.metric]
        sign = 1.0 if wanted.mode == "max" else -1.0
        is_best = isfinite(value) and (self._best is None or sign * value > sign * self._best)
        if is_best:
            self._best = value
        return is_best


def _summed(pairs: Sequence[tuple[Number, Number]]) -> tuple[float, float]:
    """Return the sum of weight times value, and the sum of the weights."""
    total = sum(float(value) * float(weight) for value, weight in pairs)
    return total, sum(float(weight) for _, weight in pairs)
