"""The scheduler in plain torch loops. The optimizer itself records what it used."""

from collections.abc import Callable
from io import BytesIO
from math import log
from typing import Any

import pytest
import torch
import torch.distributed as dist
from groups import run_group
from pytorch_optimizer import Lamb, ScheduleFreeAdamW
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict
from torch.optim import SGD, Adagrad, Adam, AdamW, Optimizer, RMSprop
from torch.optim.lr_scheduler import LRScheduler, StepLR

from scaler import SampleScheduler, Schedule, Warmup, shapes
from scaler.errors import PlanError, TrainingError
from scaler.job import parse_job
from scaler.plan import Plan, make_plan

FLAT = Schedule(shape=shapes.Constant())
LINE = Schedule(shape=shapes.Linear(length=256))
SDE = {"rule": "adam_sde"}


def parameter() -> nn.Parameter:
    return nn.Parameter(torch.ones(3))


def sgd(**constants: Any) -> SGD:
    return SGD([parameter()], **{"lr": 0.1, **constants})


def adam(**constants: Any) -> Adam:
    return Adam([parameter()], **{"lr": 0.01, "betas": (0.9, 0.99), **constants})


def made(optimizer: Optimizer, batch: int = 64, schedule: Schedule = FLAT, **options: Any) -> SampleScheduler:
    return SampleScheduler(optimizer, reference_batch_size=16, global_batch_size=batch, schedule=schedule, **options)


