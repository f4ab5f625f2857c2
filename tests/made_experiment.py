"""Cells of an experiment with known values."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from scaler.report.experiment.labels import label
from scaler.report.experiment.model import CellInput, ExperimentReport, Question
from scaler.report.experiment.summary import summarize_experiment
from scaler.report.run.model import Final, Report

SEEDS = (0, 1, 2)
NOISE = {0: 0.001, 1: -0.001, 2: 0.0}  # of the metric, by seed; at larger batches twice as much
QUESTION = Question(
    baseline={"scale.global_batch_size": 16}, metric="accuracy", mode="max", margin=0.01, level=0.9, target=0.9
)


def made_cell(
    sound: Report,
    number: int,
    overrides: Mapping[str, Any],
    seed: int,
    *,
    accuracy: float,
    reaches: float = 10_000.0,
    speed: float = 100.0,
    state: str = "succeeded",
    num_samples: int = 100_000,
) -> CellInput:
    """Return a cell whose metric rises in a straight line, and is ``accuracy`` at the end of 20,000 samples."""
    batch = overrides.get("scale.global_batch_size", 16)
    plan = {
        **sound.plan,
        "world_size": overrides.get("scale.num_workers", 1),
        "global_batch_size": batch,
        "num_samples": num_samples,
        "rule": overrides.get("scale.rule", "linear"),
        "base_lr": overrides.get("reference.lr", 0.01),
        "peak_lr": overrides.get("reference.lr", 0.01) * batch / 16,
    }
    noisy = accuracy + NOISE[seed] * (2 if batch > 16 else 1)
    places = (0, 5_000, 10_000, 15_000, 20_000)
    evals = (*(0.9 + (place - reaches) * 1e-6 for place in places[1:-1]), noisy)
    series = replace(
        sound.series,
        samples_seen=places[:-1],
        elapsed_s=tuple(place / speed for place in places[:-1]),
        samples_per_s=(speed,) * 4,
        eval_samples_seen=places[1:],
        evals={"accuracy": evals},
    )
    report = replace(
        sound,
        run_id=f"run-{number}",
        state=state,
        failure="RecipeError: boom" if state == "failed" else None,
        plan=plan,
        final=Final(train_loss_mean=0.1, eval={"accuracy": noisy}),
        series=series,
        totals=replace(sound.totals, samples_seen=20_000, samples_per_s=speed, train_s=20_000 / speed),
    )
    return CellInput(cell=number, overrides=overrides, seed=seed, order=number, problem="", report=report)


def summarize(cells: Sequence[CellInput], question: Question | None = QUESTION, **environment: Any) -> ExperimentReport:
    labels = {cell.cell: label(cell.overrides) for cell in cells}
    return summarize_experiment(
        "study", cells, question, labels=labels, job="job.yaml", environment={"cpus": 2, "host": "h", **environment}
    )


def by_batch(
    made: Callable[..., CellInput], settings: Mapping[int, Mapping[str, Any]], key: str = "scale.global_batch_size"
) -> list[CellInput]:
    cells: list[CellInput] = []
    for value, values in settings.items():
        cells += [made(len(cells) + seed, {key: value}, seed, **values) for seed in SEEDS]
    return cells
