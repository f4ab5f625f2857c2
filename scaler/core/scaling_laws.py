"""Laws of scaling: the time of a step as a function of the number of workers.

With p workers and T the time of a step on one, in seconds:

    strong scaling, the global batch is fixed
        amdahl      t = T (s + (1 - s) / p)                                    s: the serial fraction
        usl         t = T (1 + sigma (p - 1) + kappa p (p - 1)) / p            sigma: contention, kappa: coherency
        all_reduce  t = C / p + W (p - 1) / p + 2 alpha (p - 1)                W: transfer, alpha: latency
    weak scaling, the global batch grows with p
        gustafson   p T / t = p - s (p - 1)                                    s: the serial fraction
        all_reduce  t = C + W (p - 1) / p + 2 alpha (p - 1)

A ring all-reduce has 2 (p - 1) messages one after another, each with a latency of alpha, and each worker sends and
receives 2 (p - 1) / p times the gradient; W is the time of twice the gradient at the bandwidth of one worker. In strong
scaling the all-reduce law is the universal scalability law with other names: W = T sigma and 2 alpha = T kappa. Both
fit equally well, so a good fit does not show that communication is the cause.

Each law is linear in its parameters, or in the first one and its products with the others. ``scaler.core.scaling_fits``
fits them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import fsum
from operator import mul
from types import MappingProxyType
from typing import Literal

Columns = Callable[[float], tuple[float, ...]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Law:
    """A law of scaling as a linear fit.

    Args:
        name: its name, as in the text above.
        scaling: ``strong``: the global batch is fixed; ``weak``: it grows with the workers.
        parameters: name of each parameter, the first in seconds or, for ``gustafson``, 1 / s; names that end in ``_s``
            are seconds, the others ratios to the first.
        columns: number of workers -> the factor of each coefficient.
        is_of_speed: whether ``p / t`` is fitted; else ``t``.
        factors: parameter = factor * coefficient.
        text: what the law says, for a report.
        source: where it comes from.
    """

    name: str
    scaling: Literal["strong", "weak"]
    parameters: tuple[str, ...]
    columns: Columns
    is_of_speed: bool = False
    factors: tuple[float, ...] = (1.0, 1.0, 1.0)
    text: str
    source: str

    def response(self, workers: float, step_time_s: float) -> float:
        """Return what is fitted: the step time, or workers over step time."""
        return workers / step_time_s if self.is_of_speed else step_time_s

    def step_time_s(self, workers: float, coefficients: Sequence[float]) -> float:
        """Return the step time in seconds for the coefficients of ``columns``."""
        response = fsum(map(mul, coefficients, self.columns(workers)))
        return workers / response if self.is_of_speed else response


_RING = (
    "Patarasuk and Yuan 2009, https://doi.org/10.1016/j.jpdc.2008.09.002; the factor 2 (p - 1) / p: "
    "https://github.com/NVIDIA/nccl-tests/blob/master/doc/PERFORMANCE.md"
)
_LAWS = (
    Law(
        name="amdahl",
        scaling="strong",
        parameters=("one_worker_s", "serial_fraction"),
        columns=lambda p: (1 / p, (p - 1) / p),
        text="a fixed part of each step is not divided among the workers",
        source="Amdahl 1967, https://doi.org/10.1145/1465482.1465560",
    ),
    Law(
        name="usl",
        scaling="strong",
        parameters=("one_worker_s", "contention", "coherency"),
        columns=lambda p: (1 / p, (p - 1) / p, p - 1),
        text="workers queue for a shared resource (contention) and wait for each pair to agree (coherency)",
        source="Gunther 2007, https://doi.org/10.1007/978-3-540-31010-5",
    ),
    Law(
        name="all_reduce",
        scaling="strong",
        parameters=("compute_s", "transfer_s", "latency_s"),
        columns=lambda p: (1 / p, (p - 1) / p, p - 1),
        factors=(1.0, 1.0, 0.5),
        text="a ring all-reduce that does not overlap with the computation",
        source=_RING,
    ),
    Law(
        name="gustafson",
        scaling="weak",
        parameters=("one_worker_per_s", "serial_fraction"),
        columns=lambda p: (p, 1 - p),
        is_of_speed=True,
        text="a fixed part of each step is not parallel, and the rest grows with the workers",
        source="Gustafson 1988, https://doi.org/10.1145/42411.42415",
    ),
    Law(
        name="all_reduce",
        scaling="weak",
        parameters=("compute_s", "transfer_s", "latency_s"),
        columns=lambda p: (1.0, (p - 1) / p, p - 1),
        factors=(1.0, 1.0, 0.5),
        text="a ring all-reduce that does not overlap with the computation",
        source=_RING,
    ),
)
LAWS: Mapping[tuple[str, str], Law] = MappingProxyType({(law.scaling, law.name): law for law in _LAWS})
