"""What the convergence points say: the critical batch of each benchmark, and which rule its learning rates follow."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from mlperf_rcp.points import BOUND, Point, PointSet

from scaler.core.critical_batch import FEWEST_BATCHES, CriticalBatch, fit_critical_batch, predict_samples
from scaler.core.fits import Groups, least_squares, profile_interval
from scaler.core.intervals import Estimate
from scaler.core.optimizers import optimizer_facts
from scaler.core.rules import Rule, choose_rule, lr_ratio

LEVEL = 0.90
HOLDS = 1.5  # a rule holds while its learning rate is within this factor of the chosen one
RULES = ("linear", "sqrt", "none")


def facts(sets: Sequence[PointSet]) -> dict[str, Any]:
    """Return the facts as JSON: plain numbers, rounded to 4 digits."""
    newest = {found.benchmark: found for found in sets}
    return {
        "source": "https://github.com/mlcommons/logging, mlperf_logging/rcp_checker, commit 7bbf792",
        "licence": "Apache License 2.0, copyright MLCommons",
        "level": LEVEL,
        "workloads": [_workload(found, is_newest=found is newest[found.benchmark]) for found in sets],
    }


def critical_batches(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return the critical batches of ``facts``: one row for each workload that has one, in samples (sequences)."""
    return {
        "source": found["source"],
        "licence": found["licence"],
        "level": found["level"],
        "workloads": [
            {
                "benchmark": workload["benchmark"],
                "optimizer": workload["optimizer"],
                "round": workload["rounds"][-1],
                "batches": workload["batches"],
                **{name: workload["critical_batch"][name] for name in ("value", "low", "high")},
            }
            for workload in found["workloads"]
            if workload["is_newest"] and workload["critical_batch"]["value"] is not None
        ],
    }


def _workload(found: PointSet, *, is_newest: bool) -> dict[str, Any]:
    curve = fit_critical_batch({point.batch: point.amounts for point in found.points}, level=LEVEL)
    workload = {
        "benchmark": found.benchmark,
        "optimizer": found.optimizer,
        "rounds": list(found.rounds),
        "is_newest": is_newest,
        "batches": [point.batch for point in found.points],
        "critical_batch": _ends(curve.critical_batch),
        "refusal": curve.refusal,
        "largest_residual": _rounded(curve.largest_residual),
    }
    if not is_newest:
        return workload
    return {
        **workload,
        "fewest": None if curve.fewest_samples is None else _ends(curve.fewest_samples),
        "points": [
            {
                "batch": point.batch,
                "lr": point.lr,
                "amount": _rounded(_amount(point)),
                "runs": len(point.amounts),
                "left_out": point.left_out,
            }
            for point in found.points
        ],
        "held_out": _held_out(found),
        "lr": _learning_rates(found, curve),
    }


def _held_out(found: PointSet) -> dict[str, Any] | None:
    """Return the prediction of the largest batch from the others, and what was found; None with too few others."""
    *others, largest = found.points
    if len(others) < FEWEST_BATCHES:
        return None
    predicted = predict_samples({point.batch: point.amounts for point in others}, largest.batch, level=LEVEL)
    amount = _amount(largest)
    return {**_ends(predicted), "found": _rounded(amount), "is_inside": predicted.holds(amount)}


def _amount(point: Point) -> float:
    return math.exp(math.fsum(map(math.log, point.amounts)) / len(point.amounts))


def _learning_rates(found: PointSet, curve: CriticalBatch) -> dict[str, Any]:
    """Return how the chosen learning rates follow the batch, and how far each rule is from them."""
    known = [(point.batch, point.lr) for point in found.points if point.lr is not None]
    (reference, base_lr), *others = known
    auto, _ = choose_rule("auto", optimizer=found.optimizer)
    rules = {name: Rule(name=name) for name in dict.fromkeys((*RULES, auto))}
    family = optimizer_facts(found.optimizer).family
    if curve.critical_batch.value is not None and family is not None and family.gain_exponent is not None:
        rules["gain"] = Rule(name="gain", noise_scale=curve.critical_batch.value)
    exponent = _exponent(known)
    compared = {
        name: _compared(
            {
                batch: lr
                / base_lr
                / lr_ratio(
                    rule,
                    batch_ratio=batch / reference,
                    reference_batch_size=reference,
                    optimizer=found.optimizer,
                )
                for batch, lr in others
            }
        )
        for name, rule in {**rules, "power": Rule(name="power", exponent=exponent["value"])}.items()
    }
    return {
        "bound_by": BOUND.get(found.benchmark),
        "exponent": exponent,
        "auto": auto,
        "closest": min(rules, key=lambda name: compared[name]["typical_factor"]),
        "rules": compared,
    }


def _compared(ratios: Mapping[int, float]) -> dict[str, Any]:
    """Return how far a rule is from the learning rates, given batch -> chosen over the rule's.

    ``typical_factor`` is the root mean square of the logarithms as a factor, ``largest_factor`` the largest of them.
    ``holds_to`` is the largest batch up to which all are within a factor of 1.5, ``breaks_at`` the next one.
    """
    logs = {batch: math.log(ratio) for batch, ratio in ratios.items()}
    holds_to, breaks_at = None, None
    for batch, log in logs.items():
        if abs(log) > math.log(HOLDS):
            breaks_at = batch
            break
        holds_to = batch
    return {
        "typical_factor": _rounded(math.exp(math.sqrt(math.fsum(log**2 for log in logs.values()) / len(logs)))),
        "largest_factor": _rounded(math.exp(max(map(abs, logs.values())))),
        "holds_to": holds_to,
        "breaks_at": breaks_at,
    }


def _exponent(points: Sequence[tuple[int, float]]) -> dict[str, Any]:
    """Return p of ``lr ~ batch^p`` by least squares of logarithms, with its interval."""
    groups = Groups.of({batch: [math.log(lr)] for batch, lr in points})
    ones, logs = [1.0] * len(points), [math.log(place) for place in groups.places]
    (_, power), squares = least_squares([ones, logs], groups.means)

    def given(value: float) -> float:
        rest = [mean - value * log for mean, log in zip(groups.means, logs, strict=True)]
        return least_squares([ones], rest)[1]

    rise = groups.rise(squares, parameters=2, level=LEVEL)
    low, high = profile_interval(given, power, rise=rise, step=0.01, ends=(power - 50, power + 50))
    return _ends(Estimate(value=power, low=low, high=high))


def _ends(estimate: Estimate) -> dict[str, float | None]:
    return {"value": _rounded(estimate.value), "low": _rounded(estimate.low), "high": _rounded(estimate.high)}


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")
