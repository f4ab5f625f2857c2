"""How often the intervals and tests of scaler.core hold the truth, on simulated data: prints a table.

    python benchmarks/statistics_coverage.py [--simulations 2000] [--only TEXT]

Each row simulates an experiment with a known truth many times. An interval should hold the truth as often as its level
says, and a test should be wrong at most as often as its level says. ``tests/core/test_coverage.py`` runs the rows with
fewer simulations. The rows named "bootstrap" are what was tried and not taken.
"""

import argparse
import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import NormalDist

from table import table

from scaler.core.critical_batch import fit_critical_batch, predict_samples
from scaler.core.equivalence import equivalence, equivalences
from scaler.core.fits import Groups, minimum
from scaler.core.intervals import Estimate, geometric_mean_interval, mean_interval, median_interval
from scaler.core.samples_to_target import Reached, median_reached, ratio_to_baseline
from scaler.core.scaling_fits import fit_law, predict_step_time
from scaler.core.scaling_laws import LAWS
from scaler.core.speedup import speed_ups

Draw = Callable[[random.Random], bool]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One simulated experiment."""

    name: str
    nominal: float  # share of the simulations in which ``draw`` should be true
    draw: Draw
    is_limit: bool = False  # a test: ``draw`` may be true less often
    is_slow: bool = False  # it gets a tenth of the simulations

    def share(self, simulations: int) -> tuple[float, float]:
        """Return how often ``draw`` was true, and the standard error of this share at the level."""
        generator = random.Random(self.name)
        count = simulations // 10 if self.is_slow else simulations
        share = sum(self.draw(generator) for _ in range(count)) / count
        return share, math.sqrt(self.nominal * (1 - self.nominal) / count)


def rows() -> Iterator[Row]:
    yield from _means()
    yield from _equivalences()
    yield from _targets()
    yield from _critical_batches()
    yield from _speeds()


def _means() -> Iterator[Row]:
    for n in (3, 5, 10):
        yield Row(
            name=f"mean, normal, n = {n}",
            nominal=0.95,
            draw=lambda g, n=n: mean_interval([g.gauss(1, 0.3) for _ in range(n)], level=0.95).holds(1),
        )
        yield Row(
            name=f"mean, log-normal (20 %), n = {n}",
            nominal=0.95,
            draw=lambda g, n=n: mean_interval([g.lognormvariate(0, 0.2) for _ in range(n)], level=0.95).holds(
                math.exp(0.02)
            ),
        )
        yield Row(
            name=f"geometric mean, log-normal (50 %), n = {n}",
            nominal=0.90,
            draw=lambda g, n=n: geometric_mean_interval([g.lognormvariate(0, 0.5) for _ in range(n)], level=0.9).holds(
                1
            ),
        )
    shapes: dict[str, tuple[Callable[[random.Random], float], float]] = {
        "normal": (lambda g: g.gauss(0, 1), 0.0),
        "exponential": (lambda g: g.expovariate(1), math.log(2)),
        "log-normal (100 %)": (lambda g: g.lognormvariate(0, 1), 1.0),
    }
    for shape, (value, truth) in shapes.items():
        for n, level in ((5, 0.90), (8, 0.95), (10, 0.95)):
            yield Row(
                name=f"median, {shape}, n = {n}",
                nominal=level,
                draw=lambda g, n=n, level=level, value=value, truth=truth: median_interval(
                    [value(g) for _ in range(n)], level=level
                ).holds(truth),
            )


def _equivalences() -> Iterator[Row]:
    def interval(g: random.Random, n: int) -> bool:
        found = equivalence([g.gauss(0.004, 0.01) for _ in range(n)], margin=0.01, mode="max")
        return Estimate(value=None, low=found.low, high=found.high).holds(0.004)

    def is_wrong(g: random.Random, n: int, spread: float) -> bool:
        found = equivalence([g.gauss(-0.01, spread) for _ in range(n)], margin=0.01, mode="max")
        return found.verdict == "equivalent" or found.is_as_good

    def is_coarse_wrong(g: random.Random, n: int, samples: int) -> bool:
        def accuracy(right: float) -> float:
            return sum(g.random() < right for _ in range(samples)) / samples

        differences = [accuracy(0.95) - accuracy(0.96) for _ in range(n)]
        found = equivalence(differences, margin=0.01, mode="max", resolution=1 / samples)
        return found.verdict == "equivalent"

    def is_any_wrong(g: random.Random, n: int) -> bool:
        groups = {str(group): [g.gauss(-0.01, 0.002) for _ in range(n)] for group in range(5)}
        found = equivalences(groups, margin=0.01, mode="max")
        return any(one.verdict == "equivalent" for one in found.values())

    def is_worse(g: random.Random, n: int) -> bool:
        found = equivalence([g.gauss(0, 0.02) for _ in range(n)], margin=0.01, mode="max")
        return found.verdict == "worse"

    for n in (3, 5, 10):
        yield Row(name=f"paired difference, n = {n}", nominal=0.90, draw=lambda g, n=n: interval(g, n))
        for spread in (0.002, 0.005, 0.01):
            yield Row(
                name=f"false 'equivalent' or 'as good', spread {spread:g}, margin 0.01, n = {n}",
                nominal=0.05,
                is_limit=True,
                draw=lambda g, n=n, spread=spread: is_wrong(g, n, spread),
            )
        yield Row(
            name=f"false 'equivalent', accuracy of 360 samples, n = {n}",
            nominal=0.05,
            is_limit=True,
            draw=lambda g, n=n: is_coarse_wrong(g, n, 360),
        )
        yield Row(
            name=f"any false 'equivalent' of 5 groups (Holm), n = {n}",
            nominal=0.05,
            is_limit=True,
            draw=lambda g, n=n: is_any_wrong(g, n),
        )
        yield Row(
            name=f"false 'worse', no difference, n = {n}",
            nominal=0.05,
            is_limit=True,
            draw=lambda g, n=n: is_worse(g, n),
        )


def _targets() -> Iterator[Row]:
    def run(g: random.Random, median: float, end: float) -> Reached:
        value = g.lognormvariate(math.log(median), 0.2)
        if value > end:
            return Reached(value=None, low=end, high=math.inf)
        return Reached(value=value, low=0.95 * value, high=1.05 * value)

    for n, end in ((3, math.inf), (5, math.inf), (10, math.inf), (8, 1150.0), (10, 1150.0)):
        ended = "" if end == math.inf else ", 24 % not reached"
        yield Row(
            name=f"samples to target{ended}, n = {n}",
            nominal=0.90,
            draw=lambda g, n=n, end=end: median_reached([run(g, 1000, end) for _ in range(n)], level=0.9).holds(1000),
        )
        yield Row(
            name=f"ratio to the baseline{ended.replace('24 %', '24 and 7 %')}, n = {n}",
            nominal=0.90,
            draw=lambda g, n=n, end=end: ratio_to_baseline(
                {seed: run(g, 1000, 1.17 * end) for seed in range(n)},
                {seed: run(g, 1000, end) for seed in range(n)},
                level=0.9,
            ).holds(1),
        )

    # The same share of runs that did not arrive. If they never arrive, and had a long time for it, their bounds say all
    # that there is to know, and the interval is exact. Above, they arrive soon after their end, which nothing shows.
    truth = math.exp(0.2 * math.sqrt(2) * NormalDist().inv_cdf(0.5 / 0.76))

    def never(g: random.Random) -> Reached:
        value = g.lognormvariate(math.log(1000), 0.2)
        if g.random() < 0.24:
            return Reached(value=None, low=5000, high=math.inf)
        return Reached(value=value, low=0.95 * value, high=1.05 * value)

    for n in (8, 10, 20):
        yield Row(
            name=f"ratio to the baseline, 24 % never reach it in 5 times the samples, n = {n}",
            nominal=0.90,
            draw=lambda g, n=n: ratio_to_baseline(
                {seed: run(g, 1000, math.inf) for seed in range(n)},
                {seed: never(g) for seed in range(n)},
                level=0.9,
            ).holds(truth),
        )


def _critical_batches() -> Iterator[Row]:
    batches = {4: (16, 64, 256, 1024), 6: (16, 32, 64, 128, 256, 512)}

    def samples(g: random.Random, n: int, count: int, misfit: float, noise: str = "normal") -> dict[int, list[float]]:
        def error() -> float:
            return 0.05 * (g.expovariate(1) - 1 if noise == "exponential" else g.gauss(0, 1))

        return {
            batch: [
                1e5 * (1 + batch / 100) * math.exp(shift + error())
                for shift in [0.05 * misfit * g.gauss(0, 1)]
                for _ in range(n)
            ]
            for batch in batches[count]
        }

    def holds(g: random.Random, n: int, count: int, misfit: float, noise: str = "normal") -> bool:
        return fit_critical_batch(samples(g, n, count, misfit, noise), level=0.9).critical_batch.holds(100)

    def holds_fewest(g: random.Random, n: int, count: int) -> bool:
        found = fit_critical_batch(samples(g, n, count, 0), level=0.9).fewest_samples
        return found is None or found.holds(1e5)

    def is_predicted(g: random.Random, n: int, count: int) -> bool:
        measured = samples(g, n, count, 0)
        largest = max(measured)
        held_out = measured.pop(largest)
        truth = math.exp(sum(map(math.log, held_out)) / n)
        return predict_samples(measured, largest, level=0.9).holds(truth)

    def bootstrap(g: random.Random, n: int, count: int) -> bool:
        measured = samples(g, n, count, 0)
        found = sorted(
            _best_critical({batch: g.choices(values, k=n) for batch, values in measured.items()}) for _ in range(200)
        )
        return found[10] <= 100 <= found[189]

    for n, count in ((1, 6), (3, 4), (3, 6), (5, 4), (10, 4)):
        where = f"{count} batches, n = {n}"
        yield Row(name=f"B_crit, {where}", nominal=0.9, draw=lambda g, n=n, c=count: holds(g, n, c, 0))
        yield Row(name=f"E_min, {where}", nominal=0.9, draw=lambda g, n=n, c=count: holds_fewest(g, n, c))
        yield Row(
            name=f"held-out largest batch, {where}",
            nominal=0.9,
            draw=lambda g, n=n, c=count: is_predicted(g, n, c),
        )
    for misfit in (0.5, 1.0, 3.0):
        yield Row(
            name=f"B_crit, batches off the curve by {misfit:g} times the noise, 6 batches, n = 3",
            nominal=0.9,
            draw=lambda g, misfit=misfit: holds(g, 3, 6, misfit),
        )
    yield Row(
        name="B_crit, exponential noise, 4 batches, n = 3",
        nominal=0.9,
        draw=lambda g: holds(g, 3, 4, 0, "exponential"),
    )
    for n in (3, 5):
        yield Row(
            name=f"bootstrap over seeds: B_crit, 4 batches, n = {n}",
            nominal=0.9,
            is_slow=True,
            draw=lambda g, n=n: bootstrap(g, n, 4),
        )


def _best_critical(samples: dict[int, list[float]]) -> float:
    groups = Groups.of({batch: [math.log(value) for value in values] for batch, values in samples.items()})

    def squares(log_critical: float) -> float:
        rests = [
            mean - math.log1p(place / math.exp(log_critical))
            for place, mean in zip(groups.places, groups.means, strict=True)
        ]
        middle = sum(rests) / len(rests)
        return sum((rest - middle) ** 2 for rest in rests)

    return math.exp(minimum(squares, math.log(1), math.log(1e4), looks=12))


def _speeds() -> Iterator[Row]:
    counts = (1, 2, 4, 8, 16)
    truths = {
        ("strong", "amdahl"): lambda p: 0.5 * (0.05 + 0.95 / p),
        ("strong", "usl"): lambda p: 0.5 * (1 + 0.05 * (p - 1) + 0.004 * p * (p - 1)) / p,
        ("strong", "all_reduce"): lambda p: 0.5 / p + 0.04 * (p - 1) / p + 2 * 0.0015 * (p - 1),
        ("weak", "gustafson"): lambda p: 0.5 * p / (p - 0.08 * (p - 1)),
        ("weak", "all_reduce"): lambda p: 0.5 + 0.2 * (p - 1) / p + 2 * 0.01 * (p - 1),
    }
    parameters = {
        ("strong", "amdahl"): {"serial_fraction": 0.05},
        ("strong", "usl"): {"contention": 0.05, "coherency": 0.004},
        ("strong", "all_reduce"): {"compute_s": 0.5, "transfer_s": 0.04, "latency_s": 0.0015},
        ("weak", "gustafson"): {"serial_fraction": 0.08},
        ("weak", "all_reduce"): {"compute_s": 0.5, "transfer_s": 0.2, "latency_s": 0.01},
    }

    def times(g: random.Random, key: tuple[str, str], n: int) -> dict[int, list[float]]:
        return {p: [truths[key](p) * g.lognormvariate(0, 0.03) for _ in range(n)] for p in counts}

    def speeds(g: random.Random, n: int) -> dict[int, list[float]]:
        return {p: [1000 * p**0.9 / g.lognormvariate(0, 0.03 * p**0.3) for _ in range(n)] for p in (1, 4)}

    def is_predicted(g: random.Random, key: tuple[str, str], n: int) -> bool:
        measured = times(g, key, n)
        held_out = measured.pop(16)
        return predict_step_time(LAWS[key], measured, 16, level=0.9).holds(sum(held_out) / n)

    for n in (3, 5, 10):
        yield Row(
            name=f"throughput, n = {n}",
            nominal=0.9,
            draw=lambda g, n=n: speed_ups(speeds(g, n), level=0.9)[1].samples_per_s.holds(
                1000 * 4**0.9 / math.exp((0.03 * 4**0.3) ** 2 / 2)
            ),
        )
        yield Row(
            name=f"speed-up, n = {n}",
            nominal=0.9,
            draw=lambda g, n=n: speed_ups(speeds(g, n), level=0.9)[1].speed_up.holds(4**0.9),
        )
    for key, named in parameters.items():
        for n in (3, 10):
            for name, truth in named.items():
                yield Row(
                    name=f"{key[0]} {key[1]}: {name}, n = {n}",
                    nominal=0.9,
                    draw=lambda g, key=key, n=n, name=name, truth=truth: (
                        fit_law(LAWS[key], times(g, key, n), level=0.9).parameters[name].holds(truth)
                    ),
                )
            yield Row(
                name=f"{key[0]} {key[1]}: held-out 16 workers, n = {n}",
                nominal=0.9,
                draw=lambda g, key=key, n=n: is_predicted(g, key, n),
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--simulations", type=int, default=2000)
    parser.add_argument("--only", default="", help="the rows whose name has this text")
    arguments = parser.parse_args()
    lines = []
    for row in rows():
        if arguments.only not in row.name:
            continue
        share, error = row.share(arguments.simulations)
        lines.append(
            {
                "simulated": row.name,
                "level": f"{row.nominal:.0%}{' at most' if row.is_limit else ''}",
                "found": f"{share:.1%}",
                "error of the simulation": f"{error:.1%}",
            }
        )
        print(f"{share:7.1%}  of {row.nominal:.0%}  {row.name}", flush=True)
    print("\n" + table(lines))


if __name__ == "__main__":
    main()
