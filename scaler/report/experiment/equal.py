"""The metric of all groups after the same time, and after the same cost. Quality after the same samples is ``final``.

A budget is the length of one group's runs: the median over seeds of the time from the first step to the end of the last
one, evaluations included, or what that time costs. There are two budgets: the baseline's, and that of the group whose
runs are the shortest, or the cheapest.

A run's metric at a time is read from its evaluations: on a straight line between the evaluations before and after it.
A run that has ended keeps its last value, because its model is trained. A run whose first evaluation comes later has
none, and then its group has none. The cost of a time is workers x price x time; without a price, cost is in
worker-seconds. Start-up is in neither.
"""

import math
from collections.abc import Sequence
from statistics import median

import numpy as np

from scaler.core.intervals import Estimate, mean_interval
from scaler.report.compare.curves import RunClock
from scaler.report.experiment.cells import metric_curve
from scaler.report.experiment.groups import Group
from scaler.report.experiment.model import EqualBudget, Question
from scaler.report.experiment.to_target import price_per_s
from scaler.report.run.model import Report


def equal_budgets(groups: Sequence[Group], question: Question, *, level: float) -> list[EqualBudget]:
    """Return the metric of each group at equal time, and at equal cost where the groups do not cost the same a second.

    Args:
        groups: of the experiment.
        question: names the metric.
        level: of the intervals, in (0, 1).
    """
    reports = [[member.cell.report for member in group.done if member.cell.report is not None] for group in groups]
    has_price = all(price_per_s(report) is not None for each in reports for report in each)
    costs = [[_price(one) if has_price else float(one.plan["world_size"]) for one in each] for each in reports]
    kinds = [("time", "s", [[1.0] * len(each) for each in reports])]
    if len({round(price, 9) for each in costs for price in each}) > 1:
        kinds.append(("cost", "" if has_price else "worker-s", costs))
    found = []
    for kind, unit, prices in kinds:
        amounts = {
            place: _amount(each, price) for place, (each, price) in enumerate(zip(reports, prices, strict=True)) if each
        }
        known = {place: amount for place, amount in amounts.items() if amount is not None}
        if len(known) < 2:
            continue
        least = min(known, key=lambda place: known[place])
        chosen = [least, *(place for place in known if groups[place].is_baseline and place != least)]
        found += [
            EqualBudget(
                kind=kind,
                of=groups[place].label,
                amount=known[place],
                unit=unit,
                metrics=tuple(
                    _at(each, question.metric, [known[place] / one for one in price], level=level)
                    for each, price in zip(reports, prices, strict=True)
                ),
            )
            for place in chosen
        ]
    return found


def metric_at(report: Report, metric: str, time_s: float) -> float | None:
    """Return the metric of a run at a time after its first step, as the text above defines it; None: not known."""
    clock = RunClock.of(report)
    points = [(clock.elapsed_at(place), value) for place, value in metric_curve(report, metric)]
    known = [(time, value) for time, value in points if time is not None]
    if not known or time_s < known[0][0]:
        return None
    value = float(np.interp(time_s, [time for time, _ in known], [value for _, value in known]))
    return value if math.isfinite(value) else None


def _price(report: Report) -> float:
    price = price_per_s(report)
    assert price is not None
    return price


def _amount(reports: Sequence[Report], prices: Sequence[float]) -> float | None:
    """Return the median time or cost of a group's runs; None: not known."""
    ends = [RunClock.of(report).end_s for report in reports]
    amounts = [price * end for price, end in zip(prices, ends, strict=True) if end]
    return median(amounts) if len(amounts) == len(reports) else None


def _at(reports: Sequence[Report], metric: str, times: Sequence[float], *, level: float) -> Estimate | None:
    """Return the mean over runs of the metric at a time of each; None: one of them has none."""
    values = [metric_at(report, metric, time) for report, time in zip(reports, times, strict=True)]
    known = [value for value in values if value is not None]
    return mean_interval(known, level=level) if known and len(known) == len(values) else None
