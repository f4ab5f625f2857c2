"""A sweep over the SGD reference's learning rate: the best one, and the highest at which the linear rule holds."""

import statistics
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from itertools import takewhile

from families import SWEEP, TUNED, sgd_arm, sgd_reference
from intervals import interval, shown
from train import CHECKS, Run, train

MARGIN = 0.10  # of dlog at every check, as in the SGD family
DIVERGED = 0.0  # a log loss above it: the loss of guessing is log(log(10)) = 0.83


def measure_sweep(*, seeds: Sequence[int], pool: Executor) -> tuple[str, list[str]]:
    """Return the table of learning rates, and what contradicts the assumptions of the other families."""
    found = {lr: (_train(pool, sgd_reference(lr), seeds), _train(pool, sgd_arm("linear", lr), seeds)) for lr in SWEEP}
    losses = {lr: statistics.fmean(run.log_losses[-1] for run in references) for lr, (references, _) in found.items()}
    best = min(losses, key=lambda lr: losses[lr])
    at_every_check, at_the_end = (_highest(found, checks) for checks in (range(len(CHECKS)), [len(CHECKS) - 1]))
    lines = [
        "## SGD: the learning rate of the reference",
        "",
        "Batch 8, and the linear rule at batch 64 from it, without a warmup. The training loss is lowest at lr "
        f"{best}. **Linear at 8 times the batch holds {at_every_check}** inside ±{MARGIN:.2g} at every check, and "
        f"{at_the_end} at the end alone. Above that it falls behind and then diverges: the learning rate that it gives "
        "the batch of 64 is too large for this loss.",
        "",
        "| lr | log loss, batch 8 | standard deviation over seeds | accuracy | linear: dlog at the end (90 %) | "
        "worst check | d accuracy (90 %) | equivalent at every check |",
        "|---|---|---|---|---|---|---|---|",
        *(_row(lr, *found[lr]) for lr in SWEEP),
    ]
    wrong = [] if best == TUNED else [f"the sweep's best learning rate is {best}, not {TUNED}"]
    return "\n".join(lines) + "\n", wrong


def _train(pool: Executor, job: dict[str, object], seeds: Sequence[int]) -> list[Run]:
    return list(pool.map(train, [job] * len(seeds), seeds, [0.0] * len(seeds)))


def _differences(references: Sequence[Run], arms: Sequence[Run]) -> list[tuple[float, float]]:
    pairs = list(zip(references, arms, strict=True))
    return [interval([arm.log_losses[i] - base.log_losses[i] for base, arm in pairs]) for i in range(len(CHECKS))]


def _holds(references: Sequence[Run], arms: Sequence[Run], checks: Sequence[int]) -> bool:
    differences = _differences(references, arms)
    return all(abs(differences[i][0]) + differences[i][1] < MARGIN for i in checks)


def _highest(found: Mapping[float, tuple[Sequence[Run], Sequence[Run]]], checks: Sequence[int]) -> str:
    """Return the highest learning rate at which the linear rule holds, as at all lower ones."""
    held = list(takewhile(lambda lr: _holds(*found[lr], checks), SWEEP))
    return f"up to lr {held[-1]}" if held else "at none of these learning rates"


def _diverged(runs: Sequence[Run]) -> str | None:
    count = sum(run.log_losses[-1] > DIVERGED for run in runs)
    return f"{count} of {len(runs)} runs diverged" if count else None


def _row(lr: float, references: Sequence[Run], arms: Sequence[Run]) -> str:
    losses = [run.log_losses[-1] for run in references]
    differences = _differences(references, arms)
    worst = max(range(len(CHECKS)), key=lambda i: abs(differences[i][0]) + differences[i][1])
    accuracy = interval([arm.accuracy - base.accuracy for base, arm in zip(references, arms, strict=True)])
    cells = (
        f"{lr}",
        _diverged(references) or f"{statistics.fmean(losses):.3f}",
        f"{statistics.stdev(losses):.3f}",
        f"{statistics.fmean(run.accuracy for run in references):.4f}",
        _diverged(arms) or shown(differences[-1], 3),
        f"{shown(differences[worst], 3)} at epoch {CHECKS[worst]}",
        shown(accuracy, 4),
        "yes" if _holds(references, arms, range(len(CHECKS))) else "no",
    )
    return f"| {' | '.join(cells)} |"
