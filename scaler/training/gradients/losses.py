"""What a recipe's loss may return: a mean, a sum with its weight, or a dict of these, with values to record."""

from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from scaler.errors import RecipeError
from scaler.training.model.sharding import whole
from scaler.training.recipe.failures import describe_type

LOSS = "loss"
_RETURN = "Return a scalar tensor, (sum, weight), or a dict of these."


class Term(NamedTuple):
    """A part of a loss: a mean over the batch's samples, or a sum and its weight."""

    value: Tensor
    weight: Tensor | float | None  # None: a mean


class Value(NamedTuple):
    """A value to record: a mean over the batch's samples, or a sum and its weight."""

    name: str
    value: Tensor | float
    weight: Tensor | float | None  # None: a mean


class BatchLoss(NamedTuple):
    """The loss of one batch. Terms are added after each was divided by its own weight over the whole step."""

    terms: tuple[Term, ...]  # one, unless some have weights of their own
    recorded: tuple[Value, ...] = ()


def read_loss(found: object) -> BatchLoss:
    """Return what ``loss(model, batch)`` returned, checked.

    A dict with ``loss`` has the loss there, and its other values are recorded. Without it, every entry is a term; the
    terms are added, and each is recorded too.

    Raises:
        RecipeError: it is not a scalar tensor with a gradient, or a dict of values that can be used.
    """
    if isinstance(found, Mapping):
        return _read_dict(found)
    return BatchLoss((read_term(found, "loss(model, batch) returned {}."),))


def read_values(found: Mapping[Any, Any], who: str) -> tuple[Value, ...]:
    """Return the values of a dict, to record.

    Args:
        found: name -> scalar, or ``(sum, weight)``.
        who: returned them, for messages.

    Raises:
        RecipeError: a value is not a number.
    """
    return tuple(_read_value(name, value, who) for name, value in found.items())


def evaluated_loss(found: object) -> Mapping[str, Any]:
    """Return the values of a loss in an evaluation, by name; each is a mean over samples, or ``(sum, weight)``.

    Raises:
        RecipeError: it is not a loss, or its terms have weights of their own: over all the data, they have no sum.
    """
    if not isinstance(found, Mapping) or LOSS in found:
        loss = read_term(found[LOSS] if isinstance(found, Mapping) else found, _EVALUATED, needs_gradient=False)
        others = {name: value for name, value in found.items() if name != LOSS} if isinstance(found, Mapping) else {}
        return {LOSS: loss.value if loss.weight is None else (loss.value, loss.weight), **others}
    terms = {name: read_term(term, _EVALUATED, needs_gradient=False) for name, term in found.items()}
    if any(term.weight is not None for term in terms.values()):
        raise RecipeError(
            "loss(model, batch) returned terms with weights of their own in the evaluation, and the recipe has no "
            "evaluate.",
            "Add evaluate(model, batch), which returns the values by name.",
        )
    values = {name: term.value for name, term in terms.items()}
    return {LOSS: sum(values.values()), **values}


def joined(terms: Sequence[Term], weights: Sequence[float], *, samples: int, step_samples: int) -> Tensor:
    """Return terms with weights of their own as one mean over a worker's share of the step.

        sum over terms of  mean  or  sum * step_samples / (samples * weight of the term over all workers)

    Times the share ``samples / step_samples``, and added over workers, each sum is divided by its whole weight.

    Args:
        terms: of this worker.
        weights: of each term over all workers; not used for a mean.
        samples: of this worker; 0: the result does not count.
        step_samples: over all workers.

    Raises:
        RecipeError: a weight is 0.
    """
    values = []
    for term, weight in zip(terms, weights, strict=True):
        if term.weight is not None and not weight > 0:
            raise no_weight(weight)
        factor = step_samples / (max(samples, 1) * weight) if term.weight is not None else 1.0
        values.append(term.value if factor == 1.0 else term.value * factor)
    return _added(values)


def weights_over_workers(weights: Sequence[Tensor | float], *, device: torch.device, world_size: int) -> list[float]:
    """Return each weight summed over all workers; a collective on several."""
    total = torch.stack([torch.as_tensor(weight, dtype=torch.float64, device=device) for weight in weights])
    if world_size > 1:
        dist.all_reduce(total)
    found: list[float] = total.tolist()
    return found


