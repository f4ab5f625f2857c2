"""The charts of a run's report, with their lines, sentences, axes and marks."""

from collections.abc import Sequence
from functools import partial

from scaler.report.page.chart import (
    Chart,
    ChartSet,
    Line,
    Mark,
    Quantity,
    Values,
    are_positive,
    samples_axis,
    sentence,
    time_axis,
    untimed_text,
)
from scaler.report.run.format import preconditioned_text
from scaler.report.run.model import AttemptRow, Decision, Report, Series
from scaler.report.text.format import number, plural, seconds

EDGES = ("low", "high")  # of a band: they have no sentence of their own


def make_charts(report: Report) -> ChartSet:
    """Return the charts that have a value, in the order of the page."""
    series, unit = report.series, report.unit
    chart = partial(_chart, series, unit=unit)
    noise_of = preconditioned_text(report.noise) if report.noise is not None else ""
    evals = [
        chart(
            f"eval-{index}",
            name,
            (Line(label=name, clock="evals", style="dotted", values=values),),
            note="on the evaluation data",
        )
        for index, (name, values) in enumerate(series.evals.items())
        if name != "loss"
    ]
    charts = (
        chart(
            "loss",
            "Loss",
            _loss_lines(series),
            band="training, range over ranks and steps",
            is_wide=True,
            may_be_logarithmic=True,
        ),
        *evals,
        chart(
            "lr",
            "Learning rate",
            (
                _line(series.lr, "used", "wide"),
                _line(series.lr_planned, "planned", "dashed"),
            ),
        ),
        chart(
            "speed",
            "Speed",
            (
                _line(series.samples_per_s, "all workers", "solid"),
                _line(series.samples_per_s_min, "slowest step", "low"),
                _line(series.samples_per_s_max, "fastest step", "high"),
            ),
            note=f"{unit}/s",
            band="slowest to fastest step",
        ),
        chart(
            "step",
            "Time of a step",
            (
                _line(series.compute_s, "compute", "compute"),
                _line(series.data_wait_s, "data wait", "data"),
                _line(series.sync_wait_s, "sync wait", "sync"),
                _line(series.update_s, "update", "update"),
            ),
            note="mean over ranks, stacked",
            is_stacked=True,
            quantity="seconds",
        ),
        chart(
            "memory",
            "Peak memory of a worker",
            (
                _line(series.memory_gib_mean, "mean over ranks", "solid"),
                _line(series.memory_gib_max, "the rank with the most", "dashed"),
            ),
            note="GiB",
        ),
        chart(
            "gradient",
            "Gradient norm",
            (
                _line(series.grad_norm_mean, "mean over steps", "solid"),
                _line(series.grad_norm_max, "greatest step", "dashed"),
            ),
            may_be_logarithmic=True,
        ),
        chart(
            "noise",
            "Gradient noise scale",
            _noise_lines(series),
            note=f"{unit}{noise_of}, an estimate",
            may_be_logarithmic=True,
        ),
    )
    samples, time = samples_axis(_samples(series), unit=unit), time_axis(_times(series), since="submission")
    return ChartSet(
        charts=tuple(chart for chart in charts if any(v is not None for line in chart.lines for v in line.values)),
        axes=(samples, time) if time.is_known else (samples,),
        marks=_marks(report),
    )


def _samples(series: Series) -> dict[str, Sequence[int]]:
    return {"steps": series.samples_seen, "evals": series.eval_samples_seen, "noise": series.noise_samples_seen}


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
    """The noise scale, and the batch to compare it with; empty if it was not measured."""
    if not series.noise_samples_seen:
        return ()
    return (
        Line(label="noise scale at the step", clock="noise", style="solid", values=series.noise_scale),
        _line(series.global_batch_size, "global batch", "dashed"),
    )


def _chart(
    series: Series,
    id: str,
    title: str,
    lines: tuple[Line, ...],
    *,
    note: str = "",
    band: str = "",
    is_wide: bool = False,
    is_stacked: bool = False,
    may_be_logarithmic: bool = False,
    quantity: Quantity = "number",
    unit: str,
) -> Chart:
    samples, times = _samples(series), _times(series)
    say = seconds if quantity == "seconds" else number
    return Chart(
        id=id,
        title=title,
        note=note,
        lines=lines,
        sentences=tuple(
            sentence(line.label, samples[line.clock], line.values, say=say, unit=unit)
            for line in lines
            if line.style not in EDGES
        ),
        band=band,
        is_wide=is_wide,
        is_stacked=is_stacked,
        untimed=untimed_text([at for clock in {line.clock: None for line in lines} for at in times[clock]]),
        is_logarithmic=may_be_logarithmic and are_positive(lines),
        quantity=quantity,
    )


# Marks


def _marks(report: Report) -> tuple[Mark, ...]:
    """The starts of later attempts and the decisions, in the order of their samples."""
    marks = [_attempt_mark(attempt) for attempt in report.attempts[1:]]
    marks += [_decision_mark(decision) for decision in report.decisions if not decision.undone]
    return tuple(sorted(marks, key=lambda mark: mark.at["samples"] or 0))


def _attempt_mark(attempt: AttemptRow) -> Mark:
    return Mark(
        at={"samples": attempt.start_samples, "time": attempt.elapsed_s},
        label=f"attempt {attempt.attempt}: {plural(attempt.world_size, 'worker')}",
        style="dashed",
    )


def _decision_mark(decision: Decision) -> Mark:
    return Mark(
        at={"samples": decision.samples_seen, "time": decision.elapsed_s},
        label=decision.kind.replace("_", " "),
        style="dotted",
    )
