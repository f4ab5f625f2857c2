"""What an experiment takes beside the training of its cells, and whether its processes grow.

One command, ``scaler experiment run``, trains cells of the digits job, one worker each, with three seeds.
Its time is divided into the start of the cluster, the training of the cells (first step to last step), the gaps from
one cell's last step to the next one's first, and the end. The same cells as commands of their own are the comparison.

After each cell, the memory of the driver and of the worker's processes is read from Linux's /proc. It is compared
with that after the second cell: the first ones import what all cells use.

The overhead falls with the length of the cells: the last line says from which length on it is at most 10 %.

Run: python benchmarks/experiment_overhead.py [--cells 12] [--epochs 30] [--alone 2]
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from time import time
from typing import Any

import yaml
from table import table

JOB_FILE = Path(__file__).resolve().parents[1] / "jobs/digits/job.yaml"
SCALER = str(Path(sys.executable).with_name("scaler"))
MOST_OVERHEAD, MOST_GAP_S = 0.1, 1.0
SEEDS = 3
SETTLED = 2  # cells after which everything has been imported
Sizes = dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """When a cell trained, in epoch seconds."""

    submitted: float  # its folder is made
    forked: float  # its process runs
    first: float  # its first step begins
    last: float  # its last step has ended
    ended: float  # its records and checkpoints are written; its report is not

    @property
    def train_s(self) -> float:
        return self.last - self.first


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=int, default=12, help="cells of the experiment, a multiple of 3 (default 12)")
    parser.add_argument("--epochs", type=int, default=30, help="length of a cell (default 30)")
    parser.add_argument("--alone", type=int, default=2, help="cells that are submitted alone, too (default 2)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="experiment-") as name:
        folder = Path(name)
        write_files(folder, cells=arguments.cells, epochs=arguments.epochs)
        began = time()
        sizes = run_experiment(folder)
        ended = time()
        cells = read_cells(folder / "runs")
        print(table(where_time_goes(cells, began, ended)))
        print()
        print(table(where_gaps_go(cells)))
        print()
        print(table(memory_rows(sizes)))
        print()
        alone = [submit_alone(folder, seed) for seed in range(arguments.alone)]
        summary(cells, began, ended, alone)


def write_files(folder: Path, *, cells: int, epochs: int) -> None:
    values = yaml.safe_load(JOB_FILE.read_text())
    values["recipe"] = f"{JOB_FILE.parent / 'recipe.py'}:build"
    values["train"]["epochs"] = epochs
    values["scale"] = {"num_workers": 1, "global_batch_size": 16, "rule": "none"}
    values["schedule"] = {"name": "constant"}
    (folder / "job.yaml").write_text(yaml.safe_dump(values))
    lrs = [0.001 * (place + 1) for place in range(cells // SEEDS)]
    study = {"name": "study", "job": "job.yaml", "matrix": {"reference.lr": lrs}, "seeds": list(range(SEEDS))}
    (folder / "study.yaml").write_text(yaml.safe_dump(study))


def run_experiment(folder: Path) -> list[dict[str, Sizes]]:
    """Run the experiment; return the sizes of its processes in MiB after each cell, by group and by pid."""
    command = [SCALER, "experiment", "run", "study.yaml", "--json"]
    log, sizes = [], []
    with (folder / "report.json").open("w") as output:
        process = subprocess.Popen(command, cwd=folder, stdout=output, stderr=subprocess.PIPE, text=True)
        assert process.stderr is not None
        for line in process.stderr:
            log.append(line)
            if re.match(r" *\d+/\d+  ", line):
                sizes.append(resident(process.pid))
        process.wait()
    if process.returncode:
        raise SystemExit(f"exit code {process.returncode}\n{''.join(log)}")
    return sizes


def resident(root: int) -> dict[str, Sizes]:
    """Return the memory of a command's processes in MiB: the driver's, and that of the worker's processes."""
    parents, names = {}, {}
    for pid in (int(name) for name in os.listdir("/proc") if name.isdigit()):
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
            names[pid] = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            continue
        parents[pid] = int(stat.rpartition(")")[2].split()[1])

    def is_below(pid: int) -> bool:
        while pid in parents:
            if pid == root:
                return True
            pid = parents[pid]
        return False

    found: dict[str, Sizes] = {"driver": {}, "host": {}, "templates": {}, "Ray and others": {}}
    for pid, name in names.items():
        if not is_below(pid):
            continue
        group = (
            "driver"
            if pid == root
            else "host"
            if name.startswith("ray::Host")
            else "templates"
            if "kept/template.py" in name
            else "Ray and others"
        )
        size = resident_mib(pid)
        if size is not None:
            found[group][f"{pid}"] = size
    return found


