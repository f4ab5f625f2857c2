"""Seconds from the command to the first optimizer step, and to its exit.

``scaler submit jobs/digits/job.yaml`` (an embedded cluster; evaluation, checkpoints, records and report as in the job)
is compared with ``plain.py``, a Ray Train script with Ray's default settings that trains the same model for the same
epochs and reports its loss after each. ``bare_actors.py`` is the least that Ray takes: two actors that import torch and
join a gloo group; they train nothing. All are commands on two workers, and take turns, in the order A B C C B A.

The clock starts before the command's process. The first step ends when rank 0 asks for the second step's loss (see
``stopwatch``). The exit is the end of the process and of the cluster that it started.

Run: python benchmarks/startup.py [--pairs 3] [--processes] [--write docs/measured/startup.md]
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from time import sleep, time
from typing import Any

import yaml
from processes import ProcessWatch
from stopwatch import read_notes
from table import table

HERE = Path(__file__).resolve().parent
JOB_FILE = HERE.parent / "jobs/digits/job.yaml"
WORKERS = 2
SIDES = ("scaler", "plain")
BARE = "bare"
GOALS = {"first step": 0.6, "exit": 0.5}  # ratios scaler / plain
FIRST_STEP_S = 8.0  # the goal of scaler
INTRO = """# From the command to the first step

From `python benchmarks/startup.py --processes --write docs/measured/startup.md`: `scaler submit` of the digits job on
two workers of an embedded cluster; a plain Ray Train script that trains the same; and two bare Ray actors that import
torch and join a gloo group, which is the least that any of them needs. Medians of {pairs} of each, which took turns, on
a virtual machine of two cores.

"""


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """The times of one command, in seconds since its start."""

    first_step_s: float
    exit_s: float
    marks: list[tuple[str, float]] = field(default_factory=list)  # scaler only: events and their times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=3, help="commands of each side (default 3)")
    parser.add_argument("--processes", action="store_true", help="then one more of each, with a table of its processes")
    parser.add_argument("--write", type=Path, help="write the report here")
    arguments = parser.parse_args()
    sides = measure_in_turns(arguments.pairs, lambda side, _: measure(side)[0], sides=(*SIDES, BARE))
    parts = [*comparison(sides, goals=GOALS), beside_bare(sides["scaler"], sides[BARE])]
    if arguments.processes:
        parts += [table(measure(side, watched=True)[1]) for side in SIDES]
    text = "\n\n".join(parts) + "\n"
    print(text)
    if arguments.write:
        arguments.write.write_text(INTRO.format(pairs=arguments.pairs) + text)


def measure_in_turns(
    pairs: int, measured: Callable[[str, int], Measurement], *, sides: Sequence[str] = SIDES
) -> dict[str, list[Measurement]]:
    """Measure all sides so many times, in the order A B B A, and return what was measured by side.

    Args:
        pairs: commands of each side.
        measured: measures a side; gets its name, and the number of the pair.
        sides: their names.
    """
    found: dict[str, list[Measurement]] = {side: [] for side in sides}
    for pair in range(pairs):
        for side in sides if pair % 2 == 0 else reversed(sides):
            one = measured(side, pair)
            found[side].append(one)
            print(
                f"{pair + 1}/{pairs} {side:6}: first step after {one.first_step_s:.1f} s, "
                f"exit after {one.exit_s:.1f} s",
                file=sys.stderr,
            )
    return found


def comparison(sides: Mapping[str, list[Measurement]], *, goals: Mapping[str, float]) -> list[str]:
    """Return the tables of the comparison, and of where scaler's time goes.

    Args:
        sides: what was measured.
        goals: ratios scaler / plain that must not be exceeded.
    """
    rows = compared(sides["scaler"], sides["plain"], goals=goals)
    return [table(rows), table(where_time_goes(sides["scaler"]))]


def beside_bare(scaler: list[Measurement], bare: list[Measurement]) -> str:
    """Return a sentence on scaler's first step beside the bare actors' group, and the goal."""
    ours, least = (median(one.first_step_s for one in side) for side in (scaler, bare))
    ratios = [one.first_step_s / other.first_step_s for one, other in zip(scaler, bare, strict=True)]
    verdict = "met" if ours <= FIRST_STEP_S else "missed"
    return (
        f"The bare actors have joined their group after {least:.1f} s. scaler's first step is over after {ours:.1f} s: "
        f"{median(ratios):.2f} times that ({min(ratios):.2f} to {max(ratios):.2f}). "
        f"The goal of {FIRST_STEP_S:g} s is {verdict}."
    )


def measure(side: str, *, watched: bool = False) -> tuple[Measurement, list[dict[str, str]]]:
    """Run a side's command once; return its times and, when ``watched``, the table of its processes."""
    with tempfile.TemporaryDirectory(prefix="startup-") as name:
        folder = Path(name)
        notes = folder / "notes"
        notes.mkdir()
        commands = {"scaler": scaler_command, "plain": plain_command, BARE: bare_command}
        command = commands[side](folder, notes)
        # Workers inherit it; plain has the script's folder on its path.
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])}
        environment.pop("RAY_ADDRESS", None)
        log = folder / "output.log"
        with log.open("wb") as output:
            began = time()
            process = subprocess.Popen(command, stdout=output, stderr=output, env=environment, cwd=folder)
            entered: list[float] = []
            if watched:
                with ProcessWatch(process.pid) as watch:
                    process.wait()
            else:
                wait_and_look(process, folder, entered)
            ended = time()
        if process.returncode:
            raise SystemExit(f"{' '.join(command)}: exit code {process.returncode}\n{log.read_text()[-4000:]}")
        if side == BARE:
            return Measurement(
                first_step_s=json.loads((notes / "joined.json").read_text()) - began, exit_s=ended - began
            ), []
        rank_0 = read_notes(notes)[0]
        found = Measurement(
            first_step_s=rank_0["times"][1] - began,
            exit_s=ended - began,
            marks=marks(folder, rank_0, entered, began, ended) if side == "scaler" and not watched else [],
        )
        return found, process_rows(side, watch, began) if watched else []


