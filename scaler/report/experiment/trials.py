"""What a search found: its trials, the best setting, and where to search next."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from shlex import quote
from typing import Any, Literal

from scaler.job.changes import shown
from scaler.report.experiment.cells import metric_curve
from scaler.report.experiment.labels import label
from scaler.report.experiment.model import CellInput, ExperimentReport, Finding
from scaler.report.experiment.summary import summarize_experiment
from scaler.report.experiment.trial_model import SearchResult, TrialResult
from scaler.report.text.format import number, percent, plural

NEAR = 0.1  # a value in this share of a range, from an end, lies at that end
BEYOND = 10.0  # a range is widened by this factor; a linear one by its width


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialInput:
    """A trial of a search, and the report of its run.

    Args:
        cell: with the report.
        ended: how the trial ended; None: it has not.
        stopped_at: where the search stopped it, in samples seen; None: it did not.
        copied_from: the run from whose checkpoint its run began; None: it began at its first sample.
    """

    cell: CellInput
    ended: str | None
    stopped_at: int | None
    copied_from: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchQuestion:
    """What a search asks.

    Args:
        metric: a value of the evaluation.
        mode: whether a higher (``max``) or a lower (``min``) metric is better.
        searcher: that proposes settings.
        scheduler: that stops trials.
        trials: number of settings that are tried; None: all.
        side_by_side: the most trials that train at the same time.
        space: by key of the job, a list of values, or ``low``, ``high`` and ``scale``.
    """

    metric: str
    mode: Literal["max", "min"]
    searcher: str
    scheduler: str
    trials: int | None
    side_by_side: int
    space: Mapping[str, Any]


def summarize_search(
    name: str,
    trials: Sequence[TrialInput],
    question: SearchQuestion,
    *,
    job: str,
    options: Sequence[str],
    environment: Mapping[str, Any],
) -> ExperimentReport:
    """Return the report of a search, also while it runs.

    Args:
        name: of the experiment.
        trials: in the order in which they were proposed.
        question: what it asks.
        job: the path of the job file, for commands.
        options: ``key.key=value`` texts that hold for every trial.
        environment: the machine and the versions.
    """
    rows = tuple(_trial(trial, question) for trial in trials)
    best = _best(rows, question)
    result = SearchResult(
        searcher=question.searcher,
        scheduler=question.scheduler,
        asked=question.trials,
        side_by_side=question.side_by_side,
        trials=rows,
        best=best.trial if best is not None else None,
        command=_command(best, job=job, options=options) if best is not None else None,
        samples=sum(row.samples_seen for row in rows),
        samples_of_all=sum(row.total_samples or 0 for row in rows if row.copied_from is None),
    )
    empty = summarize_experiment(name, [], None, labels={}, job=job, options=options, environment=environment)
    return replace(
        empty,
        answer=_answer(result, best, question),
        metric=question.metric,
        mode=question.mode,
        verdicts=tuple(_findings(result, best, question)),
        search=result,
    )


def _trial(trial: TrialInput, question: SearchQuestion) -> TrialResult:
    cell, report = trial.cell, trial.cell.report
    curve: list[tuple[float, float]] = []
    if report is not None:
        curve = [each for each in metric_curve(report, question.metric) if math.isfinite(each[1])]
    if trial.stopped_at is not None:
        curve = [each for each in curve if each[0] <= trial.stopped_at]
    values = [value for _, value in curve]
    seen = report.totals.samples_seen if report is not None else 0
    if report is not None and report.branched_from is not None:
        seen -= report.branched_from["samples_seen"]  # another trial's
    is_own = report is not None and report.state == "stopped"  # else another experiment has trained it further
    return TrialResult(
        trial=cell.cell,
        overrides=dict(cell.overrides),
        label=label(cell.overrides),
        run_id=report.run_id if report is not None else None,
        ended=trial.ended,
        copied_from=trial.copied_from,
        samples_seen=seen if trial.stopped_at is None or is_own else min(seen, trial.stopped_at),
        total_samples=report.plan["total_samples"] if report is not None else None,
        last=values[-1] if values else None,
        best=(max if question.mode == "max" else min)(values) if values else None,
        curve=tuple((int(place), value) for place, value in curve),
        problem=(cell.problem or (report.failure if report is not None else None) or "").strip().partition("\n")[0],
    )


def _best(rows: Sequence[TrialResult], question: SearchQuestion) -> TrialResult | None:
    """Return the best trial among those that trained to their ends; without one, among all."""
    known = [row for row in rows if row.last is not None and row.ended != "failed"]
    finished = [row for row in known if row.ended == "finished"]
    sign = 1 if question.mode == "max" else -1
    return max(finished or known, key=lambda row: sign * (row.last or 0.0), default=None)


def _command(best: TrialResult, *, job: str, options: Sequence[str]) -> str:
    shared = [text for text in options if text.partition("=")[0] not in best.overrides]
    chosen = [*shared, *(f"{key}={shown(value)}" for key, value in best.overrides.items())]
    settings = " ".join(f"--set {quote(text)}" for text in chosen if not text.startswith("storage="))
    return f"scaler submit {quote(job)} {settings}"


def _answer(result: SearchResult, best: TrialResult | None, question: SearchQuestion) -> str:
    if best is None:
        return "No trial of the search has been evaluated."
    what = "trial" if len(result.trials) == 1 else "trials"
    after = "" if best.ended == "finished" else f", after {best.samples_seen:,} samples"
    tried = sum(row.copied_from is None for row in result.trials)
    used = f"{result.samples:,} of the {result.samples_of_all:,} samples ({percent(result.share)})"
    missing = (result.asked or 0) - tried
    return (
        f"The best of {len(result.trials)} {what} is {best.label}: {question.metric} {number(best.last)}{after}. The "
        f"search used {used} that all of these trials take to their ends."
        + (f" {plural(missing, 'trial')} {'has' if missing == 1 else 'have'} not run." if missing > 0 else "")
    )


def _findings(result: SearchResult, best: TrialResult | None, question: SearchQuestion) -> list[Finding]:
    found = []
    for key, values in question.space.items() if best is not None else ():
        assert best is not None
        wider = wider_space(values, best.overrides[key])
        if wider is not None:
            found.append(
                Finding(
                    code="best_at_the_edge",
                    message=f"The best {key} lies at the edge of those that were tried.",
                    evidence=f"best {shown(best.overrides[key])} of {shown(values)}",
                    next=f"Search beyond it: search.space: {{{key}: {shown(wider)}}}",
                )
            )
    if best is not None and best.ended != "finished":
        found.append(
            Finding(
                code="best_not_trained_to_its_end",
                message="No trial has trained to its end: the best is the best so far.",
                evidence=f"{best.samples_seen:,} of {best.total_samples or 0:,} samples",
                next="Continue the search with the command that started it.",
            )
        )
    finished = sum(row.ended == "finished" for row in result.trials)
    if best is not None and finished:
        found.append(
            Finding(
                code="best_of_many",
                message="The best of many trials is partly luck: its metric is too good an estimate.",
                evidence=f"1 seed, the best of {plural(len(result.trials), 'trial')}",
                next="Repeat the best settings with several seeds in a matrix, before they are compared with others.",
            )
        )
    if result.side_by_side > 1:
        found.append(
            Finding(
                code="speed_not_comparable",
                message="Trials may have trained at the same time: their speeds and times cannot be compared.",
                evidence=f"max_concurrent: {result.side_by_side}",
                next="Measure speed with a matrix.",
            )
        )
    return found


def wider_space(values: Any, best: Any) -> Any | None:
    """Return a space that reaches beyond the best value, if that lies at the edge; None: it does not.

    Args:
        values: a list of values, or ``low``, ``high`` and ``scale``.
        best: one of them.

    Example:
        >>> wider_space({"low": 0.01, "high": 1.0, "scale": "log"}, 0.9)
        {'low': 0.1, 'high': 10.0, 'scale': 'log'}
        >>> wider_space([16, 64, 256], 256)
        [64, 256, 1024]
        >>> wider_space([16, 64, 256], 64), wider_space(["linear", "sqrt"], "sqrt")
        (None, None)
    """
    if not isinstance(values, Mapping):
        return _wider_list(values, best)
    low, high = float(values["low"]), float(values["high"])
    is_log = values["scale"] == "log"
    a, b, at = (math.log(low), math.log(high), math.log(best)) if is_log else (low, high, best)
    place = (at - a) / (b - a)
    if NEAR < place < 1 - NEAR:
        return None
    move = 1 if place > 0.5 else -1
    ends = (
        [each * BEYOND**move for each in (low, high)]
        if is_log
        else [each + move * (high - low) / 2 for each in (low, high)]
    )
    whole = isinstance(values["low"], int) and isinstance(values["high"], int)
    ends = [max(1, round(end)) if whole else float(f"{end:.3g}") for end in ends]
    return {"low": ends[0], "high": ends[1], "scale": values["scale"]}


def _wider_list(values: Sequence[Any], best: Any) -> Sequence[Any] | None:
    """Return the best value of a list of rising numbers with its neighbour, and one more beyond it."""
    if len(values) < 3 or not all(isinstance(each, int | float) and not isinstance(each, bool) for each in values):
        return None
    rising = sorted(values)
    if best not in (rising[0], rising[-1]) or rising[0] <= 0:
        return None
    inner = rising[-2] if best == rising[-1] else rising[1]
    beyond = best * best / inner
    beyond = max(1, round(beyond)) if all(isinstance(each, int) for each in values) else float(f"{beyond:.3g}")
    return sorted({inner, best, beyond})
