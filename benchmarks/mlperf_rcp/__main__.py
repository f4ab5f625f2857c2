"""Do scaler's rules agree with the learning rates that vendors tuned for MLPerf, and how far can a batch grow there?

    python benchmarks/mlperf_rcp FOLDER [--write]

FOLDER has the reference convergence points of MLPerf training; ``points.py`` says which files, and their licence.
Prints two tables. ``--write`` writes facts.json, and public_workloads.json for the pages of experiments, which
compare a job with these workloads; then ``python docs/make_evidence.py`` writes docs/evidence.md and its pictures.
"""

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mlperf_rcp.facts import critical_batches, facts
from mlperf_rcp.points import read_points
from mlperf_rcp.tables import batch_rows, lr_rows
from table import table

FACTS = Path(__file__).parent / "facts.json"
CRITICAL = Path(__file__).resolve().parents[2] / "scaler/report/experiment/public_workloads.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="the folder of the files training_*__rcps_*.json")
    parser.add_argument("--write", action="store_true", help="write facts.json")
    arguments = parser.parse_args()
    try:
        found = facts(read_points(arguments.folder))
    except FileNotFoundError as error:
        sys.exit(f"Error: {error}\n  Give the folder of the files of MLCommons.")
    print(table(batch_rows(found["workloads"])))
    print()
    print(table(lr_rows(found["workloads"])))
    if arguments.write:
        FACTS.write_text(json.dumps(found, indent=1) + "\n")
        CRITICAL.write_text(json.dumps(critical_batches(found), indent=1) + "\n")
        print(f"\nWritten: {FACTS.name}, {CRITICAL.name}. Now run: python docs/make_evidence.py")


if __name__ == "__main__":
    main()
