"""What the optimizer uses in each step when a rule follows the length of the training, or holds beta2's half-life."""

from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import SAMPLES, checkpoint, in_this_process, make_job, make_recipe, new_folder, plan_of, records_of, run
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

import scaler
from scaler.job import Job, parse_job
from scaler.plan import Plan
from scaler.training.optimizer.settings import own_constants

FLAT = {"name": "constant", "warmup": {"epochs": 0}}
ADAMW = {"name": "adamw", "eps": 1e-7, "weight_decay": 0.1}
SHAPE = scaler.Schedule(shape=scaler.shapes.Constant())
CYCLE = scaler.shapes.Cyclical(climb=64, descent=64, low=0.1, low_momentum=0.8, high_momentum=0.9)


def longer(**others: Any) -> Job:
    """Return a training of 4 epochs, 4 times as long as the reference's, in which the batch grows to 4 times."""
    points = {"name": "points", "points": [{"at": {"epochs": 2}, "factor": 4}]}
    return make_job(
        per_worker_batch_size=16,
        horizon=True,
        batch_schedule=points,
        reference={"lr": 0.002, "optimizer": ADAMW, "epochs": 1},
        schedule=FLAT,
        train={"epochs": 4},
        **others,
    )


def noted(optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    """Return the constants of each step, recorded just before the step."""
    used: list[dict[str, Any]] = []
    optimizer.register_step_pre_hook(
        lambda *_: used.append({key: value for key, value in optimizer.param_groups[0].items() if key != "params"})
    )
    return used


def same(used: dict[str, Any], plan: Plan, samples_seen: int, *, samples: int | None = None) -> bool:
    expected = own_constants(plan.step_phase(samples_seen, samples=samples).optimizer)
    return {key: used[key] for key in expected} == expected


def test_every_step_has_the_constants_of_its_batch_and_of_the_training_s_length(tmp_path: Path) -> None:
    job = longer()
    training, _ = in_this_process(new_folder(tmp_path), make_recipe(), job)
    used: list[dict[str, Any]] = []
    handle = register_optimizer_step_pre_hook(lambda optimizer, *_: used.append(dict(optimizer.param_groups[0])))
    try:
        training.run()
    finally:
        handle.remove()
    plan = plan_of(job)
    starts, at = [], 0
    while at < plan.total_samples:
        starts.append(at)
        at += plan.step_size(at)
    assert len(used) == len(starts)
    assert all(same(values, plan, at) for values, at in zip(used, starts, strict=True))
    first, last = used[0], used[-2]
    assert (first["weight_decay"], last["weight_decay"]) == (0.05, 0.1)  # kappa 1/4, then 1
    assert first["betas"] == pytest.approx((0.975, 0.99975))
    assert last["betas"] == (0.9, 0.999)
    shorter = used[-1]  # 250 = 3 * 64 + 58
    assert shorter["weight_decay"] == pytest.approx(0.1 * (58 / 64) ** 0.5)


def test_a_resume_that_makes_the_training_longer_lowers_the_learning_rate(tmp_path: Path) -> None:
    """The plan is made from the reference again, with the new length."""
    folder = new_folder(tmp_path)

    def part(epochs: int, stop: int | None) -> list[Any]:
        train = {"epochs": epochs, **({"stop_after": {"epochs": stop}} if stop else {})}
        job = make_job(
            per_worker_batch_size=16,
            horizon=True,
            reference={"lr": 0.002, "optimizer": ADAMW, "epochs": 1},
            schedule=FLAT,
            train=train,
        )
        return records_of(run(tmp_path, 1, job, folder=folder))

    before, after = part(1, None), part(4, None)
    assert before[0].lr == before[0].lr_planned == 0.002
    assert after[0].samples_seen == SAMPLES
    assert after[0].lr == after[0].lr_planned == 0.001
    (group,) = checkpoint(folder)["optimizer"]["param_groups"]
    assert group["weight_decay"] == 0.05
    assert group["betas"] == pytest.approx((0.975, 0.99975))


def test_the_scheduler_follows_the_length_in_whole_and_in_short_steps() -> None:
    weight = nn.Parameter(torch.ones(3))
    options = own_constants(ADAMW)
    optimizer = torch.optim.AdamW([weight], lr=0.002, betas=(0.9, 0.999), **options)
    scheduler = scaler.SampleScheduler(
        optimizer,
        reference_batch_size=16,
        global_batch_size=64,
        schedule=SHAPE,
        reference_samples=1000,
        total_samples=16_000,
    )
    assert scheduler.rule == "adam_sde"
    used = noted(optimizer)
    for seen, samples in ((0, 64), (64, 16), (80, 64)):
        scheduler.step(samples_seen=seen, samples=samples)
        weight.grad = torch.ones(3)
        optimizer.step()
    assert [values["lr"] for values in used] == [0.001, 0.0005, 0.001]  # kappa 1/4, and 1/16
    assert [values["weight_decay"] for values in used] == [0.05, 0.025, 0.05]
    assert used[0]["betas"] == pytest.approx((0.975, 0.99975))
    assert used[1]["betas"] == pytest.approx((1 - 0.1 / 16, 1 - 0.001 / 16))


@pytest.mark.parametrize("batch", [64, 8])
def test_a_cycled_momentum_and_a_half_life_each_have_their_own_beta(batch: int) -> None:
    weight = nn.Parameter(torch.ones(3))
    optimizer = torch.optim.Adam([weight], lr=0.002, betas=(0.9, 0.99))
    scheduler = scaler.SampleScheduler(
        optimizer,
        reference_batch_size=16,
        global_batch_size=batch,
        schedule=scaler.Schedule(shape=CYCLE),
        co_scale={"beta2": "half_life"},
    )
    used = noted(optimizer)
    for seen, samples in ((0, batch), (batch, batch // 4), (batch + batch // 4, batch)):
        scheduler.step(samples_seen=seen, samples=samples)
        weight.grad = torch.sin(weight.detach())
        optimizer.step()
    whole = 0.99 ** (batch / 16)
    assert [values["betas"][1] for values in used] == pytest.approx([whole, whole ** (1 / 4), whole], rel=1e-12)
    firsts = [scheduler.schedule.momentum(seen) for seen in (0, batch, batch + batch // 4)]
    assert firsts[1] is not None
    assert [values["betas"][0] for values in used] == pytest.approx([firsts[0], firsts[1] ** (1 / 4), firsts[2]])


def test_a_loop_of_ones_own_follows_the_length_too(tmp_path: Path) -> None:
    job = {
        "name": "own",
        "reference": {"global_batch_size": 8, "lr": 0.002, "optimizer": ADAMW, "total_samples": 30},
        "scale": {"global_batch_size": 16, "horizon": True, "beta2_range": [0.9, 0.9995]},
        "schedule": FLAT,
        "train": {"epochs": 3},
    }
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(40, 4, generator=generator)
    data = torch.utils.data.TensorDataset(inputs, inputs.sum(1, keepdim=True))
    run = scaler.start(parse_job(job, source="job"), num_samples=40, storage=str(tmp_path))
    model = nn.Linear(4, 1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.002, betas=(0.9, 0.999), **own_constants(ADAMW))
    model, optimizer, loader = run.prepare(model, optimizer, torch.utils.data.DataLoader(data, batch_size=16))
    used = noted(optimizer)
    for _ in range(3):
        for x, y in loader:
            loss = nn.functional.mse_loss(model(x), y)
            scaler.record(loss=loss)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    run.finish()
    kappa = 2 / 4  # twice the batch, 4 times the length
    assert used[0]["lr"] == 0.002 * kappa**0.5
    assert used[0]["weight_decay"] == pytest.approx(0.1 * kappa**0.5)
    assert used[0]["betas"] == pytest.approx((0.95, 0.9995))
    assert used[2]["lr"] == 0.002 * (kappa / 2) ** 0.5  # a short step of 8
