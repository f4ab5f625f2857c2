"""The tokens of a run whose job counts tokens, and its report in tokens."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scaler.core.unit import Unit
from scaler.plan import Plan
from scaler.report.run.model import Noise, Report, Series, WorkerRow
from scaler.report.run.step_arrays import Columns


def planned_tokens(seen: NDArray[np.int64], samples: NDArray[Any], plan: Plan) -> int | None:
    """Return the tokens that the plan gives some steps; None: the job counts samples.

    Args:
        seen: samples seen at the start of each step.
        samples: of each step.
        plan: of the run.
    """
    if not plan.units.is_tokens:
        return None
    starts = np.array([start for start, _ in plan.units.lengths])
    lengths = np.array([length for _, length in plan.units.lengths])
    each = lengths[np.searchsorted(starts, seen, side="right") - 1]
    return int((samples.astype(np.int64) * each).sum())


def real_tokens(steps: Columns, plan: Plan) -> float | None:
    """Return the sum of the weights that the losses returned; None: they returned none, or the job counts samples."""
    if not plan.units.is_tokens or np.array_equal(steps["weight"], steps["samples"]):
        return None
    return float(steps["weight"].sum())


def units_of_plan(plan: Mapping[str, Any]) -> Unit:
    """Return the unit of the job of a plan that is a mapping, as in a report."""
    lengths = ((phase["start_samples"], phase.get("tokens_per_sample")) for phase in plan["phases"])
    return Unit(lengths=tuple((start, tokens) for start, tokens in lengths if tokens is not None))


def in_one_unit(reports: Sequence[Report]) -> tuple[list[Report], str]:
    """Return reports in a unit that all of them have, and the unit: tokens if every job counts tokens, else samples."""
    if reports and all(report.unit == "tokens" for report in reports):
        return list(map(in_unit, reports)), "tokens"
    return list(reports), "samples"


def in_unit(report: Report) -> Report:
    """Return a report whose counts and speeds are in the unit of its job, for texts: this is the only such place.

    A report of a job that counts samples is returned unchanged. Of one that counts tokens, every field that counts
    samples counts tokens in the result, whatever its name; ``report.json`` is not made of it.
    """
    units = units_of_plan(report.plan)
    if not units.is_tokens:
        return report
    at, size, totals = units.at, units.size, report.totals
    recorded = sum(row.samples for row in report.workers)
    mean = sum(row.tokens or 0 for row in report.workers) / recorded if recorded else float(units.tokens_per_sample())
    scaling, cost, noise = report.scaling, report.cost, report.noise
    end = report.series.noise_samples_seen[-1] if report.series.noise_samples_seen else 0
    return replace(
        report,
        plan=_plan(report.plan, units),
        totals=replace(
            totals,
            samples_seen=totals.tokens_seen or 0,
            progress=totals.progress * units.tokens_per_sample(),
            samples_per_s=totals.tokens_per_s,
            redone_samples=sum(_redone(row.redone_samples, row.end_samples, units) for row in report.attempts),
        ),
        workers=tuple(
            replace(row, samples=row.tokens or 0, worker_samples_per_s=_times(row.worker_samples_per_s, _share(row)))
            for row in report.workers
        ),
        scaling=scaling
        and replace(
            scaling,
            worker_samples_per_s=scaling.worker_samples_per_s * mean,
            one_worker_samples_per_s=_times(scaling.one_worker_samples_per_s, mean),
        ),
        cost=cost and replace(cost, per_million_samples=_times(cost.per_million_samples, 1 / mean)),
        attempts=tuple(
            replace(
                row,
                global_batch_size=size(row.global_batch_size, at=row.start_samples),
                end_global_batch_size=size(row.end_global_batch_size, at=max(row.start_samples, row.end_samples - 1)),
                start_samples=at(row.start_samples),
                end_samples=at(row.end_samples),
                redone_samples=_redone(row.redone_samples, row.end_samples, units),
            )
            for row in report.attempts
        ),
        decisions=tuple(replace(one, samples_seen=at(one.samples_seen)) for one in report.decisions),
        noise=noise and noise_in(noise, units, end),
        branched_from=report.branched_from
        and {**report.branched_from, "samples_seen": at(report.branched_from["samples_seen"])},
        series=_series(report.series, units),
    )


def noise_in(noise: Noise, units: Unit, samples_seen: int) -> Noise:
    """Return a noise scale in the unit of the job, where samples have the tokens that they have at ``samples_seen``."""
    tokens = units.tokens_per_sample(samples_seen)
    return replace(
        noise,
        noise_scale=_times(noise.noise_scale, tokens),
        lower=_times(noise.lower, tokens),
        upper=_times(noise.upper, tokens),
    )


def _share(row: WorkerRow) -> float:
    """The tokens of a sample that a worker trained on, in the mean."""
    return (row.tokens or 0) / row.samples if row.samples else 0.0


def _times(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor


def _redone(samples: int, start: int, units: Unit) -> int:
    """The tokens of samples that were trained again, from ``start`` samples on."""
    return round(units.at(start + samples) - units.at(start))


def _plan(plan: Mapping[str, Any], units: Unit) -> Mapping[str, Any]:
    """A plan with the counts that a report shows in tokens."""
    first = units.tokens_per_sample()
    return {
        **plan,
        "global_batch_size": plan["global_batch_size"] * first,
        "warmup_samples": plan["warmup_samples"] * first,
        "total_samples": units.at(plan["total_samples"]),
        "phases": [
            {
                **phase,
                "start_samples": units.at(phase["start_samples"]),
                "global_batch_size": units.size(phase["global_batch_size"], at=phase["start_samples"]),
            }
            for phase in plan["phases"]
        ],
    }


def _series(series: Series, units: Unit) -> Series:
    def speeds(values: tuple[float | None, ...]) -> tuple[float | None, ...]:
        pairs = zip(values, series.samples_seen, strict=True)
        return tuple(_times(value, units.tokens_per_sample(seen)) for value, seen in pairs)

    return replace(
        series,
        samples_seen=tuple(map(units.at, series.samples_seen)),
        global_batch_size=tuple(
            units.size(batch, at=seen)
            for batch, seen in zip(series.global_batch_size, series.samples_seen, strict=True)
        ),
        samples_per_s=speeds(series.samples_per_s),
        samples_per_s_min=speeds(series.samples_per_s_min),
        samples_per_s_max=speeds(series.samples_per_s_max),
        noise_samples_seen=tuple(map(units.at, series.noise_samples_seen)),
        noise_scale=tuple(
            _times(value, units.tokens_per_sample(seen))
            for value, seen in zip(series.noise_scale, series.noise_samples_seen, strict=True)
        ),
        eval_samples_seen=tuple(map(units.at, series.eval_samples_seen)),
    )
