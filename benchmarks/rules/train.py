"""Train one arm of a comparison with scaler's own loop, on one worker in this process."""

import math
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1]))  # kept.py

EPOCHS, SAMPLES = 20, 1280
CHECKS = (4, 8, 12, 16, 20)  # epochs at which curves are compared

Job = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Run:
    """The results of one trained arm."""

    log_losses: tuple[float, ...]  # at CHECKS, of the whole training set; the last: median over the last epoch's
    last_log_loss: float  # of the very last evaluation
    average_log_loss: float | None  # at the end, of the averaged weights
    noise_scale: float  # at the end, of the whole training set
    accuracy: float  # held out, at the end
    steps: int
    first_gain: float
    mean_gain: float


def job(
    *,
    batch: int,
    reference: int,
    lr: float,
    optimizer: Job,
    rule: str = "none",
    micro: int | None = None,
    epochs: float = EPOCHS,
    checks_every: int = 4 * SAMPLES,
    **sections: Job,
) -> Job:
    """Return a job's values; ``sections`` are added to those of the same name.

    Every batch divides the training set, so that no step is short.
    """
    values: Job = {
        "name": "rules",
        "recipe": "recipe:build",
        "reference": {"global_batch_size": reference, "lr": lr, "optimizer": optimizer},
        "scale": {"global_batch_size": batch, "per_worker_batch_size": micro or batch, "rule": rule},
        "schedule": {"name": "constant", "warmup": {"epochs": 0}},
        "train": {"epochs": epochs, "eval_every": {"samples": checks_every}, "noise_scale_every": None},
        "checkpoint": {"every": {"epochs": 1000}},
        "failures": {"divergence": None},
    }
    for name, section in sections.items():
        values[name] = {**values.get(name, {}), **section}
    return values


def train(values: Job, seed: int, shift: float) -> Run:
    """Train one arm; it is compared ``shift`` epochs later than the reference."""
    import torch
    from kept import Kept
    from recipe import build, held_out, noise_scale

    from scaler.job import parse_job
    from scaler.metrics.events import Evaluated, of_type
    from scaler.plan import make_plan
    from scaler.training.loop import Training
    from scaler.training.randomness import seed_everything

    torch.set_num_threads(1)
    parsed = parse_job({**values, "train": {**values["train"], "seed": seed}}, source="benchmark")
    seed_everything(seed)
    recipe = build()
    plan = make_plan(parsed, 1, num_samples=len(recipe.train_data))  # type: ignore[arg-type]
    with TemporaryDirectory() as folder:
        around = Kept(0, 1, folder)
        Training(recipe, parsed, plan, around).run()
    evaluations = of_type(around.events, Evaluated)
    if plan.is_measured:  # compared at equal progress, which adascale counts
        done = {record.samples_seen: record.progress for record in around.records}
        places = [done.get(event.samples_seen, float(plan.total_samples)) for event in evaluations]
    else:
        places = [float(event.samples_seen) for event in evaluations]
    wanted = [(epoch + shift) * SAMPLES for epoch in CHECKS]
    nearest = [min(range(len(places)), key=lambda i: abs(places[i] - place)) for place in wanted]
    losses = [_log(event.values["loss"]) for event in evaluations]
    last_epoch = [i for i, place in enumerate(places) if place > places[-1] - SAMPLES]
    gains = [record.lr / plan.lr_at(0) for record in around.records] if plan.is_measured else [1.0]
    return Run(
        log_losses=(*(losses[i] for i in nearest[:-1]), statistics.median(losses[i] for i in last_epoch)),
        last_log_loss=losses[-1],
        noise_scale=noise_scale(recipe.model),
        average_log_loss=_log(evaluations[-1].values.get("ema_loss")) if parsed.train.ema else None,
        accuracy=held_out(recipe.model),
        steps=len(around.records),
        first_gain=statistics.fmean(gains[:20]),
        mean_gain=statistics.fmean(gains),
    )


def _log(loss: float | None) -> float:
    return math.log(loss) if loss is not None and loss > 0 else math.inf
