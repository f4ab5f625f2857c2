"""Which charts a report's page has, and what each of them says in words.

No number is computed here. A chart is told twice: as curves, and as sentences with their first, last, least and
greatest values, so that the page says the same without its script.
"""

from collections.abc import Callable, Sequence
from typing import Any

from scaler.report.page.chart import Chart, Line, Values, are_positive, drawn, untimed_words
from scaler.report.run.model import AttemptRow, Decision, Report, Series
from scaler.report.text.format import number, plural, preconditioned_words, seconds

EDGES = ("low", "high")  # of a band: they are drawn as one, and told as one


def make_charts(report: Report) -> tuple[Chart, ...]:
    """Return the charts that have something to show, in the order of the page."""
    series = report.series
    noise_of = preconditioned_words(report.noise) if report.noise is not None else ""
    evals = [
        _chart(series, f"eval-{index}", name, (Line(label=name, clock="evals", style="dotted", values=values),))
        for index, (name, values) in enumerate(series.evals.items())
        if name != "loss"
    ]
    charts = (
        _chart(
            series,
            "loss",
            "Loss",
            _loss_lines(series),
            band="training, range over ranks and steps",
            is_wide=True,
            may_be_logarithmic=True,
        ),
        *evals,
        _chart(
            series,
            "lr",
            "Learning rate",
            (
                _line(series.lr, "used", "wide"),
                _line(series.lr_planned, "planned", "dashed"),
            ),
        ),
        _chart(
            series,
            "speed",
            "Speed",
            (
                _line(series.samples_per_s, "all workers", "solid"),
                _line(series.samples_per_s_min, "slowest step", "low"),
                _line(series.samples_per_s_max, "fastest step", "high"),
            ),
            unit="samples/s",
            band="slowest to fastest step",
        ),
        _chart(
            series,
            "step",
            "Time of a step",
            (
                _line(series.compute_s, "compute", "compute"),
                _line(series.data_wait_s, "data wait", "data"),
                _line(series.sync_wait_s, "sync wait", "sync"),
                _line(series.update_s, "update", "update"),
            ),
            unit="mean over ranks, stacked",
            is_stacked=True,
            quantity="seconds",
        ),
        _chart(
            series,
            "memory",
            "Peak memory of a worker",
            (
                _line(series.memory_gib_mean, "mean over ranks", "solid"),
                _line(series.memory_gib_max, "the rank with the most", "dashed"),
            ),
            unit="GiB",
        ),
        _chart(
            series,
            "gradient",
            "Gradient norm",
            (
                _line(series.grad_norm_mean, "mean over steps", "solid"),
                _line(series.grad_norm_max, "greatest step", "dashed"),
            ),
            may_be_logarithmic=True,
        ),
        _chart(
            series,
            "noise",
            "Gradient noise scale",
            _noise_lines(series),
            unit=f"samples{noise_of}, an estimate",
            may_be_logarithmic=True,
        ),
    )
    return tuple(chart for chart in charts if any(value is not None for line in chart.lines for value in line.values))


def chart_data(report: Report, charts: Sequence[Chart]) -> dict[str, Any]:
    """Return what the script draws."""
    series = report.series
    return drawn(charts, clocks=_clocks(series), times=_times(series), markers=_markers(report))


def _clocks(series: Series) -> dict[str, Sequence[int]]:
    return {
        "steps": series.samples_seen,
        "evals": series.eval_samples_seen,
        "noise": series.noise_samples_seen,
    }


def _times(series: Series) -> dict[str, Values]:
    return {"steps": series.elapsed_s, "evals": series.eval_elapsed_s, "noise": series.noise_elapsed_s}


# Lines


def _line(values: Values, label: str, style: str) -> Line:
    return Line(label=label, clock="steps", style=style, values=values)


def _loss_lines(series: Series) -> tuple[Line, ...]:
    training = (
        _line(series.loss_mean, "training, mean over ranks", "solid"),
        _line(series.loss_min, "training, least of ranks and steps", "low"),
        _line(series.loss_max, "training, greatest of ranks and steps", "high"),
    )
    if "loss" not in series.evals:
        return training
    return (*training, Line(label="evaluation", clock="evals", style="dotted", values=series.evals["loss"]))


def _noise_lines(series: Series) -> tuple[Line, ...]:
    """The noise scale, and the batch to read it against; nothing when it was not measured."""
    if not series.noise_samples_seen:
        return ()
    return (
        Line(label="noise scale at the step", clock="noise", style="solid", values=series.noise_scale),
        _line(series.global_batch_size, "global batch", "dashed"),
    )


def _chart(
    series: Series, id: str, title: str, lines: tuple[Line, ...], *, may_be_logarithmic: bool = False, **options: Any
) -> Chart:
    clocks, times = _clocks(series), _times(series)
    say = seconds if options.get("quantity") == "seconds" else number
    return Chart(
        id=id,
        title=title,
        lines=lines,
        sentences=tuple(_sentence(line, clocks[line.clock], say) for line in lines if line.style not in EDGES),
        untimed=untimed_words([at for clock in {line.clock: None for line in lines} for at in times[clock]]),
        is_logarithmic=may_be_logarithmic and are_positive(lines),
        **{"unit": "", **options},
    )


def _sentence(line: Line, samples_seen: Sequence[int], say: Callable[[float | None], str]) -> str:
    """A curve in words."""
    points = [(value, at) for at, value in zip(samples_seen, line.values, strict=True) if value is not None]
    if not points:
        return f"{line.label}: no value."
    (first, _), (last, _) = points[0], points[-1]
    least, greatest = min(points), max(points)
    return (
        f"{line.label}: from {say(first)} to {say(last)}; least {say(least[0])} at "
        f"{plural(least[1], 'sample')}, greatest {say(greatest[0])} at {plural(greatest[1], 'sample')}."
    )


# Marks


def _markers(report: Report) -> list[dict[str, Any]]:
    """Where attempts took over and where something was decided, from left to right."""
    marks = [_attempt_mark(attempt) for attempt in report.attempts[1:]]
    marks += [_decision_mark(decision) for decision in report.decisions if not decision.undone]
    return sorted(marks, key=lambda mark: mark["samples_seen"])


def _attempt_mark(attempt: AttemptRow) -> dict[str, Any]:
    return {
        "samples_seen": attempt.start_samples,
        "elapsed_s": attempt.elapsed_s,
        "label": f"attempt {attempt.attempt}: {plural(attempt.world_size, 'worker')}",
        "kind": "attempt",
    }


def _decision_mark(decision: Decision) -> dict[str, Any]:
    return {
        "samples_seen": decision.samples_seen,
        "elapsed_s": decision.elapsed_s,
        "label": decision.kind.replace("_", " "),
        "kind": "decision",
    }
