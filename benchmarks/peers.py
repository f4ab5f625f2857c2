"""Samples per second with scaler, records on, against other trainers; and what ``scaler.start`` costs in a loop.

Seven trainings of one model: scaler's loop (on Ray, as ``scaler submit`` runs it), ``scaler.start`` in a DDP loop, the
plain DDP loop, Ray Train by hand, Lightning, accelerate and Transformers, each as its documentation writes it
(``peers_loops.py``, ``plain.py``). All train on two processes with one torch thread each, and take turns; every second
round goes backwards. Samples per second count everything from the start of an early step to the start of the last one.
The trainings without Ray share one pair of processes; those on Ray get new workers, with a niceness of 0.

Then the cost of ``scaler.start``: the same loop with and without it, with steps of about 5 ms.

Run: python benchmarks/peers.py [--task digits|transformer|start] [--pairs 5] [--only NAME ...] [--write]
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter

from overhead import Case, measured, plainly, prepared, with_scaler
from peers_group import Group
from table import table

from scaler.cluster.embedded import embedded_cluster

HERE = Path(__file__).resolve().parent
PAGE = HERE.parent / "docs" / "measured" / "peers.md"
WORKERS = 2
BASE = "plain DDP"
ON_RAY = {"scaler submit": with_scaler, "Ray Train by hand": plainly}
SIDES = ("scaler submit", "scaler.start", BASE, "Ray Train by hand", "Lightning", "accelerate", "Transformers")
STEP_S, MOST_LOST = 0.005, 0.03

CASES = {
    "digits": Case(
        name="digits", job_file=HERE.parent / "jobs/digits/job.yaml", epochs=120, warmup_steps=120, least_ratio=1.1
    ),
    "transformer": Case(
        name="transformer", job_file=HERE / "transformer/job.yaml", epochs=2, warmup_steps=16, least_ratio=0.98
    ),
}


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Steps with and without ``scaler.start``: seconds of a step in each pair."""

    processes: int
    plain_s: Sequence[float]
    scaled_s: Sequence[float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", choices=[*CASES, "start"], action="append", help="default: all")
    parser.add_argument("--pairs", type=int, default=5, help="trainings of each side (default 5)")
    parser.add_argument("--only", nargs="+", choices=SIDES, default=SIDES, help="these sides, and plain DDP")
    parser.add_argument("--write", action="store_true", help=f"write {PAGE.relative_to(HERE.parent)}")
    arguments = parser.parse_args()
    tasks = arguments.task or [*CASES, "start"]
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 (Ray spells it so)
    os.environ["OMP_NUM_THREADS"] = "1"
    sides = [side for side in SIDES if side in arguments.only or side == BASE]
    texts = []
    if cases := [CASES[name] for name in tasks if name in CASES]:
        speeds = {case.name: compare(case, sides, pairs=arguments.pairs) for case in cases}
        texts.append(table([_row(side, speeds) for side in sides]))
        texts += [_goal(name, found) for name, found in speeds.items() if "scaler submit" in sides]
    if "start" in tasks:
        costs = [cost_of_start(processes, pairs=2 * arguments.pairs) for processes in (1, 2)]
        texts.append(table([_cost_row(cost) for cost in costs]))
    text = "\n\n".join(texts)
    print(text)
    if arguments.write:
        PAGE.write_text(_PAGE.format(text=text))


def compare(case: Case, sides: Sequence[str], *, pairs: int) -> Mapping[str, list[float]]:
    """Return samples per second of each side, in each round."""
    speeds: dict[str, list[float]] = {side: [] for side in sides}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="peers-")))
        if any(side in ON_RAY for side in sides):
            stack.enter_context(embedded_cluster(verbose=False))
        group = stack.enter_context(Group(WORKERS))
        for number in range(pairs):
            for side in sides if number % 2 == 0 else reversed(sides):
                began = perf_counter()
                if side in ON_RAY:
                    speed = _on_ray(case, side, folder)
                else:
                    speed = group.samples_per_s(
                        side, str(case.job_file), epochs=case.epochs, warmup_steps=case.warmup_steps
                    )
                speeds[side].append(speed)
                took_s = perf_counter() - began
                print(
                    f"{case.name} {number + 1}/{pairs} {side}: {speed:,.0f} samples/s; {took_s:.1f} s", file=sys.stderr
                )
    return speeds


def _on_ray(case: Case, side: str, folder: Path) -> float:
    notes = Path(tempfile.mkdtemp(prefix=case.name, dir=folder))
    job, plan, arguments = prepared(case, notes=notes, storage=str(notes))
    ON_RAY[side](job, plan, arguments)
    return measured(notes, warmup_steps=case.warmup_steps, steps=plan.total_steps).samples_per_s


def cost_of_start(processes: int, *, pairs: int) -> Cost:
    """Return the times of a step with and without ``scaler.start``, in turns, in the same processes."""
    with Group(processes) as group:
        batch_size = group.batch_of(STEP_S)
        found: dict[bool, list[float]] = {False: [], True: []}
        for number in range(pairs):
            for is_scaled in (False, True) if number % 2 == 0 else (True, False):
                found[is_scaled].append(group.step_s(batch_size, is_scaled=is_scaled))
    return Cost(processes=processes, plain_s=found[False], scaled_s=found[True])


def _row(side: str, speeds: Mapping[str, Mapping[str, list[float]]]) -> dict[str, str]:
    row = {"trainer": side}
    for name, found in speeds.items():
        row[f"{name}: samples/s"] = f"{median(found[side]):,.0f}"
        row[f"{name}: of {BASE}"] = _share(found[side], found[BASE])
    return row


def _goal(name: str, found: Mapping[str, list[float]]) -> str:
    ratio = median([a / b for a, b in zip(found["scaler submit"], found[BASE], strict=True)])
    least = CASES[name].least_ratio
    return f"{name}: scaler submit has {ratio:.2f} of {BASE}; the goal is {least:g}: {_verdict(ratio >= least)}."


def _cost_row(cost: Cost) -> dict[str, str]:
    lost = [scaled / plain - 1 for scaled, plain in zip(cost.scaled_s, cost.plain_s, strict=True)]
    return {
        "processes": str(cost.processes),
        "ms a step without": f"{1000 * median(cost.plain_s):.2f}",
        "ms a step with scaler.start": f"{1000 * median(cost.scaled_s):.2f}",
        "lost (range)": f"{median(lost):.1%} ({min(lost):.1%} to {max(lost):.1%})",
        "goal": f"at most {MOST_LOST:.0%}: {_verdict(median(lost) <= MOST_LOST)}",
    }


def _share(own: Sequence[float], base: Sequence[float]) -> str:
    ratios = [a / b for a, b in zip(own, base, strict=True)]
    return f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def _verdict(is_met: bool) -> str:
    return "met" if is_met else "missed"


_PAGE = """# Beside other trainers

Written by `python benchmarks/peers.py --write`. Two CPU workers with one thread each on a machine of two cores; medians
and ranges over rounds in which all trainers took turns. A ratio is that of one round, to the plain DDP loop of that
round.

{text}

scaler's rows have records on; the others record nothing. `scaler submit` and Ray Train run on an embedded Ray; the
others run without it. Each trainer is used as its documentation writes it, without loggers, progress bars and
checkpoints (`benchmarks/peers_loops.py`). An epoch of digits has 6 steps of about a millisecond, so what a trainer does
at the start of an epoch and around a step decides; a step of the transformer has 0.8 million parameters and is mostly
torch.
"""


if __name__ == "__main__":
    main()
