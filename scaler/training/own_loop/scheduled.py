"""One optimizer of one's own loop: its learning rate and constants are written right before each of its steps."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from scaler.core.optimizers import optimizer_facts
from scaler.errors import PlanError
from scaler.job import Job
from scaler.plan import Phase, Plan, PlanOptimizer
from scaler.training.gradients.norm import total_norm
from scaler.training.optimizer.initialization import is_initialization
from scaler.training.optimizer.scheduler import SampleScheduler

Optimizer = torch.optim.Optimizer


class Scheduled:
    """An optimizer whose learning rate nobody can forget to write: hooks of its step do it.

    A step that a ``GradScaler`` skips calls no hook, and counts as none. The step of zeros with which
    ``torch.distributed.checkpoint`` makes an optimizer's state counts as none, too.

    Args:
        optimizer: as it was tuned at the reference.
        job: says the rule, and the reference of this optimizer.
        plan: says the batch and the schedule.
        own: of the plan, if the optimizer is one of ``reference.optimizers``.
        before: called with this object before each step of the optimizer; it calls ``write``.
        ready: called with this object when the gradients of a step are complete: before the step, or in it, after its
            closure.
        after: called with this object after each step.

    Attributes:
        used_lr: in the last step, as a learning rate of the plan: of all groups the value farthest from the first's.

    Raises:
        PlanError: as ``SampleScheduler``.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        job: Job,
        plan: Plan,
        *,
        own: PlanOptimizer | None = None,
        before: Callable[["Scheduled"], None],
        ready: Callable[["Scheduled"], None],
        after: Callable[["Scheduled"], None],
    ) -> None:
        rule = plan.scaling.rule if own is None else own.scaling.rule
        is_sde = rule.name == "adam_sde"
        self.optimizer, self.used_lr = optimizer, 0.0
        self._before, self._ready = before, ready
        self._plan, self._own, self._to_plan = plan, own, 1.0
        self._trains = True  # whether the present step is one of the training
        optimizer.register_step_pre_hook(self._begin_step)  # before the hooks of the scheduler
        self._scheduler = SampleScheduler(
            optimizer,
            reference_batch_size=plan.reference_batch_size,
            global_batch_size=plan.global_batch_size,
            schedule=plan.schedule,
            rule=rule.name,
            exponent=rule.exponent if rule.name == "power" else None,
            noise_scale=rule.noise_scale if rule.name == "gain" else None,
            betas=rule.betas if is_sde else "sde",
            co_scale={key: value for key, value in asdict(rule.co_scale).items() if key != "ema"},
            beta2_range=rule.beta2_range if is_sde or rule.co_scale.beta2 is not None else None,
            reference_samples=plan.reference_samples if job.scale.horizon else None,
            total_samples=plan.total_samples if job.scale.horizon else None,
        )
        optimizer.register_step_post_hook(lambda *_: self._stepped(after))
        self._reference_lr = plan.base_lr

    @property
    def name(self) -> str:
        """The name of the optimizer's class in the job file, or ``module:Class``."""
        return self._scheduler.optimizer_name

    def write(self, step: Phase, *, samples_seen: int, samples: int, share: float) -> None:
        """Write the learning rate and constants of a step.

        Args:
            step: the plan's phase of this step, at the step's own size.
            samples_seen: before the step, over all processes.
            samples: in the step, over all processes.
            share: of the peak learning rate.

        Raises:
            TrainingError: something else wrote the learning rate.
        """
        if self._own is not None:
            whole = self._own.phase(self._plan.phases[0])
            is_whole = step.global_batch_size == whole.global_batch_size
            own = whole if is_whole else self._own.scaling.short_step(whole, step.global_batch_size)
            self._to_plan = step.lr_ratio / own.lr_ratio
        self._scheduler.follow(samples_seen=samples_seen, samples=samples, share=share)

    def grad_norm(self) -> Tensor:
        """Return the norm of the gradient, over all groups; of a sharded gradient, that of the whole one.

        Parameters that only other processes have, such as those of another pipeline stage, are not in it.
        """
        gradients = [p.grad for group in self.optimizer.param_groups for p in group["params"] if p.grad is not None]
        return total_norm(gradients) if gradients else torch.zeros(())

    def device(self) -> torch.device | None:
        """Return the device of the first parameter."""
        return next((p.device for group in self.optimizer.param_groups for p in group["params"]), None)

    def _begin_step(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Return the arguments of the step, with a closure that says when its gradients are complete."""
        self._trains = not is_initialization(optimizer)
        if not self._trains:
            return None
        self._before(self)
        closure = kwargs.get("closure", args[1] if len(args) > 1 else None)
        if closure is None:
            self._ready(self)
            return None

        def computed() -> Any:
            loss = closure()
            self._ready(self)
            return loss

        return (args[0],), {**kwargs, "closure": computed}

    def _stepped(self, after: Callable[["Scheduled"], None]) -> None:
        if not self._trains:
            return
        groups = self.optimizer.param_groups
        lrs = [
            float(group["lr"]) / (group["initial_lr"] / self._reference_lr) * self._to_plan
            for group in groups
            if group["initial_lr"]
        ]
        self.used_lr = max(lrs, key=lambda lr: abs(lr - lrs[0])) if lrs else 0.0
        after(self)


def require_reference(scheduled: Scheduled, job: Job) -> None:
    """Refuse an optimizer that is not the one that the job's reference was tuned with.

    Raises:
        PlanError: names what differs.
    """
    wanted, defaults = job.reference.optimizer, scheduled.optimizer.defaults
    known = optimizer_facts(scheduled.name).options or ()
    differences: list[tuple[str, Any, Any]] = []
    if scheduled.name != wanted.name:
        differences.append(("reference.optimizer.name", wanted.name, scheduled.name))
    else:
        given = {
            "lr": job.reference.lr,
            **{key: wanted.with_defaults[key] for key in known if key in wanted.with_defaults},
        }
        for key, value in given.items():
            mine = tuple(value) if isinstance(value, list) else value
            if key in defaults and defaults[key] != mine:
                where = "reference.lr" if key == "lr" else f"reference.optimizer.{key}"
                differences.append((where, mine, defaults[key]))
    if differences:
        key, theirs, own = differences[0]
        raise PlanError(
            f"the job's {key} is {theirs}, and the optimizer of the loop has {own}.",
            "Make them equal: both are what was tuned at reference.global_batch_size; scaler does the rest.",
        )
