"""What experiments and earlier runs of a job showed at the batch, the rule and the learning rate of a plan."""

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from scaler.errors import ScalerError
from scaler.experiment.folder import ExperimentFolder
from scaler.experiment.known_runs import KnownRun, PlannedRun
from scaler.plan import Plan
from scaler.report.plan.estimate import Risk
from scaler.report.text.format import number, option, plural

ORDER = ("diverged", "worse", "undecided", "better", "equivalent", "baseline")  # the worst first
REPORT = "experiment.json"
MOST_EXPERIMENTS = 20  # whose reports are read
ALTERED = (KeyError, TypeError, ValueError, AttributeError, IndexError)  # a file was altered, or is of another version


def read_experiments(folders: Sequence[ExperimentFolder]) -> Mapping[str, Mapping[str, Any]]:
    """Return the reports of experiments by name; of many, those that were written last."""

    def written(folder: ExperimentFolder) -> float:
        path = folder.local_path
        with suppress(OSError):
            return 0.0 if path is None else (path / REPORT).stat().st_mtime
        return 0.0

    found = {}
    for folder in sorted(folders, key=written, reverse=True)[:MOST_EXPERIMENTS]:
        with suppress(ScalerError):  # it has no report yet, or that was altered
            found[folder.run_id] = folder.read_json(REPORT)
    return found


def find_risks(
    plan: Plan,
    experiments: Mapping[str, Mapping[str, Any]],
    *,
    runs: Sequence[PlannedRun],
    known: Sequence[KnownRun],
) -> list[Risk]:
    """Return what is known of the quality of a plan, the worst first; an experiment says one thing at most.

    Args:
        plan: of the job.
        experiments: reports by name; those of other jobs are passed over.
        runs: of the job.
        known: those whose reports were read.
    """
    found = _diverged(plan, known)
    by_id = {run.folder.run_id: run for run in runs}
    for name, report in experiments.items():
        with suppress(*ALTERED):
            found += _of_experiment(plan, name, report, by_id)
    return sorted(found, key=lambda risk: ORDER.index(risk.verdict))


def is_alike(plan: Plan, *, batch: float, rule: str, peak_lr: float) -> bool:
    """Return whether a batch, rule and peak lr are those of a plan; at the reference's batch, any rule is."""
    has_rule = rule == plan.rule or plan.batch_ratio == 1
    return batch == plan.global_batch_size and has_rule and math.isclose(peak_lr, plan.peak_lr, rel_tol=0.01)


def _diverged(plan: Plan, known: Sequence[KnownRun]) -> list[Risk]:
    alike = [
        run
        for run in known
        if is_alike(plan, batch=run.plan.global_batch_size, rule=run.plan.rule, peak_lr=run.plan.peak_lr)
    ]
    ids = [run.plan.folder.run_id for run in alike if run.is_diverged]
    if not ids:
        return []
    whole = plural(len(alike), "run")
    return [
        Risk(
            source="runs",
            verdict="diverged",
            message=f"{len(ids)} of {whole} with {_setting(plan)} diverged, such as {ids[0]}",
        )
    ]


def _of_experiment(plan: Plan, name: str, report: Mapping[str, Any], runs: Mapping[str, PlannedRun]) -> Sequence[Risk]:
    if report["metric"] is None:
        return []
    ids = {cell["cell"]: cell["run_id"] for cell in report["cells"]}
    alike = []
    tokens = plan.units.tokens_per_sample() if report.get("unit") == "tokens" else 1  # of a sample, in the report
    for group in report["groups"]:
        if group["peak_lr"] is None or not is_alike(
            plan, batch=group["global_batch_size"] / tokens, rule=group["rule"], peak_lr=group["peak_lr"]
        ):
            continue
        run = next((runs[ids[cell]] for cell in group["cells"] if ids[cell] in runs), None)
        if run is not None:  # of this job
            alike.append((group["world_size"] != plan.world_size, group, run))
    if not alike:
        return []
    units = plan.units
    _, group, run = min(alike, key=lambda each: each[0])
    length = (
        f", after {units.place(run.total_samples)} {units.many} instead of {units.place(plan.total_samples)}"
        if run.total_samples != plan.total_samples
        else ""
    )
    failed = f"; {plural(group['failed'], 'run')} failed" if group["failed"] else ""
    verdict, text = _judged(group, report)
    return [Risk(source=name, verdict=verdict, message=f"{_setting(plan)} {text} in experiment {name}{length}{failed}")]


def _judged(group: Mapping[str, Any], report: Mapping[str, Any]) -> tuple[str, str]:
    """Return the verdict on a group, and the sentence's part about it."""
    metric, difference = report["metric"], group["difference_to_baseline"]
    if group["is_baseline"]:
        return "baseline", f"is the baseline ({metric} {number(group['final']['value'])})"
    if difference is None:
        return "undecided", "was not compared with the baseline"
    numbers = f"{metric} {difference['mean']:+.3g}"
    if difference["low"] is not None and difference["high"] is not None:
        ends = f"{difference['low']:+.2g} to {difference['high']:+.2g}"
        numbers += f", {100 * difference['level']:.3g}% interval {ends}"
    numbers = f"({numbers}, {plural(difference['pairs'], 'seed')})"
    loss = f"{abs(difference['mean']):.2g}"
    texts = {
        "worse": f"lost {loss} of {metric} {numbers}",
        "better": f"gained {loss} of {metric} {numbers}",
        "equivalent": f"was as good as the baseline {numbers}",
        "undecided": f"is not shown to be as good as the baseline {numbers}",
    }
    verdict = str(difference["verdict"])
    return verdict, texts[verdict]


def _setting(plan: Plan) -> str:
    return f"batch {plan.units.number(plan.global_batch_size)}, rule {plan.rule}, peak lr {option(plan.peak_lr)}"
