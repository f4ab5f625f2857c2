"""What ``scaler.start`` returns: the run, as a loop of one's own sees it."""

from collections.abc import Callable, Mapping
from time import perf_counter
from types import TracebackType
from typing import Any, Self

import torch
from torch import nn

from scaler.errors import TrainingError
from scaler.job import Job
from scaler.metrics.events import EVALUATING, OWN_LOOP
from scaler.plan import Plan
from scaler.training.activity import Activity
from scaler.training.clock import clock_for
from scaler.training.own_loop.context import LoopContext
from scaler.training.own_loop.group import LoopGroup
from scaler.training.own_loop.loader import CountedLoader
from scaler.training.own_loop.mesh import LoopMesh
from scaler.training.own_loop.model_mesh import require_data_parallel, require_known_sharding
from scaler.training.own_loop.open_step import Number
from scaler.training.own_loop.steps import LoopSteps
from scaler.training.own_loop.torch_scheduler import LoopScheduler
from scaler.training.recorder import Recorder
from scaler.training.run import Run
from scaler.training.worker_context import AttemptEnd, Leave


class OwnLoop:
    """A training with a loop of one's own: ``scaler.start`` makes it, one in each process.

    It writes the learning rate and the constants of each optimizer step right before the step, from the samples that
    all processes have fetched. Do not use another learning-rate scheduler.

    Args:
        job: of the run.
        plan: its plan, for the processes that there are.
        context: this process's.
        group: of the processes.
        mesh: says which of them train on the same samples.
        activity: updated with what this process is doing, for a watchdog; None: nobody watches.
    """

    def __init__(
        self,
        job: Job,
        plan: Plan,
        context: LoopContext,
        group: LoopGroup,
        mesh: LoopMesh,
        activity: Activity | None = None,
    ) -> None:
        self._job, self._context, self._mesh = job, context, mesh
        clock = clock_for(torch.device("cpu"))  # until the device is known
        self._run = Run(job, plan, context, clock)
        self._activity = activity or Activity()
        self._steps = LoopSteps(self._run, job, context, group, mesh, clock, self._activity, self._begin)
        self._device: torch.device | None = None
        self._resumed: Mapping[str, Any] | None = None
        self._is_begun = self._is_finished = False

    # What a script asks.

    @property
    def plan(self) -> Plan:
        """The plan: every number, with its reason."""
        return self._run.plan

    @property
    def batch_size(self) -> int:
        """Samples in one forward and backward of this process: the batch size of its loader, also in a token job."""
        return self.plan.per_worker_batch_size

    @property
    def accumulation(self) -> int:
        """Forward and backwards of this process for one optimizer step; 1: no accumulation."""
        return self.plan.grad_accum_steps

    @property
    def data_parallel_size(self) -> int:
        """Processes, or groups of them in a mesh, that train on different samples: ``num_replicas`` of a sampler."""
        return self._mesh.data_parallel_size

    @property
    def data_parallel_rank(self) -> int:
        """The number of this process, or of its group, among them, from 0: ``rank`` of a sampler."""
        return self._mesh.data_parallel_rank

    @property
    def samples_seen(self) -> int:
        """Samples in the weights, over all processes."""
        return self._steps.samples_seen

    @property
    def is_over(self) -> bool:
        """Whether the training has all its samples, or was asked to stop; the same in every process."""
        return self._steps.left is not Leave.NOT or self.samples_seen >= self.plan.end_samples

    def lr(self) -> float:
        """Return the learning rate of the next step with a whole batch, for a group that has the reference's."""
        self._steps.end()
        return self._run.next_lr()

    # What a script tells.

    def prepare(self, *objects: Any) -> Any:
        """Return models, optimizers and loaders in the order in which they are given.

        Models come back as they are: wrap them yourself, before or after. The learning rates of an optimizer must be
        those of the reference. A loader comes back as one that counts its samples; a batch's number of samples is the
        length of its first tensor.

        Raises:
            PlanError: the optimizer is not the reference's, or a group's learning rate cannot be its.
            TrainingError: a model is sharded by FSDP1; or it is parallel in other ways than by data, and
                ``scaler.start`` got no mesh.
        """
        found = [self._prepared(each) for each in objects]
        return found[0] if len(found) == 1 else tuple(found)

    def scheduler(self, optimizer: torch.optim.Optimizer) -> LoopScheduler:
        """Return a torch scheduler for a framework that requires one; its ``step`` does nothing.

        Args:
            optimizer: one that ``prepare`` got; another one is prepared.

        Raises:
            PlanError: as ``prepare``.
        """
        self._prepared(optimizer)
        return LoopScheduler(optimizer)

    def fetching(self) -> None:
        """Say that the next batch is asked for now: the time until ``count`` is a wait for data.

        For loops without a loader; it may be left out. An optimizer's step before it is complete.
        """
        self._steps.fetching()

    def count(self, samples: int) -> None:
        """Count samples of this process that the next optimizer step trains on, for loops without a loader.

        Call it in every process, before the forward of each micro-batch. In a job with ``train.unit: tokens``, a sample
        is a sequence of ``train.tokens_per_sample`` tokens.
        """
        self._steps.count(samples)

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
        self._steps.open.record(loss, weight, values)

    def evaluated(self, **values: float) -> bool:
        """Report an evaluation of the present weights. Every process must call it, with the same values.

        With ``schedule.plateau``, it may lower the learning rate.

        Returns:
            Whether ``checkpoint.best``'s value is the best so far; False where the job does not name one.

        Raises:
            TrainingError: a value that the job names is missing.
        """
        self._steps.end()
        self._begin()
        self._steps.forget_fetch()
        plain = {name: float(value) for name, value in values.items()}
        plateau = self._job.schedule.plateau
        self._require_value(plain, plateau.metric if plateau is not None else None, key="schedule.plateau")
        self._require_value(plain, self._run.best.metric, key="checkpoint.best")
        self._run.recorder.add_pause("evaluation_s")
        self._run.evaluated(plain, seconds=perf_counter() - self._steps.ended_at)
        is_best = self._run.best.is_best(plain)
        if is_best:
            self._run.best.keep(plain)
        return is_best

    def state_dict(self) -> dict[str, Any]:
        """Return the state for the script's own checkpoint: plain values, the same in every process."""
        self._steps.end()
        return {**self._run.state_dict(), "run": self._context.run_uri}

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
        self._run.load_state_dict(state)
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
        try:
            self._steps.end()
        except TrainingError as diverged:
            error = error or diverged
        self._run.end_attempt()
        return self._context.end(error, left=self._steps.left)

    @property
    def ended_by(self) -> AttemptEnd:
        """How a loop ended that no exception ended."""
        if self.samples_seen >= self.plan.end_samples or self._steps.left is Leave.NOT:
            return AttemptEnd.FINISHED
        return AttemptEnd.STOPPED if self._steps.left is Leave.STOP else AttemptEnd.YIELDED

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.finish(error)

    def _prepared(self, each: Any) -> Any:
        if isinstance(each, nn.Module):
            require_known_sharding(each)
            if not self._mesh.is_given:
                require_data_parallel(each)
            self._steps.watch(each)
            self._device = self._device or next((p.device for p in each.parameters()), None)
            return each
        if isinstance(each, torch.optim.Optimizer):
            scheduled = self._steps.schedule(each)
            self._device = self._device or scheduled.device()
            return each
        return CountedLoader(each, self._fetch)

    def _fetch(self, get: Callable[[], Any]) -> Any:
        """Return the next batch of a loader, and count it unless it is for an evaluation, without gradients."""
        if not torch.is_grad_enabled():
            self._activity.begin(EVALUATING)
            return get()
        if self.is_over:
            raise StopIteration
        return self._steps.fetch(get)

    def _begin(self) -> None:
        """Begin the attempt, before the first batch or evaluation."""
        if self._is_begun:
            return
        self._is_begun = True
        resumed, device = self._resumed, self._device or torch.device("cpu")
        self._steps.clock = clock_for(device)
        self._run.recorder = Recorder(self._context, self._steps.clock)
        self._context.begin(
            device=device,
            from_samples=None if resumed is None else self._run.samples_seen,
            run=None if resumed is None else resumed["run"],
        )
        self._run.begin_attempt(data_order=OWN_LOOP)
        self._run.recorder.begin()

    @staticmethod
    def _require_value(values: Mapping[str, float], metric: str | None, *, key: str) -> None:
        if metric is not None and metric not in values:
            raise TrainingError(
                f"run.evaluated has {', '.join(values) or 'no value'}, and {key} follows {metric}.",
                f"Give it: run.evaluated({metric}=...).",
            )