def resident_mib(pid: int) -> float | None:
    """Return the memory of a process; a page that several processes share counts in parts (PSS)."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("Pss:")), None)


def read_cells(storage: Path) -> list[Cell]:
    """Return when each cell trained, in the order in which they ran."""
    rows = json.loads((storage / "experiments/study/cells.json").read_text())["cells"]
    return [read_cell(storage / row["run_id"]) for row in sorted(rows, key=lambda row: row["order"])]


def read_cell(run: Path) -> Cell:
    events: list[dict[str, Any]] = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    by_kind = {event["kind"]: event for event in events}
    end = by_kind["worker_ended"]  # after the last step, there is an evaluation and a checkpoint
    status = json.loads((run / "status.json").read_text())
    return Cell(
        submitted=status["started_at"],
        forked=by_kind["worker_started"]["time"],
        first=by_kind["attempt_started"]["time"],
        last=end["time"] - end["evaluation_s"] - end["checkpoint_s"],
        ended=status["ended_at"],
    )


def submit_alone(folder: Path, seed: int) -> float:
    """Return the seconds of a command that trains one of the cells."""
    options = ["--set", f"train.seed={seed}", "--set", "storage=alone", "--quiet"]
    began = time()
    subprocess.run([SCALER, "submit", "job.yaml", *options], cwd=folder, check=True, capture_output=True)
    return time() - began


def gaps(cells: list[Cell]) -> list[float]:
    return [later.first - earlier.last for earlier, later in pairwise(cells)]


def where_time_goes(cells: list[Cell], began: float, ended: float) -> list[dict[str, str]]:
    whole = ended - began
    parts = {
        "start: from the command to the first step": cells[0].first - began,
        f"training of {len(cells)} cells, first step to last step": sum(cell.train_s for cell in cells),
        f"{len(cells) - 1} gaps between cells": sum(gaps(cells)),
        "end: from the last step to the exit": ended - cells[-1].last,
        "whole command": whole,
    }
    return [{"part": name, "s": f"{part:.1f}", "share": f"{part / whole:.1%}"} for name, part in parts.items()]


def where_gaps_go(cells: list[Cell]) -> list[dict[str, str]]:
    """Return a row for each part of the gaps between cells."""
    pairs = list(pairwise(cells))
    parts = {
        "last evaluation and checkpoint, records written": [one.ended - one.last for one, _ in pairs],
        "report written, next run submitted": [other.submitted - one.ended for one, other in pairs],
        "process forked": [other.forked - other.submitted for _, other in pairs],
        "recipe built, first step begun": [other.first - other.forked for _, other in pairs],
        "whole gap": gaps(cells),
    }
    return [
        {"gap": name, "median s": f"{median(times):.2f}", "worst s": f"{max(times):.2f}"}
        for name, times in parts.items()
    ]


def memory_rows(sizes: list[dict[str, Sizes]]) -> list[dict[str, str]]:
    """Return a row for each group of processes; the last cell is left out, after which the workers are ended."""
    sizes = sizes[:-1]
    shown = sorted({1, SETTLED, *(max(SETTLED, len(sizes) * part // 4) for part in (1, 2, 3, 4))})
    rows = []
    for group in sizes[0]:
        whole = [sum(each[group].values()) for each in sizes]
        grown = (whole[-1] - whole[SETTLED - 1]) / max(len(whole) - SETTLED, 1)
        rows.append(
            {
                "MiB (PSS)": group,
                "processes": f"{len(sizes[-1][group])}",
                **{f"cell {number}": f"{whole[number - 1]:.1f}" for number in shown},
                "growth a cell": f"{grown:+.2f}",
            }
        )
    return rows


def summary(cells: list[Cell], began: float, ended: float, alone: list[float]) -> None:
    training = sum(cell.train_s for cell in cells)
    rest, between = ended - began - training, gaps(cells)
    a_cell = rest / len(cells)
    share = rest / (ended - began)
    is_met = median(between) <= MOST_GAP_S
    print(f"A cell trains for {median(cell.train_s for cell in cells):.1f} s (median).")
    print(
        f"Gap between cells: median {median(between):.2f} s, worst {max(between):.2f} s; "
        f"goal {MOST_GAP_S:g} s, {'met' if is_met else 'MISSED'}."
    )
    print(f"Overhead: {rest:.1f} s, {a_cell:.2f} s a cell, {share:.0%} of the command.")
    print(
        f"It is at most {MOST_OVERHEAD:.0%} of the training where {len(cells)} cells train for "
        f"{a_cell / MOST_OVERHEAD:.0f} s each; with many cells, where the start does not count, for "
        f"{median(between) / MOST_OVERHEAD:.0f} s."
    )
    if alone:
        each = median(alone)
        print(
            f"The same cells, submitted one by one: {each:.1f} s each (median of {len(alone)}), "
            f"{each * len(cells):.0f} s together; the experiment took {ended - began:.0f} s."
        )


if __name__ == "__main__":
    main()
