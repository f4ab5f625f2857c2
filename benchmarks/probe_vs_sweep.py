"""Compare the largest batch that ``scaler probe`` finds with that of a full sweep, and what each costs.

The sweep trains whole runs with 1, 2, 4 ... times the reference's batch and the rule's learning rate, each with
several seeds, until the final evaluation loss leaves the tolerance of the best smaller batch. The probe's answer is its
largest constant batch. Both take the tolerance from the seeds of their smallest batch.

    python benchmarks/probe_vs_sweep.py digits                            about a minute of one CPU
    python benchmarks/probe_vs_sweep.py charlm --at 0.03,0.1,0.5          about ten minutes
    python benchmarks/probe_vs_sweep.py charlm --storage DIR              runs that exist are not trained again
"""

import argparse
import tempfile
from math import inf
from pathlib import Path
from statistics import fmean

from table import table

from scaler.api.probe import plan_probe
from scaler.core.largest_batch import bounds, next_multiple, seed_tolerance
from scaler.experiment.probe import run_probe
from scaler.experiment.probe_runs import ProbeRuns, ProbeWatcher
from scaler.experiment.probe_setting import ProbeOptions
from scaler.job.load import edit_job
from scaler.job.located import LocatedJob, locate_job
from scaler.plan import Plan, make_plan

JOBS = Path(__file__).resolve().parent.parent / "jobs"
OWN = {  # one worker, whole batches in one forward and backward; digits at its tuned learning rate
    "digits": ("reference.lr=0.03", "scale.per_worker_batch_size=1024"),
    "charlm": ("scale.per_worker_batch_size=512",),
}
SHARED = ("scale.num_workers=1", "checkpoint.every={samples: 100000000}", "failures.divergence=null")
MOST = 64


def sweep(located: LocatedJob, plan: Plan, runs: ProbeRuns, *, seeds: int) -> tuple[dict[int, float], float, int]:
    """Return the mean final loss by multiple, the tolerance, and the number of runs."""
    means: dict[int, float] = {}
    tolerance, trained = 0.0, 0
    while (multiple := next_multiple(means, tolerance=tolerance, most=MOST, resolution=2.0)) is not None:
        losses = []
        for seed in range(seeds):
            texts = [f"train.seed={seed}", f"scale.global_batch_size={multiple * plan.reference_batch_size}"]
            job = edit_job(located.job.model_dump(), overrides=texts, source=located.source)
            _, report = runs.train("", job, None)
            loss = report.final.eval["loss"]
            losses.append(inf if loss is None else loss)
            trained += 1
        means[multiple] = fmean(losses)
        tolerance = tolerance or seed_tolerance(losses)
        print(f"  sweep, batch {multiple * plan.reference_batch_size}: loss {means[multiple]:.4f}", flush=True)
    return means, tolerance, trained


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job", choices=sorted(OWN))
    parser.add_argument("--at", help="places of the probe, as shares of the training")
    parser.add_argument("--seeds", type=int, default=3, help="of the sweep and of the probe")
    parser.add_argument("--storage", help="folder of the runs; default: a temporary one")
    options = parser.parse_args()
    at = None if options.at is None else [float(share) for share in options.at.split(",")]
    with tempfile.TemporaryDirectory() as folder:
        storage = options.storage or folder
        overrides = [*OWN[options.job], *SHARED, f"storage={storage}"]
        located = locate_job(JOBS / options.job, overrides=overrides)
        plan = make_plan(located.job)
        runs = ProbeRuns(
            name=options.job,
            storage=storage,
            plan=plan,
            recipe_folder=located.recipe_folder,
            address="none",
            connection=None,
            watcher=ProbeWatcher(),
        )
        means, tolerance, trained = sweep(located, plan, runs, seeds=options.seeds)
        swept = bounds(means, tolerance=tolerance)
        setting = plan_probe(JOBS / options.job, ProbeOptions(at=at, seeds=options.seeds), overrides=overrides)
        found = run_probe(
            setting, address="none", watcher=ProbeWatcher(on_result=lambda text: print(f"  probe, {text}", flush=True))
        )
    batch, probed = plan.reference_batch_size, found.constant
    assert swept.holds is not None

    def row(name: str, holds: int, fails: int | None, tolerance: float | None, cost: str) -> dict[str, str]:
        return {
            "": name,
            "largest batch": str(holds),
            "fails": "not tried" if fails is None else str(fails),
            "tolerance": "" if tolerance is None else f"{tolerance:.4f}",
            "cost in runs": cost,
        }

    fails = None if swept.fails is None else swept.fails * batch
    places = [
        row(f"probe, at {place.share:.0%}", place.global_batch_size, place.fails_batch, place.tolerance, "")
        for place in found.places
    ]
    cost = f"{found.cost.samples_share:.1f}"
    constant = row("probe, constant", probed.global_batch_size, probed.fails_batch, None, cost)
    print(table([row("full sweep", swept.holds * batch, fails, tolerance, f"{trained}"), *places, constant]))
    ratio = probed.holds / swept.holds
    print(f"The probe's answer is {ratio:.2f} times the sweep's.")


if __name__ == "__main__":
    main()
