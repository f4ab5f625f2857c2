"""How long a checkpoint stops training, and how long it takes until the checkpoint is complete.

Training continues while a checkpoint is written. It stops for a copy in memory and for the hand-over of records: this
is ``stall``. ``to count`` ends when the manifest is in the folder; a training that waits would lose this time. The
second case is a wide model of the digits, with about a million parameters.

    python benchmarks/checkpoint_stall.py [--only transformer]
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from table import table

from scaler.metrics.reader import read_events, read_records
from scaler.runs import find_run

HERE = Path(__file__).resolve().parent
TRANSFORMER, DIGITS = HERE / "transformer/job.yaml", HERE.parent / "jobs/digits/job.yaml"
WIDE = ["recipe_args.hidden=950", "train.epochs=30", "checkpoint.every={samples: 1280}"]

CASES = {
    "transformer, 2 workers": (TRANSFORMER, ["train.epochs=3", "checkpoint.every={samples: 128}"], []),
    "wide digits, 2 workers": (DIGITS, WIDE, []),
    "wide digits, this process": (DIGITS, WIDE, ["--address", "none", "--workers", "1"]),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="cases whose name holds this")
    only = parser.parse_args().only
    print(table([measured(name, *case) for name, case in CASES.items() if only in name]))


def measured(name: str, job: Path, overrides: list[str], options: list[str]) -> dict[str, str]:
    """Return the row of a case."""
    with tempfile.TemporaryDirectory() as storage:
        settings = [part for text in [*overrides, f"storage={storage}"] for part in ("--set", text)]
        scaler = str(Path(sys.executable).with_name("scaler"))
        subprocess.run([scaler, "submit", str(job), *settings, *options, "--quiet"], check=True, capture_output=True)
        folder = find_run("last", storage=storage)
        saved = [event for event in read_events(folder) if event.kind == "checkpointed"][1:-1]
        steps = np.array(read_records(folder)["step_time_s"].to_pylist())
    stalls, seconds = ([1e3 * getattr(event, key) for event in saved] for key in ("stall_s", "seconds"))
    return {
        "case": name,
        "checkpoints": str(len(saved)),
        "MB": f"{saved[0].bytes / 1e6:.1f}",
        "step, ms": f"{1e3 * np.median(steps):.1f}",
        "stall, ms": f"{np.median(stalls):.1f} ({min(stalls):.1f}-{max(stalls):.1f})",
        "to count, ms": f"{np.median(seconds):.0f} ({min(seconds):.0f}-{max(seconds):.0f})",
    }


if __name__ == "__main__":
    main()
