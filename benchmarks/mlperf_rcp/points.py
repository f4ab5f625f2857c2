"""Reference convergence points of MLPerf training, as MLCommons publishes them.

The files are those of https://github.com/mlcommons/logging, folder ``mlperf_logging/rcp_checker``, commit 7bbf792,
Apache License 2.0, copyright MLCommons, named ``<round>__<file>``. They are read from a folder and are no part of this
project.
"""

import json
import math
import re
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

# The same model and data under two names.
NAMES = MappingProxyType({"gnn": "rgat", "sd": "stable_diffusion"})
TYPING_ERROR = (
    5.0  # times the median of its batch size: a value is left out, as a wrong digit; there is one in all files
)

# The optimizer, and how the rules of the round bind the learning rate to the batch: from the files ``closed_*.yaml`` in
# ``mlperf_logging/compliance_checker`` of the same commit, and from
# https://github.com/mlcommons/training_policies/blob/master/training_rules.adoc for those that the files do not name.
OPTIMIZERS: Mapping[str, str] = MappingProxyType(
    {
        "bert": "lamb",
        "deepseekv3_671b": "adamw",
        "dlrm": "sgd",
        "dlrm_dcnv2": "torch.optim:Adagrad",
        "flux1": "adamw",
        "gpt3": "adam",
        "gpt_oss_20b": "adamw",
        "llama2_70b_lora": "adamw",
        "llama31_405b": "adamw",
        "llama31_8b": "adamw",
        "maskrcnn": "sgd",
        "qwen35_397b_grpo": "adamw",
        "resnet": "lars",
        "retinanet": "adam",
        "rgat": "adam",
        "rnnt": "lamb",
        "ssd": "sgd",
        "stable_diffusion": "adamw",
        "unet3d": "sgd",
    }
)
BOUND: Mapping[str, str] = MappingProxyType(
    {
        "deepseekv3_671b": "fixed: square root of the batch",
        "gpt3": "2e-5 or 3e-5",
        "llama31_405b": "fixed: linear in the batch",
        "maskrcnn": "multiples of 0.02",
        "qwen35_397b_grpo": "fixed: square root of the batch",
    }
)
# Round 1.1 of SSD: 0.0025 at batch 1536, between 0.8 at 1024 and 2.9 at 2048, is the learning rate before its scaling.
OTHER_CONVENTION = frozenset({("ssd", 1536, 0.0025)})


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """One batch size of a benchmark, tuned by a vendor."""

    batch: int
    lr: float | None  # the peak; None: the file has it in another convention than at the other batches
    amounts: tuple[float, ...]  # of data to the target, one for each run, in the unit of its file
    left_out: int = 0  # runs whose value is a typing error


@dataclass(frozen=True, kw_only=True, slots=True)
class PointSet:
    """The points of one benchmark that several rounds have in common."""

    benchmark: str
    optimizer: str
    rounds: tuple[str, ...]
    points: tuple[Point, ...]  # by batch


def read_points(folder: Path) -> list[PointSet]:
    """Return the points of all benchmarks; a set that recurs from round to round is returned once.

    Raises:
        FileNotFoundError: no file of points in the folder.
    """
    found: dict[str, dict[tuple[Point, ...], list[str]]] = {}
    paths = sorted(folder.glob("training_*__rcps_*.json"), key=lambda path: _round(path.name))
    if not paths:
        raise FileNotFoundError(f"{folder} has no file training_*__rcps_*.json.")
    for path in paths:
        number = _round(path.name)
        records = json.loads(path.read_text()).values()
        name = _benchmark(next(iter(records))["Benchmark"], number)
        sets = found.setdefault(name, {})
        rounds = sets.setdefault(
            _points(records, is_in_steps=path.name.endswith("_3.1.0__rcps_stable_diffusion.json")), []
        )
        if number not in rounds:
            rounds.append(number)
    return [
        PointSet(benchmark=name, optimizer=OPTIMIZERS[name], rounds=tuple(rounds), points=points)
        for name, sets in sorted(found.items())
        for points, rounds in sets.items()
    ]


def _round(name: str) -> str:
    match = re.match(r"training_([\d.]+)__", name)
    assert match is not None
    return match[1]


def _benchmark(name: str, number: str) -> str:
    """Return the benchmark's name; from round 2.0 on, ``ssd`` is RetinaNet, which later has a name of its own."""
    if name == "ssd" and number >= "2":
        return "retinanet"
    return NAMES.get(name, name)


def _points(records: Iterable[Mapping[str, Any]], *, is_in_steps: bool) -> tuple[Point, ...]:
    """Return the points by batch; of two with one batch, the one that needs less data."""
    best: dict[int, Point] = {}
    for record in records:
        key = next(key for key in record if key.endswith("to converge"))
        factor = record["BS"] if is_in_steps else 1
        amounts = [float(value) * factor for value in record[key]]
        limit = TYPING_ERROR * statistics.median(amounts)
        kept = tuple(value for value in amounts if value < limit)
        lr = float(record["Hyperparams"]["opt_base_learning_rate"])
        is_other = (record["Benchmark"], record["BS"], lr) in OTHER_CONVENTION
        point = Point(
            batch=int(record["BS"]),
            lr=None if is_other else lr,
            amounts=kept,
            left_out=len(amounts) - len(kept),
        )
        other = best.get(point.batch)
        if other is None or _middle(point) < _middle(other):
            best[point.batch] = point
    return tuple(best[batch] for batch in sorted(best))


def _middle(point: Point) -> float:
    return math.fsum(map(math.log, point.amounts)) / len(point.amounts)
