"""The cost of computing and setting a step's learning rate, against torch's chained schedulers; and of a long plan.

python benchmarks/schedule_cost.py
"""

import statistics
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

import torch
from table import table
from torch.optim.lr_scheduler import ChainedScheduler, CosineAnnealingLR, LinearLR, SequentialLR

from scaler.job import load_job
from scaler.plan import Plan, make_plan
from scaler.training.optimizer.settings import set_lr, used_lr

DIGITS = Path(__file__).parents[1] / "jobs" / "digits" / "job.yaml"
STEPS, REPEATS = 20_000, 7
PHASES = 401


def main() -> None:
    job = load_job(DIGITS, overrides=["train={steps: 1000000, num_samples: 1437}"])
    plan = make_plan(job)

    def ours() -> Callable[[int], None]:
        optimizer = _optimizer()
        size = plan.global_batch_size

        def step(index: int) -> None:
            samples = index * size
            lr = plan.lr_at(samples)
            set_lr(optimizer, lr, momentum=plan.momentum_at(samples))
            used_lr(optimizer, planned=lr)

        return step

    def sequential() -> Callable[[int], None]:
        optimizer = _optimizer()
        parts = [LinearLR(optimizer, 1 / 16, total_iters=1000), CosineAnnealingLR(optimizer, 999_000)]
        scheduler = SequentialLR(optimizer, parts, milestones=[1000])
        return lambda index: scheduler.step()

    def chained() -> Callable[[int], None]:
        optimizer = _optimizer()
        scheduler = ChainedScheduler(
            [LinearLR(optimizer, 1 / 16, total_iters=1000), CosineAnnealingLR(optimizer, 1_000_000)]
        )
        return lambda index: scheduler.step()

    costs = {"scaler": ours, "SequentialLR": sequential, "ChainedScheduler": chained}
    found: dict[str, list[float]] = {name: [] for name in costs}
    warnings.simplefilter("ignore")  # torch's schedulers warn that optimizer.step() was not called
    for _ in range(REPEATS):
        for name, make in costs.items():
            found[name].append(_per_step(make()) * 1e6)
    ratios = [mine / theirs for mine, theirs in zip(found["scaler"], found["ChainedScheduler"], strict=True)]
    print(table([{"learning rate of a step, 2 groups": name, **_spread(us, "us", 2)} for name, us in found.items()]))
    print(f"scaler / ChainedScheduler: {statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})\n")

    points = ", ".join(f"{{at: {{epochs: {100 * n}}}, factor: {1 + n % 3}}}" for n in range(1, PHASES))
    grows = f"scale.batch_schedule={{name: points, points: [{points}]}}"
    many = make_plan(load_job(DIGITS, overrides=["train={epochs: 50000, num_samples: 1437}", grows]))
    rows = []
    for counted in (plan, many):
        us = [_per_step(_answers(counted)) * 1e6 for _ in range(REPEATS)]
        rows.append({"lr_at + steps + phase_at, phases": f"{len(counted.phases)}", **_spread(us, "us", 2)})
    print(table(rows) + "\n")

    planning = []
    for _ in range(REPEATS):
        began = perf_counter()
        make_plan(job)
        planning.append(perf_counter() - began)
    with tempfile.TemporaryDirectory() as folder:
        scaler = Path(sys.executable).parent / "scaler"
        command = [scaler, "plan", DIGITS, "--set", "train={steps: 1000000, num_samples: 1437}"]
        whole = []
        for _ in range(REPEATS):
            began = perf_counter()
            subprocess.run(command, check=True, capture_output=True, cwd=folder)
            whole.append(perf_counter() - began)
    planned = {"make_plan": planning, "scaler plan, the whole command": whole}
    print(table([{f"a plan of {plan.total_steps:,} steps": name, **_spread(s, "s", 4)} for name, s in planned.items()]))


def _spread(values: list[float], unit: str, digits: int) -> dict[str, str]:
    shown = {f"{unit}, median": statistics.median(values), "least": min(values), "most": max(values)}
    return {name: f"{value:.{digits}f}" for name, value in shown.items()}


def _answers(plan: Plan) -> Callable[[int], None]:
    """Call what a step calls of its plan, at places over the whole training."""
    stride = plan.total_samples // STEPS

    def step(index: int) -> None:
        samples = index * stride
        plan.lr_at(samples)
        plan.steps(samples)
        plan.phase_at(samples)

    return step


def _optimizer() -> torch.optim.Optimizer:
    return torch.optim.SGD([{"params": [torch.nn.Parameter(torch.zeros(2))]} for _ in range(2)], lr=0.1, momentum=0.9)


def _per_step(step: Callable[[int], None]) -> float:
    began = perf_counter()
    for index in range(STEPS):
        step(index)
    return (perf_counter() - began) / STEPS


if __name__ == "__main__":
    main()