def watched(optimizer: Optimizer) -> list[dict[str, Any]]:
    """Return the values of the first group in each step, recorded just before the step."""
    used: list[dict[str, Any]] = []

    def note(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        used.append({key: value for key, value in optimizer.param_groups[0].items() if key != "params"})

    optimizer.register_step_pre_hook(note)
    return used


def grow_and_step(optimizer: Optimizer) -> None:
    """Step with a gradient that depends on the weights."""
    for group in optimizer.param_groups:
        for weight in group["params"]:
            weight.grad = torch.sin(3 * weight.detach())
    optimizer.step()


def take(optimizer: Optimizer, scheduler: SampleScheduler, steps: int) -> None:
    """Take steps of whole batches."""
    for _ in range(steps):
        grow_and_step(optimizer)
        scheduler.step(samples_seen=scheduler.samples_seen + scheduler.global_batch_size)


def saved(value: Any) -> Any:
    """Return what comes back from a file that is read with ``weights_only``."""
    file = BytesIO()
    torch.save(value, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


# --- against the plan of the same job


def planned(optimizer: dict[str, Any], schedule: dict[str, Any], **scale: Any) -> Plan:
    return make_plan(
        parse_job(
            {
                "name": "job",
                "recipe": "recipe:build",
                "reference": {"global_batch_size": 16, "lr": 0.01, "optimizer": optimizer},
                "scale": {"global_batch_size": 48, **scale},
                "schedule": schedule,
                "train": {"epochs": 3, "num_samples": 500},  # 10 steps of 48 and one of 20 in each
            },
            source="job.yaml",
        )
    )


@pytest.mark.parametrize(
    ("make", "optimizer", "schedule", "scale"),
    [
        (SGD, {"name": "sgd", "momentum": 0.9}, {"name": "cosine", "warmup": {"epochs": 1}}, {}),
        (SGD, {"name": "sgd"}, {"name": "multi_step", "at": [{"epochs": 1}], "decay": 0.1}, {"rule": "sqrt"}),
        (SGD, {"name": "sgd", "momentum": 0.9}, {"name": "constant"}, {"rule": "none", "co_scale": {"momentum": True}}),
        (
            SGD,
            {"name": "sgd", "momentum": 0.9},
            {"name": "one_cycle", "climb": {"epochs": 1}, "low_momentum": 0.8, "high_momentum": 0.95},
            {},
        ),
        (
            AdamW,
            {"name": "adamw", "betas": [0.9, 0.99]},
            {"name": "one_cycle", "climb": {"epochs": 1}, "low_momentum": 0.8, "high_momentum": 0.95},
            {"rule": "power", "exponent": 0.7},
        ),
        (AdamW, {"name": "adamw"}, {"name": "linear"}, {"co_scale": {"weight_decay": True}}),
        (Adam, {"name": "adam", "betas": [0.9, 0.99]}, {"name": "cosine"}, {"rule": "adam_sde"}),
        (Adam, {"name": "adam"}, {"name": "cosine"}, {"rule": "adam_sde", "betas": "power"}),
        (RMSprop, {"name": "rmsprop"}, {"name": "inverse_sqrt", "timescale": {"epochs": 1}}, {"rule": "adam_sde"}),
        (SGD, {"name": "torch.optim:SGD"}, {"name": "linear"}, {"rule": "gain", "noise_scale": 100.0}),
    ],
)
def test_every_step_is_that_of_the_plan(
    make: Callable[..., Optimizer], optimizer: dict[str, Any], schedule: dict[str, Any], scale: dict[str, Any]
) -> None:
    plan = planned(optimizer, schedule, **scale)
    tuned = make([parameter()], lr=0.01, **{key: value for key, value in optimizer.items() if key != "name"})
    scheduler = made(tuned, 48, plan.schedule, **scale)
    used = watched(tuned)  # after the scheduler's own hook
    seen = 0
    while size := plan.step_size(seen):
        scheduler.step(samples_seen=seen, samples=size)
        grow_and_step(tuned)
        assert used[-1]["lr"] == plan.lr_at(seen)  # to the last bit
        assert scheduler.get_last_lr() == [used[-1]["lr"]]
        momentum = plan.step_momentum(seen, progress=seen)
        for key, value in plan.step_phase(seen).optimizer.items():
            if key in ("betas", "momentum") and momentum is not None:
                value = momentum if key == "momentum" else [momentum, value[1]]
            if key not in ("name", "lr"):
                assert used[-1][key] == (tuple(value) if isinstance(value, list) else value), key
        seen += size
    assert len(used) == 33
    assert (scheduler.rule, scheduler.lr_ratio) == (plan.rule, plan.lr_ratio)


@pytest.mark.parametrize("options", [{}, {"rule": "adam_sde", "co_scale": {"weight_decay": True}}])
def test_at_the_reference_the_optimizer_is_as_without_a_scheduler(options: dict[str, Any]) -> None:
    bare, scheduled = (AdamW([parameter()], lr=0.01, betas=(0.9, 0.99), weight_decay=0.1) for _ in range(2))
    before = {**scheduled.param_groups[0], "params": None}
    scheduler = made(scheduled, 16, **options)
    after = {**scheduled.param_groups[0], "params": None}
    assert {key: value for key, value in after.items() if not key.startswith(("initial_", "sample_"))} == before
    take(scheduled, scheduler, 20)
    for _ in range(20):
        (weight,) = bare.param_groups[0]["params"]
        weight.grad = torch.sin(3 * weight.detach())
        bare.step()
    assert torch.equal(scheduled.param_groups[0]["params"][0], bare.param_groups[0]["params"][0])


def test_every_group_keeps_its_own_lr_and_constants() -> None:
    groups = [
        {"params": [parameter()]},
        {"params": [parameter()], "lr": 0.0025, "weight_decay": 0.0, "betas": (0.8, 0.9)},
        {"params": [parameter()], "lr": 0.0},
    ]
    optimizer = AdamW(groups, lr=0.01, weight_decay=0.1, betas=(0.9, 0.99))
    scheduler = made(optimizer, 32, LINE, rule="adam_sde", co_scale={"weight_decay": True})
    root = 2**0.5
    found = [(group["lr"], group["weight_decay"], group["betas"]) for group in optimizer.param_groups]
    assert [lr for lr, _, _ in found] == [0.01 * root, 0.0025 * root, 0.0]
    assert [decay for _, decay, _ in found] == pytest.approx([0.1 * root, 0.0, 0.1 * root], rel=1e-15)
    assert [beta for _, _, betas in found for beta in betas] == pytest.approx([0.8, 0.98, 0.6, 0.8, 0.8, 0.98])
    take(optimizer, scheduler, 4)
    assert [group["lr"] for group in optimizer.param_groups] == [0.005 * root, 0.00125 * root, 0.0]


# --- stepping


def refusal(scheduler: SampleScheduler, samples_seen: int) -> str:
    with pytest.raises(TrainingError) as caught:
        scheduler.step(samples_seen=samples_seen)
    return str(caught.value)


ONCE = "  Step it once for each optimizer step, with the samples of all steps before it, over all workers."


@pytest.mark.parametrize(
    ("samples_seen", "text"),
    [
        (128, "samples_seen = 128, and the scheduler is at 128: it was stepped twice for the same samples.\n" + ONCE),
        # The samples of one step, not of all: seen in the second.
        (64, "samples_seen = 64, and the scheduler is at 128: it was stepped back.\n" + ONCE),
        # Four micro-steps that global_batch_size forgot.
        (
            384,
            "samples_seen = 384 is 256 samples after the last step, and global_batch_size = 64.\n"
            "  Count all workers and micro-steps in global_batch_size, and step for every optimizer step.",
        ),
    ],
)
def test_a_step_that_cannot_be_is_refused_and_changes_nothing(samples_seen: int, text: str) -> None:
    optimizer = sgd()
    scheduler = made(optimizer, schedule=LINE)
    take(optimizer, scheduler, 2)
    assert refusal(scheduler, samples_seen) == text
    assert (scheduler.samples_seen, optimizer.param_groups[0]["lr"]) == (128, 0.2)
    take(optimizer, scheduler, 1)
    assert scheduler.get_last_lr() == [0.2]


def test_steps_after_micro_batches_arrive_at_the_same_lr() -> None:
    whole, parts = sgd(), sgd()
    once, often = made(whole, schedule=LINE), made(parts, schedule=LINE)
    take(whole, once, 3)
    for _ in range(3 * 4):
        often.step(samples_seen=often.samples_seen + 16)
    assert parts.param_groups[0]["lr"] == whole.param_groups[0]["lr"]


def test_a_short_step_that_was_not_announced_is_refused() -> None:
    optimizer = sgd()
    scheduler = made(optimizer)
    grow_and_step(optimizer)
    assert refusal(scheduler, 20) == (
        "the last step had 20 samples, but its learning rate was for 64.\n"
        "  Give the samples of a short step before that step: scheduler.step(samples_seen=0, samples=20)."
    )


def test_a_count_beyond_the_schedule_is_refused() -> None:
    optimizer = sgd()
    scheduler = made(optimizer, schedule=LINE)
    text = (
        "samples_seen = {} is beyond the schedule, which ends at 256 samples.\n"
        "  Count the samples of each step, a short last batch too; or make the schedule as long as the training."
    )
    take(optimizer, scheduler, 4)  # the last call is at the end: no step follows
    with pytest.raises(TrainingError, match="stepped twice"):
        scheduler.step(samples_seen=256, samples=64)
    grow_and_step(optimizer)
    assert refusal(scheduler, 320) == text.format(320)
    late = made(sgd(), schedule=LINE, samples_seen=192)
    with pytest.raises(TrainingError) as caught:
        late.step(samples_seen=256, samples=64)
    assert str(caught.value) == text.format(256)


@pytest.mark.parametrize("samples", [0, 65])
def test_the_samples_of_a_step_are_within_the_batch(samples: int) -> None:
    with pytest.raises(TrainingError) as caught:
        made(sgd()).step(samples_seen=0, samples=samples)
    assert str(caught.value) == (
        f"samples = {samples} is not in [1, global_batch_size = 64].\n"
        "  It is the samples of one optimizer step, over all workers and micro-steps."
    )


@pytest.mark.parametrize("make", [lambda: sgd(momentum=0.9), lambda: adam(), lambda: RMSprop([parameter()], lr=0.01)])
def test_after_a_short_step_the_constants_are_those_of_whole_steps(make: Callable[[], Optimizer]) -> None:
    optimizer = make()
    scheduler = made(optimizer)
    take(optimizer, scheduler, 1)
    before = {key: value for key, value in optimizer.param_groups[0].items() if key != "params"}
    other = make()
    again = made(other)
    again.step(samples_seen=0, samples=1)
    grow_and_step(other)
    again.step(samples_seen=1)
    after = {key: value for key, value in other.param_groups[0].items() if key != "params"}
    assert after == before


def test_a_gradient_of_few_samples_weighs_by_its_own_learning_rate_in_later_steps_too() -> None:
    """With SGD's momentum, one gradient moves the weights by lr / (1 - momentum) times itself, at its step's lr."""
    weight = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = SGD([weight], lr=0.1, momentum=0.5)
    scheduler = made(optimizer)
    scheduler.step(samples_seen=0, samples=4)
    weight.grad = torch.ones_like(weight)
    optimizer.step()
    for step in range(60):
        scheduler.step(samples_seen=4 + 64 * step)
        weight.grad = torch.zeros_like(weight)
        optimizer.step()
    assert weight.item() == pytest.approx(-0.1 * (4 / 16) / (1 - 0.5), rel=1e-12)


def test_adam_s_averages_take_a_short_step_for_its_share() -> None:
    """After equal gradients the corrected averages are that gradient, whatever the sizes of the steps."""
    weight = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = Adam([weight], lr=0.01, betas=(0.9, 0.99), eps=0.0)
    scheduler = made(optimizer)
    seen = 0
    for samples in (64, 64, 8, 64, 1, 64):
        before = weight.item()
        scheduler.step(samples_seen=seen, samples=samples)
        weight.grad = torch.full_like(weight, 3.0)
        optimizer.step()
        assert before - weight.item() == pytest.approx(scheduler.get_last_lr()[0], rel=1e-6)
        seen += samples
    state = optimizer.state[weight]
    assert float(state["step"]) == pytest.approx(seen / 64, rel=1e-5), "counted in whole steps"


@pytest.mark.parametrize("remembers", [{"initial_lr": 0.1}, {"initial_lr": 0.1, "sample_scheduler_lr": 0.4}])
def test_an_lr_that_was_set_after_an_earlier_scheduler_is_refused(remembers: dict[str, float]) -> None:
    optimizer = sgd()
    optimizer.param_groups[0].update(remembers, lr=0.001)
    with pytest.raises(PlanError) as caught:
        made(optimizer)
    assert str(caught.value) == (
        "lr of group 0 is 0.001, and an earlier scheduler left initial_lr = 0.1 in it.\n"
        '  To start from 0.001: del group["initial_lr"] for each group of optimizer.param_groups. '
        'To start from 0.1: group["lr"] = 0.1.'
    )


def test_frameworks_that_step_schedulers_once_per_process_leave_it_alone() -> None:
    scheduler = made(sgd())
    assert not isinstance(scheduler, LRScheduler)  # which is what accelerate asks before it wraps one
    with pytest.raises(TypeError, match="samples_seen"):
        scheduler.step()  # type: ignore[call-arg]


def test_the_last_lr_is_the_one_that_was_used() -> None:
    optimizer = sgd()
    used = watched(optimizer)
    scheduler = made(optimizer, schedule=LINE)
    assert scheduler.get_last_lr() == [0.4], "before the first step: what it will use"
    for _ in range(4):
        take(optimizer, scheduler, 1)
        assert scheduler.get_last_lr() == [used[-1]["lr"]]
    assert [step["lr"] for step in used] == pytest.approx([0.4, 0.3, 0.2, 0.1], abs=1e-15)


def test_another_scheduler_is_noticed() -> None:
    optimizer = sgd()
    scheduler = made(optimizer)
    other = StepLR(optimizer, 1, gamma=0.5)
    take(optimizer, scheduler, 1)
    other.step()
    optimizer.step()
    assert refusal(scheduler, 128) == (
        "lr of group 0 is 0.2, and the scheduler wrote 0.4: something else writes it.\n"
        "  Remove the other scheduler, or express its effect in schedule."
    )


def test_a_group_that_comes_later_needs_a_scheduler_made_anew() -> None:
    optimizer = sgd()
    scheduler = made(optimizer)
    take(optimizer, scheduler, 1)
    optimizer.add_param_group({"params": [parameter()], "lr": 0.01})
    assert refusal(scheduler, 128) == (
        "the optimizer has 2 parameter groups, and the scheduler was made for 1.\n"
        "  Make a new scheduler, with samples_seen=64."
    )
    made(optimizer, samples_seen=64)
    assert [group["lr"] for group in optimizer.param_groups] == [0.4, 0.04]


# --- resuming at another batch


ORDERS = ["the optimizer first", "the scheduler first", "the optimizer before there is a scheduler"]


def resumed(order: str, optimizer: Optimizer, state: dict[str, Any], batch: int, **options: Any) -> SampleScheduler:
    if order == "the optimizer before there is a scheduler":
        optimizer.load_state_dict(state["optimizer"])
    scheduler = made(optimizer, batch, LINE, **options)
    if order == "the optimizer first":
        optimizer.load_state_dict(state["optimizer"])
    scheduler.load_state_dict(state["scheduler"])
    if order == "the scheduler first":
        optimizer.load_state_dict(state["optimizer"])
    return scheduler


def state_after(optimizer: Optimizer, steps: int, batch: int, **options: Any) -> dict[str, Any]:
    scheduler = made(optimizer, batch, LINE, **options)
    take(optimizer, scheduler, steps)
    return saved({"optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict()})


@pytest.mark.parametrize("order", ORDERS)
def test_the_next_step_after_a_resize_has_the_new_lr(order: str) -> None:
    state = state_after(sgd(), 2, batch=64)
    optimizer = sgd()
    used = watched(optimizer)
    scheduler = resumed(order, optimizer, state, batch=32)
    assert scheduler.get_last_lr() == [0.1]
    take(optimizer, scheduler, 2)
    assert [step["lr"] for step in used] == [0.2 * 0.5, 0.2 * 0.375]  # at 128 and 160 of 256 samples
    assert scheduler.samples_seen == 192


@pytest.mark.parametrize("order", ORDERS)
def test_adams_constants_and_its_count_of_steps_follow_a_resize(order: str) -> None:
    state = state_after(adam(), 3, batch=64, **SDE)
    assert state["optimizer"]["param_groups"][0]["betas"] == pytest.approx((0.6, 0.96))
    optimizer = adam()
    used = watched(optimizer)
    scheduler = resumed(order, optimizer, state, batch=32, **SDE)
    (weight,) = optimizer.param_groups[0]["params"]
    count = float(optimizer.state[weight]["step"])
    assert count * log(0.98) == pytest.approx(3 * log(0.96), rel=1e-6), "as much is forgotten, now at beta2 = 0.98"
    take(optimizer, scheduler, 1)
    assert used[-1]["betas"] == pytest.approx((0.8, 0.98))
    assert used[-1]["eps"] == pytest.approx(1e-8 / 2**0.5)
    assert used[-1]["lr"] == pytest.approx(0.01 * 2**0.5 * 0.25)  # at 192 of 256 samples


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("options", [{}, SDE])
def test_a_resume_at_the_same_batch_is_as_if_nothing_had_been(order: str, options: dict[str, Any]) -> None:
    through, first, second = adam(), adam(), adam()
    take(through, made(through, 32, LINE, **options), 6)
    state = state_after(first, 3, batch=32, **options)
    second.param_groups[0]["params"][0].data.copy_(first.param_groups[0]["params"][0].data)
    take(second, resumed(order, second, state, batch=32, **options), 3)
    assert torch.equal(second.param_groups[0]["params"][0], through.param_groups[0]["params"][0])


@pytest.mark.parametrize("batch", [64, 32])
def test_a_loop_that_steps_the_scheduler_first_continues_where_it_was_saved(batch: int) -> None:
    """Saved after an optimizer step, before the scheduler knows of the next one."""
    first, second = sgd(), sgd()
    scheduler = made(first, 64, LINE)
    for seen, samples in ((0, 64), (64, 20)):
        scheduler.step(samples_seen=seen, samples=samples)
        grow_and_step(first)
    state = saved({"optimizer": first.state_dict(), "scheduler": scheduler.state_dict()})
    again = made(second, batch, LINE)
    second.load_state_dict(state["optimizer"])
    again.load_state_dict(state["scheduler"])
    assert again.samples_seen == 84
    again.step(samples_seen=84, samples=batch)
    assert again.get_last_lr() == [pytest.approx(0.1 * batch / 16 * (1 - 84 / 256))]


def test_momentum_is_where_the_schedule_has_it_after_a_resume() -> None:
    shape = shapes.OneCycle(climb=64, length=256, anneal="linear", low_momentum=0.5, high_momentum=0.75)
    schedule = Schedule(shape=shape)
    first, second = sgd(momentum=0.9), sgd(momentum=0.9)
    scheduler = made(first, 32, schedule)
    take(first, scheduler, 2)
    again = made(second, 64, schedule)
    again.load_state_dict(scheduler.state_dict())
    second.load_state_dict(first.state_dict())
    assert second.param_groups[0]["momentum"] == 0.5


def test_nothing_compounds_over_resizes() -> None:
    optimizer = AdamW([parameter()], lr=0.01, betas=(0.9, 0.99), weight_decay=0.1)
    found = []
    for batch in (16, 64, 32, 64, 64, 16):
        made(optimizer, batch, rule="adam_sde", co_scale={"weight_decay": True})
        found.append([optimizer.param_groups[0][key] for key in ("lr", "betas", "eps", "weight_decay")])
    assert found[0] == found[5] == [0.01, (0.9, 0.99), 1e-8, 0.1]
    assert found[1] == found[3] == found[4]
    assert found[1][:1] == [0.02]


def test_the_state_holds_the_reference_and_no_lr_in_use() -> None:
    optimizer = adam()
    scheduler = made(optimizer, 64, LINE, **SDE)
    take(optimizer, scheduler, 2)
    assert scheduler.state_dict() == {
        "samples_seen": 128,
        "reference_batch_size": 16,
        "groups": [{"lr": 0.01, "betas": [0.9, 0.99], "eps": 1e-8}],
    }


SAME_REFERENCE = (
    "  Make the scheduler from the same reference; or, to continue with another reference, with "
    "samples_seen=128 instead of "
    "this state."
)


@pytest.mark.parametrize(
    ("state", "text"),
    [
        (
            {"samples_seen": 128, "reference_batch_size": 16, "groups": [{"lr": 0.2}]},
            "lr of group 0 at the reference = 0.1, and the state's is 0.2.\n" + SAME_REFERENCE,
        ),
        (
            {"samples_seen": 128, "reference_batch_size": 32, "groups": [{"lr": 0.1}]},
            "reference_batch_size = 16, and the state's is 32.\n" + SAME_REFERENCE,
        ),
        (
            {"samples_seen": 128, "reference_batch_size": 16, "groups": []},
            "the number of parameter groups = 1, and the state's is 0.\n" + SAME_REFERENCE,
        ),
        (
            {"last_epoch": 3, "_last_lr": [0.1]},
            "the state has last_epoch, _last_lr: it is not a SampleScheduler's.\n"
            "  To continue after another scheduler, make this one with samples_seen = the samples trained on so far.",
        ),
    ],
)
def test_a_state_of_something_else_is_refused(state: dict[str, Any], text: str) -> None:
    scheduler = made(sgd())
    with pytest.raises(PlanError) as caught:
        scheduler.load_state_dict(state)
    assert str(caught.value) == text
    assert scheduler.samples_seen == 0


def test_a_rule_that_scales_more_than_before_takes_the_older_state() -> None:
    scheduler = made(adam())
    state = {**scheduler.state_dict(), "samples_seen": 128}
    again = made(adam(), **SDE)
    again.load_state_dict(state)
    assert again.samples_seen == 128


# --- what else happens in people's loops


def test_a_scheduler_that_is_dropped_no_longer_writes() -> None:
    optimizer = sgd()
    scheduler = made(optimizer)
    state = optimizer.state_dict()
    del scheduler
    state["param_groups"][0]["lr"] = 0.7
    optimizer.load_state_dict(state)
    assert optimizer.param_groups[0]["lr"] == 0.7


def test_a_step_that_amp_skips_spends_its_samples() -> None:
    optimizer = sgd()
    used = watched(optimizer)
    scheduler = made(optimizer, schedule=LINE)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    (weight,) = optimizer.param_groups[0]["params"]
    for step, factor in enumerate((1.0, float("inf"), 1.0)):
        scaler.scale((weight * factor).sum()).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        scheduler.step(samples_seen=64 * (step + 1))
    assert [step["lr"] for step in used] == pytest.approx([0.4, 0.2])
    assert scheduler.get_last_lr() == [used[-1]["lr"]]


def test_a_disabled_grad_scaler_and_closures_make_no_difference() -> None:
    plain, scaled, closed = sgd(), sgd(), sgd()
    schedulers = [made(optimizer, schedule=LINE) for optimizer in (plain, scaled, closed)]
    scaler = torch.amp.GradScaler("cpu", enabled=False)

    def closure() -> Tensor:
        closed.zero_grad()
        loss = (closed.param_groups[0]["params"][0] ** 2).sum()
        loss.backward()
        return loss

    for seen in (64, 128, 192):
        for optimizer, step in ((plain, plain.step), (scaled, lambda: scaler.step(scaled))):
            optimizer.zero_grad()
            scaler.scale((optimizer.param_groups[0]["params"][0] ** 2).sum()).backward()
            step()
        closed.step(closure)
        for scheduler in schedulers:
            scheduler.step(samples_seen=seen)
    weights = [optimizer.param_groups[0]["params"][0] for optimizer in (plain, scaled, closed)]
    assert torch.equal(weights[0], weights[1])
    assert torch.equal(weights[0], weights[2])
    assert len({tuple(scheduler.get_last_lr()) for scheduler in schedulers}) == 1


def test_an_lr_that_is_a_tensor_stays_the_same_tensor() -> None:
    lr = torch.tensor(0.125)
    optimizer = Adam([parameter()], lr=lr)
    scheduler = made(optimizer, 64, LINE)
    take(optimizer, scheduler, 2)
    assert optimizer.param_groups[0]["lr"] is lr
    assert (float(lr), scheduler.get_last_lr()) == (0.125, [0.1875])


def test_distributed_checkpoints_change_no_weight_and_keep_the_lr_right() -> None:
    # torch creates the optimizer's state by a step at learning rate 0; with another one it would decay the weights.
    model, again = nn.Linear(3, 2), nn.Linear(3, 2)
    first, second = (AdamW(m.parameters(), lr=0.01, weight_decay=0.5) for m in (model, again))
    scheduler = made(first, 64, LINE)
    take(first, scheduler, 2)
    state = get_optimizer_state_dict(model, first)
    resumed = made(second, 32, LINE)
    before = again.weight.detach().clone()
    set_optimizer_state_dict(again, second, state)
    resumed.load_state_dict(scheduler.state_dict())
    assert torch.equal(again.weight, before)
    used = watched(second)
    take(second, resumed, 1)
    assert used[-1]["lr"] == 0.01 * 2**0.5 * 0.5
    assert resumed.get_last_lr() == [used[-1]["lr"]]


def _lrs_of_a_rank(rank: int, world_size: int) -> tuple[list[str], list[float]]:
    """Train with gradients averaged by hand, as in one's own loop; return the learning rates and the weights."""
    optimizer = sgd(momentum=0.9)
    used = watched(optimizer)
    scheduler = made(optimizer, 32 * world_size, Schedule(shape=shapes.Cosine(length=640), warmup=Warmup(samples=100)))
    (weight,) = optimizer.param_groups[0]["params"]
    while scheduler.samples_seen < 640:
        weight.grad = torch.sin(weight.detach() + rank)
        dist.all_reduce(weight.grad)
        optimizer.step()
        scheduler.step(samples_seen=scheduler.samples_seen + 32 * world_size)
    return [step["lr"].hex() for step in used], weight.tolist()


def test_every_rank_has_the_same_lr_to_the_last_bit() -> None:
    first, second = run_group(_lrs_of_a_rank, 2)
    assert first == second
    assert len(first[0]) == 10


# --- what is refused when it is made


class MyAdamW(AdamW):
    """A class that the table of rules does not contain, although its name looks like one."""


class Wrapper(SGD):
    """Like AcceleratedOptimizer: an optimizer that contains another and was not initialized itself."""

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer


CYCLE = Schedule(shape=shapes.Cyclical(climb=9, descent=9, low=0.1, low_momentum=0.8, high_momentum=0.9))


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (
            lambda: made(MyAdamW([parameter()])),
            "scale.rule = auto does not know the optimizer test_scheduler:MyAdamW.\n"
            "  Choose a rule for it: rule: linear, rule: sqrt or rule: none.",
        ),
        (
            lambda: made(Wrapper(sgd())),
            "optimizer is Wrapper, which wraps another optimizer and does not call its hooks.\n"
            "  Make the scheduler with the optimizer itself, before it is wrapped.",
        ),
        (lambda: made(sgd(), samples_seen=-1), "samples_seen = -1 is below 0.\n  A training starts at 0."),
        (
            lambda: made(sgd(), 0),
            "global_batch_size = 0 is below 1.\n  It is samples per optimizer step, over all workers.",
        ),
        (
            lambda: made(Adagrad([parameter()]), schedule=CYCLE),
            "schedule.low_momentum moves the momentum, but torch.optim:Adagrad has none.\n  Leave it out.",
        ),
        (
            lambda: made(adam(), schedule=CYCLE, **SDE),
            "schedule.low_momentum moves betas, but the rule scales it too.\n  Leave one of them out.",
        ),
        (
            lambda: made(ScheduleFreeAdamW([parameter()]), schedule=CYCLE),
            "schedule.low_momentum moves betas, but schedulefree_adamw uses it to place its weights between two "
            "points.\n"
            "  Leave it out.",
        ),
        (
            lambda: made(sgd(lr=1e300), 10**10, rule="power", exponent=2.0),
            "peak_lr = 1e+300 x 3.90625e+17 is too large for a number.\n  Lower lr.",
        ),
    ],
)
def test_the_whole_text_of_each_refusal(make: Callable[[], SampleScheduler], text: str) -> None:
    with pytest.raises(PlanError) as caught:
        make()
    assert str(caught.value) == text


@pytest.mark.parametrize(
    ("optimizer", "reason"),
    [
        (sgd(), "sgd: linear rule (Goyal et al. 2017), chosen by auto for the SGD family"),
        (adam(), "adam: square-root rule (Malladi et al. 2022), chosen by auto for adaptive optimizers"),
        (
            Lamb([parameter()]),
            (
                "lamb: square root, warmup epochs times the ratio (You et al. 2019), chosen by auto for layer-wise "
                "learning rates"
            ),
        ),
        (
            Adagrad([parameter()]),
            "torch.optim:Adagrad: square-root rule, by analogy with Adam (Malladi et al. 2022), chosen by auto for "
            "adaptive optimizers",
        ),
    ],
)
def test_the_rule_goes_by_the_class_and_says_why(optimizer: Optimizer, reason: str) -> None:
    assert made(optimizer).reason == reason
