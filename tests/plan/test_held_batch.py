"""``on_resize``, under every rule and every schedule: what is held is held to the last bit."""

from typing import Any

import pytest

from scaler.core.rules import RULES
from scaler.job import parse_job
from scaler.plan import Plan, make_plan

SIZES = (1, 2, 3, 4)
ADAM_ONLY = ("adam_sde",)
SCHEDULES: dict[str, dict[str, Any]] = {
    "constant": {},
    "step": {"every": {"epochs": 1}, "decay": 0.5},
    "multi_step": {"at": [{"epochs": 1}, {"epochs": 3}], "decay": 0.1},
    "exponential": {"every": {"epochs": 1}, "decay": 0.9},
    "linear": {},
    "polynomial": {"power": 2.0},
    "cosine": {},
    "cosine_restarts": {"first": {"epochs": 1}},
    "cyclical": {"climb": {"epochs": 0.5}, "low": 0.1},
    "one_cycle": {},
    "wsd": {},
    "inverse_sqrt": {},
}


def plans(rule: str, schedule: dict[str, Any], **scale: Any) -> list[Plan]:
    optimizer = {"name": "adamw"} if rule in ADAM_ONLY else {"name": "sgd", "momentum": 0.9}
    tuned = {"warmup": {"epochs": 0.5}} if rule == "legw" else {}
    if rule == "legw":
        schedule = {name: value for name, value in schedule.items() if name != "warmup"}
    options = {"power": {"exponent": 0.7}, "gain": {"noise_scale": 100.0}}.get(rule, {})
    job = parse_job(
        {
            "name": "t",
            "recipe": "r:build",
            "reference": {"global_batch_size": 32, "lr": 0.1, "optimizer": optimizer, **tuned},
            "scale": {
                "num_workers": {"min": 1, "max": 4},
                "per_worker_batch_size": 16,
                "grad_accum_steps": 2,
                "rule": rule,
                **options,
                **scale,
            },
            "schedule": schedule,
            "train": {"epochs": 5, "num_samples": 1000},
        },
        source="job",
    )
    return [make_plan(job, size) for size in SIZES]


def sequence(plan: Plan) -> list[tuple[int, float]]:
    """Every step's first sample and learning rate."""
    steps, seen = [], 0
    while size := plan.step_size(seen):
        steps.append((seen, plan.lr_at(seen)))
        seen += size
    return steps


@pytest.mark.parametrize("rule", [rule for rule in RULES if rule not in ("auto", "adascale")])
@pytest.mark.parametrize("name", SCHEDULES)
def test_a_held_batch_has_the_same_steps_and_learning_rates_on_any_number_of_workers(rule: str, name: str) -> None:
    schedule = {"name": name, **SCHEDULES[name], "warmup": {"epochs": 1}}
    held = plans(rule, schedule, on_resize="hold_global_batch")
    assert {plan.global_batch_size for plan in held} == {128}
    assert all(sequence(plan) == sequence(held[-1]) for plan in held), "to the last bit"
    assert all(plan.optimizer == held[-1].optimizer for plan in held)
