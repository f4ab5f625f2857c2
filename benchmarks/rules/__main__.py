"""Do the rules hold? Paired seeds, equivalence tests, and controls that must fail them.

    python benchmarks/rules [--seeds 10] [--only sgd,adam8] [--write]

Each arm is a job, trained by scaler's own loop on one worker. ``dlog``
is log(train loss) minus that of the reference with the same seed. An arm is equivalent when the 90 % interval of its
mean lies inside the margin (two one-sided tests at 5 %). ``--write`` puts the tables into docs/rules-measured.md. All
of it takes 14 minutes of one CPU.
"""

import argparse
import statistics
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from time import perf_counter

from families import FAMILIES, Arm, Family
from intervals import interval, shown
from sweep import measure_sweep
from train import CHECKS, Job, Run, train

PAGE = Path(__file__).resolve().parents[2] / "docs" / "rules-measured.md"

NOT_SHOWN = """## What this does not show

- That the linear rule holds from a tuned reference: it holds up to the learning rate that the sweep finds, which is far
  below the best one. From the best one no rule at 8 times the batch reaches the reference's training loss. AdaScale
  comes nearest, with 3 times fewer steps.
- That a warmup helps: from the low learning rate the linear rule holds without one, and from the best one it fails
  with one.
- That Adam's betas and eps matter wherever `adam_sde` is used: inside the theory's domain they end closer to the
  reference than the square root alone, and at batch 64 they do not. There both have a |dlog| of 0.35, and pass because
  the margin, a quarter of the controls' dlog, is wide.
- That tracking is best: for Adam the linear rule ends far below the reference's training loss, at no lower accuracy.
- That AdaScale equals its reference at every sample: it is compared at the end, within 0.15, by an endpoint that was
  chosen after a first measurement.
- That a growing batch replaces a decaying learning rate because of the gradient's noise: here both depend on lr * N / B
  only.
- LARS, LAMB, LEGW, `gain`, `power`, and the scaling of weight decay and of momentum: their formulas are tested, but
  their effect on a training is not measured. No model here is larger than a small MLP.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--only", default=",".join(("sweep", *FAMILIES)))
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--write", action="store_true", help="write docs/rules-measured.md")
    options = parser.parse_args()
    began, parts, failed = perf_counter(), [], []
    with ProcessPoolExecutor(options.processes, mp_context=get_context("spawn")) as pool:
        for name in options.only.split(","):
            if name == "sweep":
                text, wrong = measure_sweep(seeds=range(options.seeds), pool=pool)
            else:
                text, wrong = measure(FAMILIES[name](), count=options.seeds, pool=pool)
            print(text, flush=True)
            parts.append(text)
            failed += wrong
    print(f"{perf_counter() - began:.0f} s. " + ("As expected." if not failed else f"Not as expected: {failed}."))
    if options.write:
        PAGE.write_text(_page(parts, seeds=options.seeds, failed=failed))
    sys.exit(1 if failed else 0)


def measure(family: Family, *, count: int, pool: ProcessPoolExecutor) -> tuple[str, list[str]]:
    """Return a family's table, and the arms without the expected result."""
    seeds = range(family.first_seed, family.first_seed + count)
    early = list(pool.map(train, [_of_an_epoch(family.reference)] * len(seeds), seeds, [0.0] * len(seeds)))
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
        f"accuracy {statistics.fmean(r.accuracy for r in references):.4f}; {references[0].steps} steps; seeds "
        f"{seeds[0]} to {seeds[-1]}. Gradient noise scale (exact, median over seeds): {_noise_scale(early)} samples "
        f"after one epoch, {_noise_scale(references)} at the end. "
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
    lines += _remarks(family, {arm.name: runs for arm, runs in trained}, references)
    return "\n".join(lines) + "\n", wrong


def _of_an_epoch(job: Job) -> Job:
    return {**job, "train": {**job["train"], "epochs": 1}}


def _noise_scale(runs: Sequence[Run]) -> str:
    return f"{statistics.median(run.noise_scale for run in runs):,.0f}"


