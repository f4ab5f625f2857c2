"""The cost per step of measuring the gradient noise scale.

Every second step of one training is measured, so that measured and unmeasured steps are paired in time. The cost at the
default interval is the difference of their medians over that interval, as a share of an unmeasured step.

    python benchmarks/noise_cost.py [--only transformer]
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from table import table

from scaler.job.model import Train
from scaler.metrics.reader import read_records
from scaler.runs import find_run

HERE = Path(__file__).resolve().parent
TRANSFORMER, DIGITS = HERE / "transformer/job.yaml", HERE.parent / "jobs/digits/job.yaml"
EVERY = Train.model_fields["noise_scale_every"].default
GOAL = 0.03

CASES = {
    "transformer, 2 workers": (TRANSFORMER, ["--set", "train.epochs=3"]),
    "digits, 2 workers": (DIGITS, ["--set", "train.epochs=300"]),
    "transformer, 1 worker x 4 micro-steps": (
        TRANSFORMER,
        ["--address", "none", "--workers", "1", "--set", "scale.grad_accum_steps=4", "--set", "train.epochs=3"],
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="cases whose name holds this")
    only = parser.parse_args().only
    rows = [measure(name, job, options) for name, (job, options) in CASES.items() if only in name]
    print(table(rows))


def measure(name: str, job: Path, options: list[str]) -> dict[str, str]:
    """Return the table's row of a case."""
    with tempfile.TemporaryDirectory(prefix="noise-") as folder:
        scaler = Path(sys.executable).parent / "scaler"
        settings = [f"storage={folder}", "train.noise_scale_every=2", "train.eval_every={epochs: 1000}"]
        settings += ["checkpoint.every={epochs: 1000}"]
        command = [str(scaler), "submit", str(job), "--quiet", *options]
        command += [part for setting in settings for part in ("--set", setting)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        records = read_records(find_run("last", storage=folder))
    columns = {name: records[name].to_numpy(zero_copy_only=False) for name in ("step", "rank", "step_time_s")}
    warm = (columns["step"] >= 20) & (columns["rank"] == 0)
    measured = columns["step"] % 2 == 0
    with_it = float(np.median(columns["step_time_s"][warm & measured]))
    without = float(np.median(columns["step_time_s"][warm & ~measured]))
    cost = (with_it - without) / EVERY / without
    return {
        "case": name,
        "steps": f"{int(warm.sum()):,}",
        "step, ms": f"{without * 1000:.2f}",
        "measured step, ms": f"{with_it * 1000:.2f}",
        f"cost at every {EVERY} steps": f"{cost:.2%}",
        "goal": f"<= {GOAL:.0%} {'met' if cost <= GOAL else 'MISSED'}",
    }


if __name__ == "__main__":
    main()
