"""What the ``step`` of a recipe gets: backward and step of each optimizer, over all workers."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from scaler.core.nearest import did_you_mean
from scaler.errors import RecipeError
from scaler.metrics.events import COMPUTING, WAITING
from scaler.plan import Phase
from scaler.training.activity import Activity
from scaler.training.clock import Clock, Mark
from scaler.training.gradients.losses import no_weight, read_term, weights_over_workers
from scaler.training.gradients.norm import coalesced
from scaler.training.gradients.step import StepMeasures
from scaler.training.optimizer.scaled import ScaledOptimizer
from scaler.training.parallel.gradient_sum import GradientSum


class LoadedBatch(NamedTuple):
    """A worker's share of a step, before the recipe's step."""

    batch: Any
    samples: int  # that count: 0 if the share is empty
    step_samples: int  # over all workers
    asked: Mark
    got: Mark

    def measures(self) -> StepMeasures:
        """Return what is known before the step runs."""
        waits = ((self.asked, self.got),)
        return StepMeasures(
            losses=(), is_sum=False, samples=self.samples, data_waits=waits, ready=self.got, synced=self.got
        )


class Numbers(NamedTuple):
    """The numbers of a step, for every optimizer."""

    step: Phase
    lr: float
    momentum: float | None


class StepContext:
    """What ``step(context, batch)`` of a recipe gets: the model, and its optimizers by their names.

    Attributes:
        model: the model, not wrapped, on the worker's device and in training mode.
    """

    def __init__(
        self,
        model: nn.Module,
        parts: "Mapping[str, Part]",
        loaded: LoadedBatch,
        numbers: Numbers,
        *,
        clock: Clock,
        activity: Activity,
        device: torch.device,
        world_size: int,
    ) -> None:
        self.model = model
        self._parts, self._loaded, self._numbers = parts, loaded, numbers
        self._clock, self._activity, self._device, self._world_size = clock, activity, device, world_size
        self._with_gradient: dict[str, None] = {}  # names whose parameters have a gradient of this step
        self.loss = torch.zeros((), device=device)  # sum of all losses of this worker's share
        self.norms: dict[str, Tensor] = {}  # by name: of the gradient of its last step
        self.used: list[float] = []  # the learning rate of each optimizer step
        self.waits: list[tuple[Mark, Mark]] = []  # for the other workers

    def backward(self, loss: "Tensor | tuple[Tensor, Tensor | float]", *names: str, retain_graph: bool = False) -> None:
        """Add the gradient of a loss to the parameters of optimizers; those of the others do not change.

        The loss is weighted so that the sum over the workers, which ``step`` makes, is the gradient of one worker on
        the whole batch. Several calls before a step add up. Call it equally often on every worker.

        Args:
            loss: the mean over the batch's samples; or ``(sum, weight)``, divided by the weight over all workers.
            names: of the optimizers; none: all.
            retain_graph: keep what the graph of the loss has computed, for another backward through it.

        Raises:
            RecipeError: there is no such optimizer, or the loss does not depend on its parameters.
        """
        chosen = self._chosen(names, "backward")
        trains = any(self._parts[name].parameters for name in chosen)  # or all are frozen now
        value, weight = read_term(loss, "context.backward was given {}.", needs_gradient=trains)
        share = self._loaded.samples / self._loaded.step_samples
        if weight is not None:
            own = weight if self._loaded.samples else 0.0
            (total,) = weights_over_workers([own], device=self._device, world_size=self._world_size)
            if not total > 0:
                raise no_weight(total)
            share = float(self._loaded.samples > 0) / total
        for name in chosen:
            if name not in self._with_gradient:
                self._parts[name].require_no_gradient(name)
        self._parts_backward(value, share, chosen, retain_graph=retain_graph)
        self._with_gradient |= dict.fromkeys(chosen)
        if self._loaded.samples:
            factor = 1.0 if weight is None else share * self._loaded.step_samples / self._loaded.samples
            self.loss = self.loss + (value.detach() if factor == 1.0 else value.detach() * factor)

    def step(self, *names: str) -> None:
        """Sum the gradients of optimizers over the workers, take a step of each, and clear their gradients.

        An optimizer may step several times on a batch; each of its steps has the learning rate of this step of the run.

        Args:
            names: of the optimizers; none: all.

        Raises:
            RecipeError: there is no such optimizer, or it has no gradient.
        """
        chosen = self._chosen(names, "step")
        for name in chosen:
            if name not in self._with_gradient:
                raise RecipeError(
                    f"context.step({name!r}) was called, and no context.backward before it gave {name} a gradient.",
                    f"Call context.backward(loss, {name!r}) first.",
                )
        ready = self._clock.mark()
        self._activity.begin(WAITING)
        for name in chosen:
            self._parts[name].start_sum(counts=self._loaded.samples > 0)
        for name in chosen:
            self._parts[name].wait()
        self._activity.begin(COMPUTING)
        self.waits.append((ready, self._clock.mark()))
        step, lr, momentum = self._numbers
        for name in chosen:
            del self._with_gradient[name]
            optimizer = self._parts[name].optimizer
            if not self._parts[name].parameters:  # all are frozen now
                self.used.append(lr)
                continue
            trained, self.norms[name] = optimizer.whole_gradient()
            self.used.append(optimizer.step(trained, self.norms[name], step, lr=lr, momentum=momentum))

    def end(self) -> None:
        """Check, after the recipe's step, that every gradient was used.

        Raises:
            RecipeError: no optimizer took a step, or a gradient is left.
        """
        if not self.used:
            raise RecipeError(
                "step(context, batch) took no step of an optimizer.",
                f"Call context.step, such as context.step({next(iter(self._parts))!r}).",
            )
        for name in self._with_gradient:
            raise RecipeError(
                f"step(context, batch) ended with a gradient of {name} that no context.step({name!r}) used.",
                "Gradients are not kept for the next batch: step the optimizer in the same call.",
            )

    def _chosen(self, names: Sequence[str], method: str) -> list[str]:
        for name in names:
            if name not in self._parts:
                raise RecipeError(
                    f"context.{method}: the recipe has no optimizer {name!r}.",
                    f"{did_you_mean(str(name), list(self._parts))}Known: {', '.join(self._parts)}.",
                )
        return list(dict.fromkeys(names or self._parts))

    def _parts_backward(self, value: Tensor, share: float, names: Sequence[str], *, retain_graph: bool) -> None:
        """Run backward for the parameters of optimizers: together, or one after the other if each scales its loss."""
        parts = [self._parts[name] for name in names]
        is_scaled = any(part.optimizer.scaler.is_enabled() for part in parts)
        rounds = [[part] for part in parts] if is_scaled else [parts]
        seed = None if share == 1.0 else torch.full_like(value, share)
        for number, together in enumerate(rounds, start=1):
            inputs = [parameter for part in together for parameter in part.parameters if parameter.requires_grad]
            if not inputs:
                continue
            scaled = together[0].optimizer.scaler.scale(value)
            with torch.autocast(self._device.type, enabled=False):
                scaled.backward(seed, retain_graph=retain_graph or number < len(rounds), inputs=inputs)  # type: ignore[no-untyped-call]
        for name, part in zip(names, parts, strict=True):
            part.require_gradient(name)


class Part:
    """An optimizer and the parameters that it trains now, with their sum over workers."""

    def __init__(
        self,
        optimizer: ScaledOptimizer,
        named: Mapping[str, nn.Parameter],
        *,
        sparse: Sequence[nn.Parameter],
        world_size: int,
    ) -> None:
        self.optimizer, self.parameters = optimizer, list(named.values())
        self._sum = GradientSum(named, sparse=sparse) if world_size > 1 and named else None

    def require_no_gradient(self, name: str) -> None:
        """Raise an error if something other than the context has computed a gradient."""
        if any(parameter.grad is not None for parameter in self.parameters):
            raise RecipeError(
                f"a parameter of {name} has a gradient that context.backward did not compute.",
                f"Call context.backward(loss, {name!r}) instead of loss.backward().",
            )

    def require_gradient(self, name: str) -> None:
        """Raise an error if backward gave no parameter a gradient."""
        if self.parameters and all(parameter.grad is None for parameter in self.parameters):
            raise RecipeError(
                f"context.backward(loss, {name!r}): the loss does not depend on a parameter of {name}.",
                "Compute it from context.model, without detach() or no_grad() on the way.",
            )

    def start_sum(self, *, counts: bool) -> None:
        """Start to sum the gradient over workers; ``counts`` is False if this worker's share is empty."""
        if self._sum is not None:
            self._sum.start_rest(counts=counts)
        else:
            for parameter in self.parameters:
                if parameter.grad is not None and parameter.grad.is_sparse:
                    parameter.grad = coalesced(parameter.grad)

    def wait(self) -> None:
        """Wait for the sum."""
        if self._sum is not None:
            self._sum.wait()

    def close(self) -> None:
        """Remove the hooks from the parameters."""
        if self._sum is not None:
            self._sum.close()
