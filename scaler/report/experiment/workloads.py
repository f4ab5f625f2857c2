"""The critical batch sizes of public workloads, beside which a job's own one can be put.

``public_workloads.json`` has them: fits to the reference convergence points of MLPerf training. The facts are those of
MLCommons, under the Apache License 2.0; ``benchmarks/mlperf_rcp`` makes the file and docs/evidence.md explains it.
"""

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from scaler.report.text.format import number


@dataclass(frozen=True, kw_only=True, slots=True)
class Workload:
    """A public workload.

    Args:
        name: of the benchmark.
        optimizer: its name.
        round: of MLPerf training, the newest with these points.
        value: critical batch size in samples; of a language model, in sequences.
        low: lower end of its 90 % interval.
        high: upper end.
    """

    name: str
    optimizer: str
    round: str
    value: float
    low: float
    high: float


@cache
def public_workloads() -> tuple[Workload, ...]:
    """Return the public workloads, the smallest critical batch first."""
    values = json.loads(files("scaler.report.experiment").joinpath("public_workloads.json").read_text(encoding="utf-8"))
    found = [
        Workload(
            name=row["benchmark"],
            optimizer=row["optimizer"].split(":")[-1].lower(),
            round=row["round"],
            value=row["value"],
            low=row["low"],
            high=row["high"],
        )
        for row in values["workloads"]
    ]
    return tuple(sorted(found, key=lambda each: each.value))


def beside_public(critical_batch: float) -> str:
    """Return where a critical batch size lies among those of public workloads, as one sentence.

    Example:
        >>> beside_public(60.0)[:71]
        'Of the 16 public workloads of MLPerf training, 1 has a smaller critical'
    """
    workloads = public_workloads()
    smaller = sum(each.value < critical_batch for each in workloads)
    least, greatest = workloads[0], workloads[-1]
    verb = "has" if smaller == 1 else "have"
    return (
        f"Of the {len(workloads)} public workloads of MLPerf training, {smaller or 'none'} {verb} a smaller critical "
        f"batch size; they go "
        f"from {number(least.value, 3)} ({least.name}) to {number(greatest.value, 3)} ({greatest.name})."
    )
