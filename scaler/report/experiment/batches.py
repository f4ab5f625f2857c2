"""Batch sizes: the learning rates that were tried at each, and the critical batch size."""

from collections.abc import Collection, Mapping, Sequence
from statistics import geometric_mean, median
from typing import Any

from scaler.core.critical_batch import FEWEST_BATCHES, CriticalBatch, fit_critical_batch, predict_samples
from scaler.report.experiment.groups import Group
from scaler.report.experiment.labels import label
from scaler.report.experiment.model import CriticalBatchResult, GroupResult, HeldOut, Question, SweepRow
from scaler.report.run.model import Report

LR = "reference.lr"
CURVE_STEPS = 24


def sweeps(results: Sequence[GroupResult], question: Question) -> list[SweepRow]:
    """Return the learning rates that were tried, for each combination of the other values.

    Args:
        results: of the groups.
        question: says which metric is better.
    """
    found: dict[str, list[GroupResult]] = {}
    for group in results:
        found.setdefault(label({key: value for key, value in group.overrides.items() if key != LR}), []).append(group)
    rows = []
    for name, groups in found.items():
        swept = sorted((group for group in groups if group.peak_lr is not None), key=lambda group: group.peak_lr or 0.0)
        if len(swept) < 2:
            continue
        values = [group.final.value if group.final is not None else None for group in swept]
        known = [(value, place) for place, value in enumerate(values) if value is not None]
        sign = 1 if question.mode == "max" else -1
        best = max(known, key=lambda pair: sign * pair[0])[1] if known else None
        rows.append(
            SweepRow(
                label=name,
                lrs=tuple(group.peak_lr or 0.0 for group in swept),
                metrics=tuple(values),
                estimates=tuple(group.final for group in swept),
                each=tuple(group.finals for group in swept),
                best=None if best is None else swept[best].peak_lr,
                is_inside=best is not None and 0 < best < len(swept) - 1,
            )
        )
    return rows


def critical_batch(
    groups: Sequence[Group], results: Sequence[GroupResult], *, level: float
) -> CriticalBatchResult | None:
    """Return the critical batch size, from the best group of each batch size; None: one batch size only, or no target.

    Args:
        groups: of the experiment.
        results: theirs, in the same order.
        level: of the intervals, in (0, 1).
    """
    best: dict[int, tuple[float, Group, GroupResult]] = {}
    for group, result in zip(groups, results, strict=True):
        batch, samples = result.global_batch_size, result.samples_to_target
        if batch is None or samples is None or not result.seeds:
            continue
        value = samples.value if samples.value is not None and result.reached == len(result.seeds) else float("inf")
        if batch not in best or value < best[batch][0]:
            best[batch] = (value, group, result)
    if len(best) < 2:
        return None
    samples_by_batch = {
        batch: [member.when.value if member.when is not None else None for member in group.done]
        for batch, (_, group, _) in sorted(best.items())
    }
    fit = fit_critical_batch(samples_by_batch, level=level)
    reports = [member.cell.report for _, group, _ in best.values() for member in group.done]
    noise = [each.noise.noise_scale for each in reports if each is not None and each.noise is not None]
    scales = [scale for scale in noise if scale is not None]
    tokens = [each.plan.get("tokens_per_sample") or 1 for each in reports if each is not None]
    critical = fit.critical_batch
    whole = {batch: [value for value in samples_by_batch[batch] if value is not None] for batch in fit.batches}
    return CriticalBatchResult(
        value=critical.value if fit.refusal is None else None,
        low=critical.low,
        high=critical.high,
        fewest_samples=fit.fewest_samples.value if fit.fewest_samples is not None else None,
        batches=fit.batches,
        refusal=fit.refusal,
        add=_to_run(fit, reports, tokens=max(tokens, default=1), tried=best),
        noise_scale=median(scales) if scales else None,
        samples=tuple(best[batch][2].samples_to_target for batch in fit.batches),
        each=tuple(tuple(whole[batch]) for batch in fit.batches),
        curve=_curve(fit),
        held_out=_held_out(whole, level=level),
    )


def _to_run(
    fit: CriticalBatch, reports: Sequence[Report | None], *, tokens: int, tried: Mapping[int, tuple[float, Any, Any]]
) -> tuple[int, ...]:
    """Return the batch sizes to run that can reach the target.

    A batch is at most the training set, and below each batch that missed the target. If those that the fit asks for are
    larger, it is one between the largest fitted batch and that bound.

    Args:
        fit: asks for batch sizes.
        reports: of the runs.
        tokens: of a sample; 1: the unit is samples.
        tried: by batch size, its best samples to the target first; infinite: not all runs reached it.
    """
    sets = [each.plan["num_samples"] * tokens for each in reports if each is not None]
    largest = max(fit.batches, default=0)
    missed = min((batch for batch, (samples, _, _) in tried.items() if samples == float("inf")), default=None)
    most = min(sets, default=None)
    wanted = [
        batch
        for batch in fit.add
        if (most is None or batch <= most) and (missed is None or batch < missed or batch < largest)
    ]
    bound = min(missed or most or 0, most or missed or 0)
    if fit.add and not wanted and bound > 2 * largest > 0:
        wanted = [round((largest * bound) ** 0.5)]
    return _whole(wanted, tokens=tokens, tried=tried)


def _whole(batches: Sequence[int], *, tokens: int, tried: Collection[int]) -> tuple[int, ...]:
    """Return batch sizes in whole samples of ``tokens`` tokens (1: the unit is samples), without those that were tried.

    Example:
        >>> _whole([16, 100, 512], tokens=64, tried=[512]), _whole([16, 100], tokens=1, tried=[])
        ((64,), (16, 100))
    """
    found = dict.fromkeys(batch - batch % tokens for batch in batches)
    return tuple(batch for batch in found if batch and batch not in tried)


def _curve(fit: CriticalBatch) -> tuple[tuple[float, float], ...]:
    """Return points of the fitted curve between the smallest and the largest batch; none without a fit."""
    if fit.refusal is not None:
        return ()
    first, last = fit.batches[0], fit.batches[-1]
    places = {float(batch) for batch in fit.batches}
    places |= {first * (last / first) ** (step / CURVE_STEPS) for step in range(1, CURVE_STEPS)}
    return tuple((place, samples) for place in sorted(places) if (samples := fit.samples(place)) is not None)


def _held_out(samples: Mapping[int, Sequence[float]], *, level: float) -> HeldOut | None:
    """Return what the curve without the largest batch predicts for it; None: too few batch sizes."""
    if len(samples) <= FEWEST_BATCHES:
        return None
    largest = max(samples)
    rest = {batch: values for batch, values in samples.items() if batch != largest}
    predicted, measured = predict_samples(rest, largest, level=level), geometric_mean(samples[largest])
    return HeldOut(place=largest, predicted=predicted, measured=measured, is_inside=predicted.holds(measured))
