"""Where a training is in its plan: numbers only, without a model."""

from typing import Any

import pytest
from small_runs import SAMPLES, make_job

from scaler.job import Job
from scaler.plan import make_plan
from scaler.training.controllers import Controllers
from scaler.training.position import Position

CONSTANT = {"name": "constant"}


def position_of(job: Job, world_size: int = 1) -> Position:
    plan = make_plan(job, world_size)
    return Position(job, plan, Controllers(job, plan))


def step(position: Position) -> float:
    """Take a step, and return its learning rate."""
    size = position.next_size()
    position.begin_step()
    lr = position.lr(position.plan.step_phase(position.samples_seen))
    position.advance(size, worth=1.0)
    return lr


def test_steps_lead_to_the_end_of_the_plan_and_no_further() -> None:
    position = position_of(make_job(per_worker_batch_size=64, schedule=CONSTANT))
    sizes = []
    while size := position.next_size():
        sizes.append(size)
        step(position)
    assert sizes == [64, 64, 64, 58] * 3
    assert (position.samples_seen, position.progress) == (3 * SAMPLES, 3.0 * SAMPLES)


def test_a_saved_position_is_restored() -> None:
    job = make_job(per_worker_batch_size=64)
    position, restored = position_of(job), position_of(job)
    for _ in range(5):
        step(position)
    restored.load_state_dict(position.state_dict())
    assert restored.state_dict() == position.state_dict()
    assert restored.next_phase() == position.next_phase()
    assert step(restored) == step(position)


def test_more_workers_start_on_a_ramp_from_the_saved_learning_rate() -> None:
    job = make_job(
        num_workers={"min": 1, "max": 4},
        per_worker_batch_size=16,
        rule="linear",
        schedule=CONSTANT,
        rewarmup={"samples": 100, "above": 1.5},
    )
    one, four = position_of(job, 1), position_of(job, 4)
    before = step(one)
    four.load_state_dict(one.state_dict())
    assert four.ramp is not None
    lrs = [step(four) for _ in range(3)]
    assert lrs[0] == pytest.approx(before)
    assert lrs[-1] == pytest.approx(4 * before)
    back = position_of(job, 1)
    back.load_state_dict(four.state_dict())
    assert back.ramp is None, "the learning rate falls: nothing to climb"


def test_half_micro_batches_change_neither_step_nor_learning_rate() -> None:
    job: dict[str, Any] = {"global_batch_size": 64, "per_worker_batch_size": "auto", "schedule": CONSTANT}
    whole, halved = position_of(make_job(**job)), position_of(make_job(**job))
    halved.begin_step()
    assert halved.halve_micro_batches() == 32
    assert halved.next_size() == whole.next_size() == 64
    assert step(halved) == step(whole)
    assert halved.phase.grad_accum_steps == 2