def _remarks(family: Family, trained: Mapping[str, Sequence[Run]], references: Sequence[Run]) -> list[str]:
    """Return the lines below a family's table."""
    remarks = []
    if family.paired is not None:
        near, far = (_curves(family, trained[name], references) for name in family.paired)
        gained = [interval([abs(b[i]) - abs(a[i]) for a, b in zip(near, far, strict=True)]) for i in range(len(CHECKS))]
        mean, half = gained[-1]
        verdict = "closer to" if mean - half > 0 else "further from" if mean + half < 0 else "no closer to"
        remarks.append(
            f"Paired test, same seeds: betas and eps end {verdict} the reference than the square root alone. |dlog| of "
            f'"{family.paired[1]}" minus |dlog| of "{family.paired[0]}" (90 %): '
            + "; ".join(f"{shown(found, 3)} at epoch {epoch}" for epoch, found in zip(CHECKS, gained, strict=True))
            + "."
        )
    if family.shows_last:
        last = {
            name: interval([run.last_log_loss - base.last_log_loss for run, base in zip(runs, references, strict=True)])
            for name, runs in trained.items()
        }
        shown_last = "; ".join(f"{name} {shown(found, 3)}" for name, found in last.items())
        remarks.append(f"By the last evaluation alone, the endpoint that was planned first: {shown_last}.")
    for arm in family.arms:
        pairs = list(zip(trained[arm.name], references, strict=True))
        mean, half = interval([run.accuracy - base.accuracy for run, base in pairs])
        if arm.holds and mean + half < 0:
            remarks.append(
                f"{arm.name}: the accuracy on the held-out digits is lower than the reference's, beyond the noise: "
                f"{100 * mean:+.2f} ± {100 * half:.2f} points."
            )
    return [line for remark in remarks for line in ("", remark)]


def _log_losses(family: Family, run: Run) -> tuple[float, ...]:
    if family.compares == "weights":
        return run.log_losses
    assert run.average_log_loss is not None
    return (run.average_log_loss,)


def _curves(family: Family, runs: Sequence[Run], references: Sequence[Run]) -> list[list[float]]:
    """Return ``dlog`` of each seed, at each check."""
    pairs = [(_log_losses(family, run), _log_losses(family, base)) for run, base in zip(runs, references, strict=True)]
    return [[a - b for a, b in zip(mine, theirs, strict=True)] for mine, theirs in pairs]


def _row(
    family: Family, arm: Arm, runs: Sequence[Run], references: Sequence[Run], *, margin: float
) -> tuple[str, bool]:
    pairs = list(zip(runs, references, strict=True))
    curves = _curves(family, runs, references)
    checks = [interval([curve[i] for curve in curves]) for i in range(len(curves[0]))]
    judged = checks if family.checks == "every" else checks[-1:]
    steps = statistics.fmean(run.steps for run in runs)
    fewer = statistics.fmean(base.steps for base in references) / steps
    equivalent = all(abs(mean) + half < margin for mean, half in judged)
    passes = equivalent and (not arm.holds or fewer >= family.fewest_steps_ratio)
    worst = max(range(len(checks)), key=lambda i: abs(checks[i][0]) + checks[i][1])
    accuracy = interval([run.accuracy - base.accuracy for run, base in pairs])
    gain = f"{statistics.fmean(r.first_gain for r in runs):.1f}, then {statistics.fmean(r.mean_gain for r in runs):.1f}"
    cells = (
        arm.name,
        shown(checks[-1], 3),
        f"{shown(checks[worst], 3)} at epoch {CHECKS[worst]}" if len(checks) > 1 else "–",
        shown(accuracy, 4),
        f"{steps:.0f} ({fewer:.2g}x fewer)",
        gain if "adascale" in arm.name else "–",
        "yes" if equivalent else "no",
        "–" if arm.holds is None else "yes" if passes == arm.holds else "**no**",
    )
    return f"| {' | '.join(cells)} |", arm.holds is None or passes == arm.holds


def _page(parts: Sequence[str], *, seeds: int, failed: Sequence[str]) -> str:
    verdict = "Every arm has the expected result." if not failed else f"Not as expected: {'; '.join(failed)}."
    return f"""# The rules, measured

Handwritten digits (1,280 images), an MLP 64-32-10 with tanh, 20 epochs, {seeds} seeds that every arm shares. No step is
shorter than the others. Written by `python benchmarks/rules --write`, which trains every arm with scaler's own loop.

`dlog` is log(train loss) minus that of the reference with the same seed. An arm is *equivalent* when the 90 % interval
of its mean is inside the margin: two one-sided tests at 5 %, so that a noisy arm fails and does not pass. The controls
must fail the same test; a test that they pass proves nothing. {verdict}

""" + "\n".join([*parts, NOT_SHOWN])


if __name__ == "__main__":
    main()
