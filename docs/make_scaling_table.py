"""Writes docs/scaling-table.md: what every rule, optimizer and co-scaling holds, by plans. `make docs` runs it.

Each combination is planned with every schedule, and every step of each plan is compared with the rule. A combination
must be refused when it is planned, or hold in every step; a test checks this.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

from scaler.core.optimizers import NAMED_OPTIMIZERS, optimizer_facts
from scaler.core.rules import RULES, Rule, lr_ratio
from scaler.core.timescales import step_gain, weight_decay_timescale
from scaler.errors import ScalerError
from scaler.job import parse_job
from scaler.plan import Plan, make_plan

PAGE = Path(__file__).parent / "scaling-table.md"
TOLERANCE = 1e-9  # relative: floats of one formula evaluated in two orders
REFERENCE, SAMPLES = 16, 1000
SGD = {"momentum": 0.9, "weight_decay": 1e-3}
OPTIMIZERS: dict[str, dict[str, Any]] = {
    **{
        name: {"weight_decay": 0.01} if "weight_decay" in facts.defaults else {}
        for name, facts in NAMED_OPTIMIZERS.items()
    },
    "sgd": SGD,
    "lars": SGD,
    "torch.optim:Adagrad": {"weight_decay": 0.01},
}
SCHEDULES: dict[str, dict[str, Any]] = {
    "constant": {},
    "step": {"every": {"epochs": 1}},
    "multi_step": {"at": [{"steps": 30}]},
    "exponential": {"decay": 0.5},
    "linear": {},
    "polynomial": {"power": 2.0},
    "cosine": {},
    "cosine_restarts": {"first": {"steps": 20}},
    "cyclical": {"climb": {"steps": 10}, "low": 0.1},
    "one_cycle": {},
    "wsd": {"tail_length": {"steps": 5}},
    "inverse_sqrt": {"timescale": {"steps": 20}},
}
CO_SCALES = {"–": {}, "weight decay": {"weight_decay": True}, "momentum": {"momentum": True}}
CO_SCALES["both"] = {**CO_SCALES["weight decay"], **CO_SCALES["momentum"]}
GROWTH = {"name": "points", "points": [{"at": {"epochs": 1}, "factor": 4}]}
WAYS: dict[str, dict[str, Any]] = {
    "fixed": {"num_workers": 1, "per_worker_batch_size": 64},
    "growing": {"num_workers": 1, "per_worker_batch_size": 64, "batch_schedule": GROWTH},
    "elastic": {"num_workers": {"min": 1, "max": 4}, "per_worker_batch_size": 32},
    "short last step": {"num_workers": 1, "per_worker_batch_size": 64},
}
OPTIONS = {"power": {"exponent": 0.7}, "gain": {"noise_scale": 400.0}}
INTRO = """# What every combination holds

`make docs` writes this page from plans: every rule, optimizer and co-scaling, with all {schedules} schedules, at 4
times the reference's batch (fixed), at 4 and then 16 times (growing), on 1 to 4 workers at 2 to 8 times (elastic),
and in the last step of an epoch, which has {rest} samples (short last step). The reference's batch has {reference}.

**In every step of every plan, the learning rate is the rule's for the samples of that step, and the same function
of the samples at every number of workers. With `co_scale.weight_decay` the timescale of weight decay is the
reference's. Or the combination is refused when it is planned.** A test makes this page again and allows nothing
else.

A cell has two ratios to the reference. The first is the learning rate per sample, with the effect of momentum. The
second, after "decay", is the timescale of weight decay in samples; `–`: this decay has no timescale. With
`adascale`, the gain that is measured in training multiplies the learning rate, and the plan has the reference's.

