"""What is known of a plan, as rows of text: the terminal and the page show the same."""

from collections.abc import Callable, Sequence

from scaler.core.intervals import Estimate
from scaler.report.plan.estimate import PlanEstimate
from scaler.report.text.format import money, seconds

MOST_RISKS = 2  # that are shown; the JSON has all
GOOD = ("baseline", "equivalent", "better")


def estimate_rows(estimate: PlanEstimate | None) -> list[tuple[str, str, str]]:
    """Return names, values and reasons: the time, the cost, and what earlier runs showed; no rows: nothing is known."""
    if estimate is None:
        return []
    rows = []
    if estimate.time_s is not None:
        value, span = time_texts(estimate.time_s)
        rows.append(("time", value, "; ".join(part for part in (span, estimate.basis) if part)))
        if estimate.saved_s is not None:
            value, span = _texts(estimate.saved_s, _signed)
            rows.append(("saved", value, "; ".join(filter(None, (span, "against the constant batch of the start")))))
        if estimate.cost is not None:
            rows.append(("cost", *_texts(estimate.cost, money)))
    else:
        command = f"a short run shows it: {estimate.next}" if estimate.next else ""
        rows.append(("time", "unknown", "; ".join(filter(None, (estimate.basis, command)))))
    shown = estimate.risks[:MOST_RISKS]
    rows += [("known" if risk.verdict in GOOD else "risk", risk.verdict, risk.message) for risk in shown]
    return rows


def time_texts(time: Estimate) -> tuple[str, str]:
    """Return a time and its range.

    Example:
        >>> time_texts(Estimate(value=65.0, low=60.0, high=80.0)), time_texts(Estimate(value=None, low=8.0, high=40.0))
        (('1 min 5 s', '1 min 0 s to 1 min 20 s'), ('8 s to 40 s', ''))
    """
    return _texts(time, seconds)


def estimate_phrase(estimate: PlanEstimate) -> str | None:
    """Return the time as a short phrase; None: it is not known.

    Example:
        >>> time = Estimate(value=65.0, low=60.0, high=80.0)
        >>> basis = "from 3 runs with 2 workers at batch 256"
        >>> parts = {"train_s": None, "other_s": None, "cost": None, "runs": (), "next": "", "risks": ()}
        >>> estimate_phrase(PlanEstimate(world_size=2, time_s=time, basis=basis, **parts))
        'about 1 min 5 s (1 min 0 s to 1 min 20 s), from 3 runs with 2 workers at batch 256'
    """
    if estimate.time_s is None:
        return None
    return f"about {span_text(estimate.time_s, seconds)}, {estimate.basis}"


def span_text(estimate: Estimate, shown: Callable[[float], str]) -> str:
    """Return an estimate with its range.

    Example:
        >>> span_text(Estimate(value=0.5, low=0.4, high=0.7), money)
        '0.50 (0.40 to 0.70)'
    """
    value, span = _texts(estimate, shown)
    return f"{value} ({span})" if span else value


def _texts(estimate: Estimate, shown: Callable[[float], str]) -> tuple[str, str]:
    ends = [shown(end) for end in (estimate.low, estimate.high) if end is not None]
    span = " to ".join(dict.fromkeys(ends)) if len(ends) == 2 else ""
    if estimate.value is None:
        return span or "–", ""
    value = shown(estimate.value)
    return value, "" if span == value else span


def _signed(value: float) -> str:
    return seconds(value) if value >= 0 else f"-{seconds(-value)}"


def times_of(estimates: Sequence[PlanEstimate | None]) -> list[str]:
    """Return the time of each of several plans; an empty list if none is known."""
    texts = [
        time_texts(estimate.time_s)[0] if estimate is not None and estimate.time_s is not None else "–"
        for estimate in estimates
    ]
    return texts if any(text != "–" for text in texts) else []
