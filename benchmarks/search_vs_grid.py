"""Does a search find what the whole grid finds, with fewer samples?

A grid of 24 settings of the digits (learning rate x batch x warmup, one worker) is searched with asha, once with each
of five seeds; then the rest of the grid is trained with each seed. A setting that the search found is good if its
metric, as the mean over all seeds, is at most one standard error below the best setting of the grid; the standard
error is that of the best setting over the seeds. The search must use at most half of the samples of the grid.

The metric is the loss of the evaluation. With --metric accuracy, which is a count of 360 images, one seed tells good
settings apart less well.

The search trains first, so that each of its trials is really trained; the grid then continues their runs.

    python benchmarks/search_vs_grid.py FOLDER             everything; about ten minutes on two idle cores
    python benchmarks/search_vs_grid.py FOLDER --seed 3    one seed, and the table of the seeds so far
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from scaler.api.experiment import read_experiment, run_experiment
from scaler.errors import RunError
from scaler.experiment.file import ExperimentFile, parse_experiment
from scaler.experiment.run import Watcher
from scaler.report.run.read import read_report
from scaler.runs.find import run_with_id

DIGITS = Path(__file__).parents[1] / "jobs/digits"
SPACE: Mapping[str, list[Any]] = {
    "reference.lr": [0.003, 0.01, 0.03, 0.1],
    "scale.global_batch_size": [16, 64, 256],
    "schedule.warmup.epochs": [1, 4],
}
SEEDS = (0, 1, 2, 3, 4)
MOST_SHARE = 0.5
MODE = {"loss": "min", "accuracy": "max"}
WORST = {"loss": 1e9, "accuracy": 0.0}  # of a run that diverged
QUIET = Watcher(on_notice=lambda notice: print(notice, flush=True))


def experiment(name: str, folder: Path, seed: int, **about: Any) -> ExperimentFile:
    return parse_experiment(
        {
            "name": f"{name}-{seed}",
            "job": "job.yaml",
            "set": {
                "scale.num_workers": 1,
                "scale.per_worker_batch_size": 256,
                "train.epochs": 12,
                "storage": str(folder.absolute() / "runs"),
            },
            "seeds": [seed],
            **about,
        },
        source=name,
    )


def search(folder: Path, seed: int, metric: str) -> None:
    """Search the grid with one seed: of the training, and of the order of the settings."""
    section = {"space": SPACE, "searcher": "grid", "scheduler": "asha", "seed": seed}
    compare = {"metric": metric, "mode": MODE[metric]}
    made = experiment(f"search-{metric}", folder, seed, search=section, compare=compare)
    run_experiment(made, folder=DIGITS, watcher=QUIET)


def grid(folder: Path, seed: int) -> None:
    """Train the whole grid with one seed."""
    run_experiment(experiment("grid", folder, seed, matrix=SPACE), folder=DIGITS, watcher=QUIET)


def table(folder: Path, metric: str) -> bool:
    """Print what the searches found beside the grid; return whether every search did what it must."""
    storage = folder / "runs"
    results: dict[str, list[float]] = {}
    samples: dict[int, int] = {}
    for seed in SEEDS:
        try:
            report = read_experiment(f"grid-{seed}", storage=storage)
        except RunError:
            continue
        for cell in report.cells:
            value = cell.final.get(metric)
            results.setdefault(str(dict(cell.overrides)), []).append(WORST[metric] if value is None else value)
            run = run_with_id(cell.run_id or "", storage=str(storage))
            samples[seed] = samples.get(seed, 0) + (read_report(run).totals.samples_seen if run is not None else 0)
    seeds = list(samples)
    means = {name: fmean(values) for name, values in results.items()}
    sign = 1 if MODE[metric] == "max" else -1
    best = max(means, key=lambda name: sign * means[name])
    error = stdev(results[best]) / len(seeds) ** 0.5 if len(seeds) > 1 else 0.0
    print(f"\n{len(means)} settings, seeds {seeds}. The best of the grid: {best}")
    print(f"{metric} {means[best]:.4f}, standard error {error:.4f}: {means[best] - sign * error:.4f} is as good\n")
    print("seed  found                                             mean    rank  samples  of the grid  as good")
    good = True
    for seed in seeds:
        found = read_experiment(f"search-{metric}-{seed}", storage=storage).search
        assert found is not None
        assert found.best is not None
        name = str(dict(found.trials[found.best].overrides))
        rank = 1 + sum(sign * mean > sign * means[name] for mean in means.values())
        share = found.samples / samples[seed]
        is_good = sign * means[name] >= sign * means[best] - error and share <= MOST_SHARE
        good &= is_good
        label = found.trials[found.best].label
        print(
            f"{seed:4}  {label:48}  {means[name]:.4f}  {rank:4}  {found.samples:7,}  {share:11.0%}  "
            f"{'yes' if is_good else 'NO'}"
        )
    return good


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, help="run one seed only")
    parser.add_argument("--metric", choices=list(MODE), default="loss")
    options = parser.parse_args()
    for seed in SEEDS if options.seed is None else [options.seed]:
        search(options.folder, seed, options.metric)
        grid(options.folder, seed)
    raise SystemExit(not table(options.folder, options.metric))


if __name__ == "__main__":
    main()
