"""Seconds from the command to the first optimizer step, and to the command's exit, on a running cluster over HTTP.

``scaler submit --address http://...`` of the digits job (two workers, with evaluation, checkpoints, records and report)
is compared with ``ray job submit`` of ``plain.py``, which trains the same model for the same epochs and reports its
loss after each. The cluster has a head and two nodes, each in a network namespace (``machine_cluster``), and has
Ray's default settings. The commands run on a machine that reaches only the head, and take turns, in the order A B B A.

The clock starts before the command's process. The first step ends when rank 0 asks for the second step's loss (see
``stopwatch``).

Run, as root: python benchmarks/submit_remote.py [--pairs 3]
"""

import argparse
import shutil
import subprocess
import sys
from pathlib import Path
from time import sleep, time

from machine_cluster import MachineCluster, why_no_machines
from startup import (
    HERE,
    Measurement,
    comparison,
    marks,
    measure_in_turns,
    write_plain_settings,
    write_scaler_job,
)
from stopwatch import read_notes

GOALS = {"first step": 0.8}  # ratio scaler / plain
PAUSE_S = 5.0  # between two commands: Ray ends the processes of the one before


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pairs", type=int, default=3, help="commands of each side (default 3)")
    arguments = parser.parse_args()
    if (reason := why_no_machines()) is not None:
        sys.exit(f"submit_remote.py: {reason}")
    with MachineCluster(nodes=2, quick=False) as cluster:
        cluster.add("desk", networks=("office",))

        def measured(side: str, pair: int) -> Measurement:
            sleep(PAUSE_S)
            return measure(cluster, side, cluster.shared / f"{pair}-{side}")

        print("\n\n".join(comparison(measure_in_turns(arguments.pairs, measured), goals=GOALS)))


def measure(cluster: MachineCluster, side: str, folder: Path) -> Measurement:
    """Run a side's command once, on a machine outside the cluster; return its times.

    Args:
        cluster: the running cluster.
        side: ``scaler`` or ``plain``.
        folder: gets what the run writes; all nodes see it.
    """
    job, notes = Path(f"{folder}-job"), folder / "notes"  # the folder that is sent, and the one that is not
    notes.mkdir(parents=True)
    job.mkdir()
    shutil.copy(HERE / "stopwatch.py", job)
    command = scaler_command(cluster, job, notes) if side == "scaler" else plain_command(cluster, job, notes)
    log = folder / "output.log"
    with log.open("wb") as output:
        began = time()
        process = cluster.start("desk", command, stdout=output, stderr=subprocess.STDOUT, folder=job)
        entered: list[float] = []
        while process.poll() is None:
            if not entered and any(folder.glob("runs/*/logs/rank-0.log")):
                entered.append(time())
            sleep(0.02)
        ended = time()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}: exit code {process.returncode}\n{log.read_text()[-4000:]}")
    rank_0 = read_notes(notes)[0]
    return Measurement(
        first_step_s=rank_0["times"][1] - began,
        exit_s=ended - began,
        marks=marks(folder, rank_0, entered, began, ended) if side == "scaler" else [],
    )


def scaler_command(cluster: MachineCluster, job: Path, notes: Path) -> list[str]:
    """Write the digits job with a stopwatch in its recipe; return ``scaler submit`` of it."""
    write_scaler_job(job / "job.yaml", notes=notes, storage=notes.parent / "runs")
    return ["scaler", "submit", "job.yaml", "--address", cluster.jobs_address]


def plain_command(cluster: MachineCluster, job: Path, notes: Path) -> list[str]:
    """Write the script of plain and its configuration; return ``ray job submit`` of them."""
    write_plain_settings(job / "plain.json", notes=notes, storage=notes.parent / "results")
    shutil.copy(HERE / "plain.py", job)
    submit = ["ray", "job", "submit", "--address", cluster.jobs_address, "--working-dir", "."]
    return [*submit, "--", "python", "plain.py", "plain.json"]


if __name__ == "__main__":
    main()