def scaler_command(folder: Path, notes: Path) -> list[str]:
    """Write the digits job with a stopwatch in its recipe; return ``scaler submit`` of it."""
    write_scaler_job(folder / "job.yaml", notes=notes, storage=folder / "runs")
    return [str(Path(sys.executable).with_name("scaler")), "submit", str(folder / "job.yaml")]


def write_scaler_job(path: Path, *, notes: Path, storage: Path) -> None:
    """Write the digits job with a stopwatch in its recipe."""
    values = yaml.safe_load(JOB_FILE.read_text())
    values["recipe_args"] = stopwatch_arguments(values, notes)
    values["recipe"] = "stopwatch:build"
    values["storage"] = str(storage)
    path.write_text(yaml.safe_dump(values))


def plain_command(folder: Path, notes: Path) -> list[str]:
    """Write plain's configuration for the digits job; return its command."""
    write_plain_settings(folder / "plain.json", notes=notes, storage=folder / "results")
    return [sys.executable, str(HERE / "plain.py"), str(folder / "plain.json")]


def bare_command(folder: Path, notes: Path) -> list[str]:
    """Return the command of the bare actors."""
    return [sys.executable, str(HERE / "bare_actors.py"), str(notes)]


def write_plain_settings(path: Path, *, notes: Path, storage: Path) -> None:
    """Write the configuration of plain that trains as the digits job does."""
    values = yaml.safe_load(JOB_FILE.read_text())
    reference = values["reference"]
    ratio = values["scale"]["per_worker_batch_size"] * WORKERS / reference["global_batch_size"]
    config = {
        "recipe": stopwatch_arguments(values, notes),
        "optimizer": {**reference["optimizer"], "lr": reference["lr"] * ratio},
        "batch_size": values["scale"]["per_worker_batch_size"],
        "epochs": values["train"]["epochs"],
        "threads": None,
        "report": True,
    }
    path.write_text(json.dumps({"config": config, "workers": WORKERS, "storage": str(storage)}))


def stopwatch_arguments(values: dict[str, Any], notes: Path) -> dict[str, Any]:
    batch = values["scale"]["per_worker_batch_size"] * WORKERS
    return {
        "folder": str(JOB_FILE.parent),
        "path": values["recipe"],
        "arguments": values["recipe_args"],
        "steps": -(-values["train"]["num_samples"] // batch) * values["train"]["epochs"],
        "notes": str(notes),
    }


def wait_and_look(process: subprocess.Popen[bytes], folder: Path, entered: list[float]) -> None:
    """Wait for the command; note when rank 0's log appears, which is the first action of a worker."""
    while process.poll() is None:
        if not entered and any(folder.glob("runs/*/logs/rank-0.log")):
            entered.append(time())
        sleep(0.02)


def marks(
    folder: Path, rank_0: dict[str, Any], entered: list[float], began: float, ended: float
) -> list[tuple[str, float]]:
    """Return the events of a run of scaler with their times, from its folder and rank 0's stopwatch."""
    (run,) = (folder / "runs").iterdir()
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    status = json.loads((run / "status.json").read_text())
    first = {event["kind"]: event["time"] for event in reversed(events)}
    reached = {
        "plan made, run folder there": status["started_at"],
        "training function entered": entered[0] if entered else float("nan"),
        "torch imported, group joined": first["worker_started"],
        "recipe asked for": rank_0["built_at"],
        "recipe built, model wrapped": first["attempt_started"],
        "first step begun": rank_0["times"][0],
        "first step over": rank_0["times"][1],
        "last step begun": rank_0["times"][-1],
        "workers and cluster gone": status["ended_at"],
        "report written, exit": ended,
    }
    return [(name, moment - began) for name, moment in reached.items()]


def compared(
    scaler: list[Measurement], plain: list[Measurement], *, goals: Mapping[str, float]
) -> list[dict[str, str]]:
    rows = []
    for name, key in (("first step", "first_step_s"), ("exit", "exit_s")):
        ours, theirs = ([getattr(one, key) for one in side] for side in (scaler, plain))
        ratios = [one / other for one, other in zip(ours, theirs, strict=True)]
        goal = f"<= {goals[name]:g} {'met' if median(ratios) <= goals[name] else 'MISSED'}" if name in goals else ""
        rows.append(
            {
                "from the command to": name,
                "scaler s": f"{median(ours):.1f}",
                "plain s": f"{median(theirs):.1f}",
                "ratio (min-max)": f"{median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})",
                "goal": goal,
            }
        )
    return rows


def where_time_goes(scaler: list[Measurement]) -> list[dict[str, str]]:
    rows, before = [], 0.0
    for number, (name, _) in enumerate(scaler[0].marks):
        reached = median(one.marks[number][1] for one in scaler)
        rows.append({"scaler": name, "reached after s": f"{reached:.1f}", "took s": f"{reached - before:.1f}"})
        before = reached
    return rows


def process_rows(side: str, watch: ProcessWatch, began: float) -> list[dict[str, str]]:
    return [
        {
            f"{side}: process": process.name,
            "started after s": f"{process.started_at - began:.1f}",
            "gone after s": f"{process.seen_at - began:.1f}",
            "CPU s": f"{process.cpu_s:.2f}",
        }
        for process in sorted(watch.seen.values(), key=lambda process: process.started_at)
        if process.cpu_s >= 0.02
    ]


if __name__ == "__main__":
    main()