"""


@dataclass(kw_only=True, slots=True)
class Found:
    """What was found in the steps of one combination, in one way."""

    per_sample: list[float] = field(default_factory=list)
    timescales: list[float | None] = field(default_factory=list)
    worst: float = 0.0  # the largest relative error of a learning rate
    refusal: str = ""
    is_measured: bool = False

    @property
    def text(self) -> str:
        """The text of the cell."""
        if self.refusal:
            return "refused"
        if self.is_measured:
            return "as the measured gain"
        decays = {None if value is None else round(value, 4) for value in self.timescales}
        decay = "–" if decays == {None} else _span([value for value in decays if value is not None])
        return f"{_span(self.per_sample)}, decay {decay}"


def combinations() -> Iterator[tuple[str, str, str]]:
    """Yield every rule, optimizer and co-scaling."""
    return product((rule for rule in RULES if rule != "auto"), OPTIMIZERS, CO_SCALES)


def looked_at(rule: str, optimizer: str, co_scale: str, way: str) -> Found:
    """Return what is found in every step of a combination, planned with every schedule."""
    found = Found()
    for schedule in SCHEDULES:
        try:
            plans = list(_plans(rule, optimizer, co_scale, way, schedule))
        except ScalerError as error:
            found.refusal = error.problem
            return found
        for plan in plans:
            _look(plan, found, optimizer, only_short=way == "short last step")
    return found


def _plans(rule: str, optimizer: str, co_scale: str, way: str, schedule: str) -> Iterator[Plan]:
    tuned = {"warmup": {"epochs": 0.25}} if rule == "legw" else {}
    values = {
        "name": "t",
        "recipe": "r:build",
        "reference": {
            "global_batch_size": REFERENCE,
            "lr": 0.01,
            "optimizer": {"name": optimizer, **OPTIMIZERS[optimizer]},
            **tuned,
        },
        "scale": {**WAYS[way], "rule": rule, "co_scale": CO_SCALES[co_scale], **OPTIONS.get(rule, {})},
        "schedule": {"name": schedule, **SCHEDULES[schedule]},
        "train": {"epochs": 2, "num_samples": SAMPLES},
    }
    if rule == "adascale":  # it compares micro-steps
        values["scale"] |= {"per_worker_batch_size": WAYS[way]["per_worker_batch_size"] // 2, "grad_accum_steps": 2}
    job = parse_job(values, source="job")
    for size in (1, 2, 4) if way == "elastic" else (1,):
        yield make_plan(job, size)


def _look(plan: Plan, found: Found, optimizer: str, *, only_short: bool) -> None:
    found.is_measured = plan.is_measured
    seen, reference = 0, plan.scaling.constants
    sums = optimizer_facts(optimizer).sums_gradients  # momentum applies each gradient in the steps that follow too
    tuned = weight_decay_timescale(optimizer, constants=reference, lr=plan.base_lr, global_batch_size=REFERENCE)
    while (size := plan.step_size(seen)) and seen < plan.total_samples:
        step = plan.step_phase(seen)
        if only_short == (size < plan.phase_at(seen).global_batch_size):
            rule: Rule = plan.scaling.rule
            ratio = size / REFERENCE
            right = lr_ratio(rule, batch_ratio=ratio, reference_batch_size=REFERENCE, optimizer=optimizer)
            if rule.co_scale.momentum:  # a short step has its share of a constant learning rate
                right = size / plan.phase_at(seen).global_batch_size
            planned = plan.base_lr * right * plan.schedule.factor(seen)
            found.worst = max(found.worst, abs(plan.lr_at(seen) - planned) / max(abs(planned), 1e-300))
            moved = step_gain(step.optimizer) / step_gain(reference) if sums else 1.0
            found.per_sample.append(step.lr_ratio * moved / ratio)
            now = weight_decay_timescale(optimizer, constants=step.optimizer, lr=step.peak_lr, global_batch_size=size)
            found.timescales.append(None if now is None or tuned is None else now / tuned)
        seen = plan.next_step(seen + size)


def _span(values: list[float]) -> str:
    low, high = min(values), max(values)
    return f"×{low:.3g}" if high - low < 1e-9 * max(high, 1.0) else f"×{low:.3g} to ×{high:.3g}"


def page() -> str:
    """Return the page."""
    rows = [f"| rule | optimizer | co-scaled | {' | '.join(WAYS)} |", "|---|---|---|" + "---|" * len(WAYS)]
    refusals: dict[str, list[str]] = {}
    for rule, optimizer, co_scale in combinations():
        cells = [looked_at(rule, optimizer, co_scale, way) for way in WAYS]
        if all(cell.refusal for cell in cells):
            refusals.setdefault(cells[0].refusal, []).append(f"{rule}, {optimizer}, {co_scale}")
            continue
        rows.append(f"| {rule} | {optimizer} | {co_scale} | {' | '.join(cell.text for cell in cells)} |")
        for cell in cells:
            if cell.refusal:
                refusals.setdefault(cell.refusal, []).append(f"{rule}, {optimizer}, {co_scale} (in part)")
    rest = SAMPLES % 64
    intro = INTRO.format(schedules=len(SCHEDULES), rest=rest, reference=REFERENCE)
    texts = [f"- {text} ({len(which)} combinations, such as {which[0]})" for text, which in refusals.items()]
    return f"{intro}{chr(10).join(rows)}\n\n## Refused\n\n" + "\n".join(texts) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
