"""Do the rules hold? Paired seeds, equivalence tests, and controls that must fail them.

    python benchmarks/rules [--seeds 10] [--only sgd,adam8] [--write]

Each arm is a job's worth of settings, trained by scaler's own loop on one worker. ``dlog``
is log(train loss) minus that of the reference with the same seed. An arm is equivalent when the 90 % interval of its
mean lies inside the margin (two one-sided tests at 5 %). ``--write`` puts the tables into docs/rules-measured.md.
"""

import argparse
import math
import statistics
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from time import perf_counter

from families import FAMILIES, Arm, Family
from scipy import stats
from train import CHECKS, Run, train

PAGE = Path(__file__).resolve().parents[2] / "docs" / "rules-measured.md"


NOT_SHOWN = """## What this does not show

- That a warmup helps: the linear rule holds without one here. The digits are too easy for Goyal's ordering of the two.
- That the betas matter much: the square root alone misses the reference by little more than with betas and eps.
- That tracking is best: for Adam the linear rule ends far below the reference's training loss, at the same accuracy.
- That AdaScale equals its reference at every sample: it is compared at the end, within 0.15.
- LARS, LAMB, LEGW, `gain`, `power`, and the scaling of weight decay and of momentum: their formulas are tested, their
  effect on a training is not measured. Nothing here is larger than a small MLP.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--only", default=",".join(FAMILIES))
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--write", action="store_true", help="write docs/rules-measured.md")
    options = parser.parse_args()
    began, parts, failed = perf_counter(), [], []
    with ProcessPoolExecutor(options.processes, mp_context=get_context("spawn")) as pool:
        for name in options.only.split(","):
            family = FAMILIES[name]()
            text, wrong = measure(family, seeds=range(options.seeds), pool=pool)
            print(text, flush=True)
            parts.append(text)
            failed += wrong
    print(f"{perf_counter() - began:.0f} s. " + ("As expected." if not failed else f"Not as expected: {failed}."))
    if options.write:
        PAGE.write_text(_page(parts, seeds=options.seeds, failed=failed))
    sys.exit(1 if failed else 0)


def measure(family: Family, *, seeds: Sequence[int], pool: ProcessPoolExecutor) -> tuple[str, list[str]]:
    """Return a family's table, and the arms that did what they should not."""
    references = list(pool.map(train, [family.reference] * len(seeds), seeds, [0.0] * len(seeds)))
    arms = [(arm, pool.map(train, [arm.job] * len(seeds), seeds, [arm.shift] * len(seeds))) for arm in family.arms]
    trained = [(arm, list(found)) for arm, found in arms]
    margin = family.margin
    if margin is None:
        controls = [_curves(family, runs, references) for arm, runs in trained if arm.sets_margin]
        margin = min(abs(statistics.fmean(curve[-1] for curve in curves)) for curves in controls) / 4
    mean = statistics.fmean(_log_losses(family, run)[-1] for run in references)
    spread = statistics.stdev(_log_losses(family, run)[-1] for run in references)
    lines = [
        f"## {family.title}",
        "",
        f"{family.text} Reference: log loss {mean:.3f} at the end, standard deviation over seeds {spread:.3f}; "
        f"accuracy {statistics.fmean(r.accuracy for r in references):.4f}; {references[0].steps} steps. "
        f"Margin ±{margin:.2g}, {'at every check' if family.checks == 'every' else 'at the end'}.",
        "",
        "| arm | dlog at the end (90 %) | worst check | d accuracy (90 %) | steps | gain | equivalent | as expected |",
        "|---|---|---|---|---|---|---|---|",
    ]
    wrong = []
    for arm, runs in trained:
        line, is_expected = _row(family, arm, runs, references, margin=margin)
        lines.append(line)
        if not is_expected:
            wrong.append(f"{family.title}: {arm.name}")
    return "\n".join(lines) + "\n", wrong


def _log_losses(family: Family, run: Run) -> tuple[float, ...]:
    if family.compares == "weights":
        return run.log_losses
    assert run.average_log_loss is not None
    return (run.average_log_loss,)


def _curves(family: Family, runs: Sequence[Run], references: Sequence[Run]) -> list[list[float]]:
    """``dlog`` of each seed, at each check."""
    pairs = [(_log_losses(family, run), _log_losses(family, base)) for run, base in zip(runs, references, strict=True)]
    return [[a - b for a, b in zip(mine, theirs, strict=True)] for mine, theirs in pairs]


def _row(
    family: Family, arm: Arm, runs: Sequence[Run], references: Sequence[Run], *, margin: float
) -> tuple[str, bool]:
    pairs = list(zip(runs, references, strict=True))
    curves = _curves(family, runs, references)
    checks = [_interval([curve[i] for curve in curves]) for i in range(len(curves[0]))]
    judged = checks if family.checks == "every" else checks[-1:]
    steps = statistics.fmean(run.steps for run in runs)
    fewer = statistics.fmean(base.steps for base in references) / steps
    equivalent = all(abs(mean) + half < margin for mean, half in judged)
    passes = equivalent and (not arm.holds or fewer >= family.fewest_steps_ratio)
    worst = max(range(len(checks)), key=lambda i: abs(checks[i][0]) + checks[i][1])
    accuracy = _interval([run.accuracy - base.accuracy for run, base in pairs])
    gain = f"{statistics.fmean(r.first_gain for r in runs):.1f}, then {statistics.fmean(r.mean_gain for r in runs):.1f}"
    cells = (
        arm.name,
        _shown(checks[-1], 3),
        f"{_shown(checks[worst], 3)} at epoch {CHECKS[worst]}" if len(checks) > 1 else "–",
        _shown(accuracy, 4),
        f"{steps:.0f} ({fewer:.2g}x fewer)",
        gain if "adascale" in arm.name else "–",
        "yes" if equivalent else "no",
        "–" if arm.holds is None else "yes" if passes == arm.holds else "**no**",
    )
    return f"| {' | '.join(cells)} |", arm.holds is None or passes == arm.holds


def _interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean and half of its 90 % interval; infinite when a run diverged."""
    if not all(math.isfinite(value) for value in values):
        return math.inf, math.inf
    half = float(stats.t.ppf(0.95, len(values) - 1)) * statistics.stdev(values) / math.sqrt(len(values))
    return statistics.fmean(values), half


def _shown(interval: tuple[float, float], digits: int) -> str:
    mean, half = interval
    return "diverged" if math.isinf(mean) else f"{mean:+.{digits}f} ± {half:.{digits}f}"


def _page(parts: Sequence[str], *, seeds: int, failed: Sequence[str]) -> str:
    verdict = "Every arm did what it should." if not failed else f"Not as expected: {'; '.join(failed)}."
    return f"""# The rules, measured

Handwritten digits (1,280 images), an MLP 64-32-10 with tanh, 20 epochs, {seeds} seeds that every arm shares. Written by
`python benchmarks/rules --write`, which trains every arm with scaler's own loop.

`dlog` is log(train loss) minus that of the reference with the same seed. An arm is *equivalent* when the 90 % interval
of its mean lies inside the margin: two one-sided tests at 5 %, so that a noisy arm fails, not passes. The controls must
fail the same test; a test that they pass is worth nothing. {verdict}

""" + "\n".join([*parts, NOT_SHOWN])


if __name__ == "__main__":
    main()