def no_weight(weight: float) -> RecipeError:
    """Return the error for a loss whose weights over a whole step add up to nothing."""
    return RecipeError(f"the loss's weight over the whole batch = {weight:g}.", "(sum, weight) needs a weight above 0.")


def weights_in_micro_batches(count: int) -> RecipeError:
    """Return the error for terms with weights of their own where a step has several micro-batches."""
    return RecipeError(
        f"the loss has terms with weights of their own, and a step has {count} micro-batches on a worker: the weights "
        "of the whole step are known only after the last.",
        "Use scale.grad_accum_steps: 1 and a per_worker_batch_size of at least a worker's share of the step; or return "
        "means, or one (sum, weight).",
    )


_EVALUATED = "loss(model, batch) returned {} in the evaluation."


def _read_dict(found: Mapping[Any, Any]) -> BatchLoss:
    who = "loss(model, batch)"
    if LOSS in found:
        loss = read_term(found[LOSS], f"{who} returned a dict whose loss is {{}}.")
        others = {name: value for name, value in found.items() if name != LOSS}
        return BatchLoss((loss,), read_values(others, who))
    if not found:
        raise RecipeError(f"{who} returned an empty dict.", _RETURN)
    terms = [read_term(term, f"{who} returned a dict whose {name} is {{}}.", needs_gradient=False)
             for name, term in found.items()]  # fmt: skip
    for name, term in zip(found, terms, strict=True):
        if not term.value.requires_grad and float(term.value) != 0.0:
            raise RecipeError(
                f"{who} returned the term {name} without a gradient: without an entry loss, each entry is a term.",
                f'To record {name} only, return the sum of the terms as "loss" beside it.',
            )
    recorded = read_values(found, who)
    means = [term.value for term in terms if term.weight is None]
    weighted = [term for term in terms if term.weight is not None]
    joined = [Term(_added(means), None)] if means else []
    if not any(term.value.requires_grad for term in (*joined, *weighted)):
        raise RecipeError(f"{who} returned terms without a gradient.", "Compute them from the model's output.")
    return BatchLoss((*joined, *weighted), recorded)


def _added(values: list[Tensor]) -> Tensor:
    total = values[0]
    for value in values[1:]:
        total = total + value
    return total


def read_term(found: object, problem: str, *, needs_gradient: bool = True) -> Term:
    """Return a mean, or a sum with its weight, checked.

    Args:
        found: what a loss has returned.
        problem: the text of an error, with ``{}`` for what was found.
        needs_gradient: whether to refuse a tensor without a gradient.

    Raises:
        RecipeError: it is not a scalar tensor, or has no gradient.
    """
    weight: Tensor | float | None = None
    value = found
    if isinstance(found, tuple) and len(found) == 2:
        value, weight = found
        if isinstance(weight, Tensor):
            weight = weight.detach()
    if isinstance(value, Tensor):
        value = whole(value)
    if not isinstance(value, Tensor) or value.ndim != 0:
        shape = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else describe_type(value)
        raise RecipeError(problem.format(shape), _RETURN)
    if needs_gradient and not value.requires_grad:
        raise RecipeError(problem.format("a tensor without a gradient"), "Compute it from the model's output.")
    return Term(value, weight)


def _read_value(name: object, found: object, who: str) -> Value:
    if not isinstance(name, str):
        raise RecipeError(f"{who} returned a value with the name {name!r}.", "The names of values are texts.")
    weight: Tensor | float | None = None
    value = found
    if isinstance(found, tuple) and len(found) == 2:
        value, weight = found
        weight = weight.detach() if isinstance(weight, Tensor) else weight
    if isinstance(value, Tensor) and value.numel() == 1:
        return Value(name, whole(value.detach()).reshape(()), weight)
    if isinstance(value, Real):
        return Value(name, float(value), weight)
    shape = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else describe_type(value)
    raise RecipeError(
        f"{who} returned {name} = {shape}.", "A value to record is a number: a mean over the samples, or (sum, weight)."
    )
