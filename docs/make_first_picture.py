"""Submit the digits job three times and draw the README's first picture from the reports. `make docs` runs it.

The three runs: the reference (1 worker x 16), two workers x 128 with the linear rule, and the same batch at the
reference's learning rate.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")
from matplotlib import pyplot as plt

ROOT = Path(__file__).parent.parent
PICTURE = ROOT / "docs/pictures/digits.svg"

RUNS = (
    ("reference: 16 samples, lr 0.01", "#0072b2", ["--workers", "1", "--set", "scale.per_worker_batch_size=16"]),
    ("256 samples, linear rule: lr 0.16", "#d55e00", []),
    ("256 samples, lr left at 0.01", "#777777", ["--set", "scale.rule=none"]),
)


def submit(arguments: list[str], storage: str) -> dict[str, Any]:
    """Submit the job once and return its report."""
    scaler = Path(sys.executable).parent / "scaler"
    command = [scaler, "submit", "jobs/digits/job.yaml", "--json", "--quiet", "--set", f"storage={storage}", *arguments]
    done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def main() -> None:
    mpl.rcParams.update({"svg.hashsalt": "scaler", "font.size": 10, "font.family": "sans-serif"})
    figure, axes = plt.subplots(figsize=(7.2, 3.6))
    with tempfile.TemporaryDirectory() as storage:
        for label, colour, arguments in RUNS:
            report = submit(arguments, storage)
            series, accuracy = report["series"], report["final"]["eval"]["accuracy"]
            epochs = [seen / report["plan"]["num_samples"] for seen in series["eval_samples_seen"]]
            shown = f"{accuracy:.3f}  {label}"
            axes.plot(epochs, series["evals"]["accuracy"], color=colour, marker="o", markersize=3, label=shown)
            print(f"{accuracy:.4f}  {label}")
    axes.set(xlabel="epochs", ylabel="test accuracy", ylim=(0, 1.03))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    axes.legend(frameon=False, loc="lower right", title="at the end", alignment="left")
    figure.tight_layout()
    figure.savefig(PICTURE, metadata={"Date": None}, facecolor="white")


if __name__ == "__main__":
    main()
