"""The plan's optimizer: built, written to, and saved; also those of the optional package."""

import importlib
import inspect
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import (
    checkpoint,
    checkpoints,
    in_this_process,
    make_job,
    make_recipe,
    new_folder,
    plain,
    plan_of,
    records_of,
    run,
    run_in_attempts,
    step_losses,
    untimed,
    weights_of,
)
from torch import nn

from scaler.core.optimizers import NAMED_OPTIMIZERS
from scaler.errors import JobFileError
from scaler.plan import Phase, PlanGroup
from scaler.training.optimizer.build import build_optimizer, optimizer_class
from scaler.training.optimizer.settings import set_constants, set_lr, set_mode, used_lr
from scaler.training.randomness import seed_everything
from scaler.training.worker_context import AttemptEnd

FROM_PACKAGE = ("lars", "lamb", "lion", "prodigy", "schedulefree_sgd", "schedulefree_adamw")
SCHEDULE_FREE = ("schedulefree_sgd", "schedulefree_adamw")
CONSTANT = {"name": "constant", "warmup": {"epochs": 0}}


def parameters() -> dict[str, nn.Parameter]:
    return {
        "a": nn.Parameter(torch.zeros(2)),
        "b": nn.Parameter(torch.zeros(2), requires_grad=False),
        "c": nn.Parameter(torch.ones(2, 2)),
    }


def group(*names: str, lr_ratio: float = 1.0, weight_decay: float | None = None) -> PlanGroup:
    return PlanGroup(
        name="g",
        lr_ratio=lr_ratio,
        peak_lr=0.1 * lr_ratio,
        weight_decay=weight_decay,
        frozen=False,
        unfreeze_at=None,
        num_parameters=0,
        tensors=dict.fromkeys(names, 2),
    )


def phase(optimizer: dict[str, Any], *, weight_decay_ratio: float = 1.0) -> Phase:
    first = plan_of(make_job(per_worker_batch_size=16)).phases[0]
    return replace(first, optimizer=optimizer, weight_decay_ratio=weight_decay_ratio)


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"name": "sgd", "lr": 0.1, "momentum": 0.9}, torch.optim.SGD),
        ({"name": "adam", "lr": 0.1, "betas": [0.8, 0.9]}, torch.optim.Adam),  # JSON has no tuples
        ({"name": "adamw", "lr": 0.1, "weight_decay": 0.3}, torch.optim.AdamW),
        ({"name": "rmsprop", "lr": 0.1}, torch.optim.RMSprop),
        ({"name": "torch.optim:NAdam", "lr": 0.1}, torch.optim.NAdam),
    ],
)
def test_each_optimizer_is_built_with_its_keys(options: dict[str, object], kind: type) -> None:
    optimizer = build_optimizer(parameters(), options)
    assert type(optimizer) is kind
    for key, value in options.items():
        if key != "name":
            assert optimizer.defaults[key] == (tuple(value) if isinstance(value, list) else value)


def test_only_parameters_that_are_trained_are_given_unless_a_group_names_them() -> None:
    sgd = {"name": "sgd", "lr": 0.1}
    known = parameters()
    assert [len(made["params"]) for made in build_optimizer(known, sgd).param_groups] == [2]
    made = build_optimizer(known, sgd, groups=[group("c"), group("a", "b", lr_ratio=0.5)]).param_groups
    assert [[id(p) for p in one["params"]] for one in made] == [[id(known["c"])], [id(known["a"]), id(known["b"])]]
    assert [one["lr_ratio"] for one in made] == [1.0, 0.5]


def two_groups(*ratios: float, name: str = "sgd") -> torch.optim.Optimizer:
    groups = [group(key, lr_ratio=ratio) for key, ratio in zip("ac", ratios, strict=True)]
    return build_optimizer(parameters(), {"name": name, "lr": 0.1}, groups=groups)


def test_the_lr_is_written_into_every_group_by_its_ratio_and_read_back() -> None:
    optimizer = two_groups(1.0, 0.5)
    set_lr(optimizer, 0.25)
    assert [group["lr"] for group in optimizer.param_groups] == [0.25, 0.125]
    assert used_lr(optimizer, planned=0.25) == 0.25
    optimizer.param_groups[1]["lr"] = 0.25
    assert used_lr(optimizer, planned=0.25) == 0.5, "one group that differs is seen, as of a ratio of 1"


def test_a_group_of_ratio_0_has_the_planned_lr_if_its_own_is_0() -> None:
    optimizer = two_groups(1.0, 0.0)
    set_lr(optimizer, 0.25)
    assert [group["lr"] for group in optimizer.param_groups] == [0.25, 0.0]
    assert used_lr(optimizer, planned=0.25) == 0.25
    optimizer.param_groups[1]["lr"] = 0.5
    assert used_lr(optimizer, planned=0.25) == 0.75, "and else it is that much off"


@pytest.mark.parametrize(
    ("name", "expected"),
    [("sgd", {"momentum": 0.85}), ("adam", {"betas": (0.85, 0.999)}), ("rmsprop", {"momentum": 0.85, "alpha": 0.99})],
)
def test_a_momentum_that_the_schedule_moves_is_adam_s_first_beta(name: str, expected: dict[str, Any]) -> None:
    optimizer = two_groups(1.0, 0.5, name=name)
    before = [{key: group[key] for key in expected} for group in optimizer.param_groups]
    set_lr(optimizer, 0.25)
    assert [{key: group[key] for key in expected} for group in optimizer.param_groups] == before
    set_lr(optimizer, 0.25, momentum=0.85)
    for group in optimizer.param_groups:
        assert {key: group[key] for key in expected} == expected


def test_constants_are_written_into_every_group_and_a_group_s_weight_decay_is_its_own() -> None:
    groups = [group("a"), group("c", weight_decay=0.5)]
    optimizer = build_optimizer(parameters(), {"name": "adamw", "lr": 0.1}, groups=groups)
    now = {"name": "adamw", "lr": 9.0, "betas": [0.5, 0.75], "eps": 1e-3, "weight_decay": 0.02}
    set_constants(optimizer, phase(now, weight_decay_ratio=2.0), groups)
    for made, decay in zip(optimizer.param_groups, (0.02, 1.0), strict=True):
        assert (made["betas"], made["eps"], made["weight_decay"]) == ((0.5, 0.75), 1e-3, decay)
        assert made["lr"] == 0.1, "the learning rate is not a constant"


@pytest.mark.parametrize(("name", "key"), [("adam", "betas"), ("rmsprop", "alpha")])
def test_steps_are_recounted_where_an_average_s_decay_changes_and_nowhere_else(name: str, key: str) -> None:
    optimizer = build_optimizer(parameters(), {"name": name, "lr": 0.1})
    for parameter in optimizer.param_groups[0]["params"]:
        parameter.grad = torch.ones_like(parameter)
    for _ in range(8):
        optimizer.step()

    def steps() -> list[float]:
        return [float(state["step"]) for state in optimizer.state.values()]

    def values(decay: float) -> dict[str, Any]:
        return {"name": name, "lr": 0.1, "eps": 1e-5, key: [0.8, decay] if key == "betas" else decay}

    before = optimizer.param_groups[0][key]
    set_constants(optimizer, phase(values(before[1] if key == "betas" else before)), ())
    assert steps() == [8.0, 8.0], "eps and the first beta alone do not"
    set_constants(optimizer, phase(values(0.5)), ())
    assert [0.5**step for step in steps()] == pytest.approx([(0.999 if key == "betas" else 0.99) ** 8] * 2, rel=1e-5)
    set_constants(optimizer, phase(values(0.999 if key == "betas" else 0.99)), ())
    assert steps() == pytest.approx([8.0, 8.0], rel=1e-6), "there and back is where it was"


CORRECTED = ["adam", "adamw", "torch.optim:RAdam"]  # by a count of steps; of both averages


def corrected(optimizer: torch.optim.Optimizer, weight: nn.Parameter) -> list[torch.Tensor]:
    """Return Adam's averages divided by the total weight of their gradients."""
    state, (first, second) = optimizer.state[weight], optimizer.param_groups[0]["betas"]
    step = float(state["step"])
    return [state["exp_avg"] / (1 - first**step), state["exp_avg_sq"] / (1 - second**step)]


@pytest.mark.parametrize("name", CORRECTED)
@pytest.mark.parametrize("steps", [1, 3, 40])
@pytest.mark.parametrize("betas", [(0.6, 0.996), (0.9**4, 0.999**4), (0.975, 0.99975), (0.5, 0.999), (0.0, 0.9)])
def test_a_change_of_betas_leaves_both_corrected_averages_as_they_are(
    name: str, steps: int, betas: tuple[float, float]
) -> None:
    weight = nn.Parameter(torch.zeros(5, dtype=torch.float64))
    optimizer = build_optimizer({"w": weight}, {"name": name, "lr": 0.1})
    for _ in range(steps):
        weight.grad = torch.randn(5, dtype=torch.float64)
        optimizer.step()
    before = corrected(optimizer, weight)
    set_constants(optimizer, phase({"name": name, "lr": 0.1, "betas": list(betas)}), ())
    for old, new in zip(before, corrected(optimizer, weight), strict=True):
        assert torch.allclose(new, old, rtol=2e-6)  # torch counts steps in float32
    set_constants(optimizer, phase({"name": name, "lr": 0.1, "betas": [0.9, 0.999]}), ())
    for old, new in zip(before, corrected(optimizer, weight), strict=True):
        assert torch.allclose(new, old, rtol=2e-6), "and back"


@pytest.mark.parametrize("name", CORRECTED)
def test_a_steady_gradient_is_its_own_average_before_and_after_a_change_of_betas(name: str) -> None:
    """The weights of all gradients sum to 1 in every step; otherwise a step after the change has a wrong length."""
    weight = nn.Parameter(torch.zeros(2, dtype=torch.float64))
    optimizer = build_optimizer({"w": weight}, {"name": name, "lr": 0.1})
    gradient = torch.tensor([3.0, -0.5], dtype=torch.float64)
    for betas in ([0.9, 0.999], [0.6, 0.996], [0.2, 0.992], [0.9, 0.999]):
        set_constants(optimizer, phase({"name": name, "lr": 0.1, "betas": betas}), ())
        for _ in range(2):
            weight.grad = gradient.clone()
            optimizer.step()
            first, second = corrected(optimizer, weight)
            assert torch.allclose(first, gradient, rtol=5e-6)
            assert torch.allclose(second, gradient**2, rtol=5e-6)


def test_adamax_counts_by_its_first_beta_which_is_the_one_it_corrects() -> None:
    weight = nn.Parameter(torch.zeros(2, dtype=torch.float64))
    optimizer = build_optimizer({"w": weight}, {"name": "torch.optim:Adamax", "lr": 0.1})
    for _ in range(3):
        weight.grad = torch.tensor([3.0, -0.5], dtype=torch.float64)
        optimizer.step()
    before = optimizer.state[weight]["exp_avg"] / (1 - 0.9**3)
    set_constants(optimizer, phase({"name": "torch.optim:Adamax", "lr": 0.1, "betas": [0.6, 0.99]}), ())
    state = optimizer.state[weight]
    assert torch.allclose(state["exp_avg"] / (1 - 0.6 ** float(state["step"])), before, rtol=1e-6)


def test_nadam_corrects_by_a_product_of_its_own_and_its_average_stays() -> None:
    weight = nn.Parameter(torch.zeros(2, dtype=torch.float64))
    optimizer = build_optimizer({"w": weight}, {"name": "torch.optim:NAdam", "lr": 0.1})
    for _ in range(3):
        weight.grad = torch.tensor([3.0, -0.5], dtype=torch.float64)
        optimizer.step()
    state = optimizer.state[weight]
    before = {key: state[key].clone() for key in ("exp_avg", "exp_avg_sq", "mu_product")}
    set_constants(optimizer, phase({"name": "torch.optim:NAdam", "lr": 0.1, "betas": [0.6, 0.996]}), ())
    assert all(torch.equal(state[key], value) for key, value in before.items())
    assert 0.996 ** float(state["step"]) == pytest.approx(0.999**3, rel=1e-6)


def test_a_first_beta_that_the_schedule_moves_is_left_to_it() -> None:
    optimizer = two_groups(1.0, 0.5, name="adam")
    set_lr(optimizer, 0.25, momentum=0.85)
    now = phase({"name": "adam", "lr": 0.1, "betas": [0.9, 0.999]})
    set_constants(optimizer, now, (), cycles_momentum=True)
    assert [group["betas"] for group in optimizer.param_groups] == [(0.85, 0.999)] * 2
    set_constants(optimizer, now, ())
    assert [group["betas"] for group in optimizer.param_groups] == [(0.9, 0.999)] * 2


@pytest.mark.parametrize("name", NAMED_OPTIMIZERS)
def test_the_job_s_options_are_the_class_s_with_its_own_defaults(name: str) -> None:
    own = {"lamb": {"weight_decouple": True, "adam_debias": None}}.get(name, {})  # where we mean the paper's
    known = inspect.signature(optimizer_class(name)).parameters
    for key, value in NAMED_OPTIMIZERS[name].defaults.items():
        default = own[key] if key in own else known[key].default
        assert key in own or default == value, key
    given = {key: parameter for key, parameter in parameters().items() if parameter.ndim == 2 or name != "muon"}
    made = build_optimizer(given, {"name": name, "lr": 0.1, **NAMED_OPTIMIZERS[name].defaults})
    for key, value in NAMED_OPTIMIZERS[name].defaults.items():
        assert made.param_groups[0][key] == value


def test_muon_is_not_built_for_what_is_no_matrix() -> None:
    with pytest.raises(JobFileError) as caught:
        build_optimizer(parameters(), {"name": "muon", "lr": 0.1})
    assert str(caught.value) == (
        "muon trains matrices only, and a has another shape: [2].\n"
        "  Train it with another optimizer: reference.optimizer.fallback, or one of the recipe's optimizers."
    )


def trained(name: str, steps: int, **options: Any) -> tuple[list[nn.Parameter], list[torch.Tensor]]:
    """Return the weights after steps on given gradients, in float64, and the gradients."""
    torch.manual_seed(5)
    weights = [nn.Parameter(torch.randn(3, 4).double()), nn.Parameter(torch.zeros(3).double())]
    values = {"name": name, "lr": 0.01, **NAMED_OPTIMIZERS[name].defaults, **options}
    optimizer = build_optimizer({str(index): weight for index, weight in enumerate(weights)}, values)
    gradients = []
    for _ in range(steps):
        for weight in weights:
            weight.grad = torch.randn(weight.shape).double()
            gradients.append(weight.grad.clone())
        optimizer.step()
    return weights, gradients


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_lamb_is_the_published_formula_but_for_the_moments_start(weight_decay: float) -> None:
    """You et al. 2020: w -= lr * |w| / |u| * u, u = m / (sqrt(v) + eps) + wd * w; the ratio is 1 if a norm is 0.

    The paper divides m and v by their bias corrections; without weight decay the ratio cancels this.
    """
    (found, bias), gradients = trained("lamb", 3, weight_decay=weight_decay)
    starts, _ = trained("lamb", 0)
    for weight, index, result in ((starts[0], 0, found), (starts[1], 1, bias)):
        w, m, v = weight.detach().clone(), torch.zeros_like(weight), torch.zeros_like(weight)
        ratios = []
        for gradient in gradients[index::2]:
            m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
            update = m / (v.sqrt() + 1e-6) + weight_decay * w
            trust = float(w.norm() / (update.norm() + 1e-6)) if w.norm() > 0 and update.norm() > 0 else 1.0
            ratios.append(trust)
            w = w - 0.01 * trust * update
        assert torch.allclose(result, w, rtol=1e-12)
        assert (ratios[0] == 1.0) == (index == 1), "the bias begins at 0"


def test_lamb_without_weight_decay_takes_the_paper_s_first_step() -> None:
    (found, _), gradients = trained("lamb", 1)
    start = trained("lamb", 0)[0][0].detach()
    update = gradients[0] / (gradients[0].abs() + 1e-6)  # corrected for their start, m is g and v is g ** 2
    expected = start - 0.01 * start.norm() / update.norm() * update
    assert torch.allclose(found, expected, rtol=1e-5)


def lars_step(scale: float, **options: Any) -> torch.Tensor:
    weight = nn.Parameter(torch.arange(1.0, 7.0, dtype=torch.float64).reshape(2, 3))
    values = {"name": "lars", "lr": 0.1, **NAMED_OPTIMIZERS["lars"].defaults, **options}
    optimizer = build_optimizer({"w": weight}, values)
    weight.grad = scale * torch.tensor([[1.0, -2.0, 0.5], [0.0, 3.0, 1.0]], dtype=torch.float64)
    optimizer.step()
    return weight.detach()


def test_lars_takes_the_same_first_step_whatever_the_gradient_s_length() -> None:
    assert torch.allclose(lars_step(1.0), lars_step(1000.0), rtol=1e-12)
    assert not torch.allclose(lars_step(1.0, weight_decay=1.0), lars_step(1000.0, weight_decay=1.0), rtol=1e-6)


def test_lars_is_the_published_formula() -> None:
    """You et al. 2017: v = m * v + lr * trust * |w| / (|g| + wd * |w|) * (g + wd * w)."""
    weight = torch.arange(1.0, 7.0, dtype=torch.float64).reshape(2, 3)
    gradient = torch.tensor([[1.0, -2.0, 0.5], [0.0, 3.0, 1.0]], dtype=torch.float64)
    ratio = 0.02 * weight.norm() / (gradient.norm() + 0.3 * weight.norm())
    expected = weight - 0.1 * ratio * (gradient + 0.3 * weight)
    assert torch.allclose(lars_step(1.0, weight_decay=0.3, trust_coefficient=0.02), expected, rtol=1e-12)


LRS = {"lars": 0.5, "lamb": 0.02, "lion": 0.003, "prodigy": 1.0, "schedulefree_sgd": 0.5, "schedulefree_adamw": 0.02}


def library_job(name: str, **others: Any) -> Any:
    given = {"per_worker_batch_size": 32, "rule": "none", "train": {"epochs": 4}, "schedule": CONSTANT, **others}
    own = {"trust_coefficient": 0.05} if name == "lars" else {}
    return make_job(reference={"lr": LRS[name], "optimizer": {"name": name, **own}}, **given)


@pytest.mark.parametrize("name", FROM_PACKAGE)
def test_each_optimizer_of_the_package_trains_and_uses_the_planned_lr(tmp_path: Path, name: str) -> None:
    ranks = run(tmp_path, 1, library_job(name))
    losses = step_losses(ranks)
    assert sum(losses[-4:]) < 0.8 * sum(losses[:4])
    assert {record.lr for record in records_of(ranks)} == {LRS[name]}


@pytest.mark.parametrize("name", FROM_PACKAGE)
def test_two_workers_hold_the_same_bits_and_one_worker_s_weights(tmp_path: Path, name: str) -> None:
    short = {"epochs": 1}
    one = run(tmp_path, 1, library_job(name, train=short), double=True)[0]
    two = run(tmp_path, 2, library_job(name, train=short, num_workers=2, per_worker_batch_size=16), double=True)
    assert two[0]["weights"] == two[1]["weights"]
    assert two[0]["weights"] == pytest.approx(one["weights"], abs=1e-6)


@pytest.mark.parametrize("name", FROM_PACKAGE)
def test_its_state_comes_back_from_a_checkpoint_to_the_last_bit(tmp_path: Path, name: str) -> None:
    """Schedule-free's two points are exchanged for a checkpoint and back, which rounds: see below."""
    job = library_job(name, train={"epochs": 1})
    folder = new_folder(tmp_path)
    (calm,) = run(tmp_path, 1, job, folder=folder)
    stopped = run_in_attempts(tmp_path, job)
    if name in SCHEDULE_FREE:
        assert stopped["weights"] == pytest.approx(calm["weights"], abs=1e-5)
    else:
        assert stopped["weights"] == calm["weights"]
        assert untimed(stopped) == untimed(calm)
        ours, theirs = checkpoint(stopped["folder"])["optimizer"], checkpoint(folder)["optimizer"]
        assert plain(ours) == plain(theirs)


@pytest.mark.parametrize("name", FROM_PACKAGE)
def test_what_is_saved_is_what_is_loaded(tmp_path: Path, name: str) -> None:
    job = library_job(name, train={"epochs": 2}, checkpoint={"every": {"samples": 40}, "keep": 99})
    seed_everything(0)
    assert in_this_process(tmp_path, make_recipe(), job)[0].run() is AttemptEnd.FINISHED
    for samples, saved in list(checkpoints(tmp_path).items())[:3]:
        recipe = make_recipe()
        again, _ = in_this_process(tmp_path, recipe, job)
        again.restore(samples)
        assert plain(again._stepper.optimizers[None].optimizer.state_dict()) == plain(saved["optimizer"])
        assert weights_of(recipe.model) == torch.cat([value.flatten() for value in saved["model"].values()]).tolist()


@pytest.mark.parametrize("name", SCHEDULE_FREE)
def test_schedule_free_is_evaluated_and_saved_at_its_average_and_trains_elsewhere(tmp_path: Path, name: str) -> None:
    """x is evaluated, and gradients are computed at y; y lies between x and z: y = b * x + (1 - b) * z."""
    held = []
    recipe = make_recipe()

    def look(model: nn.Module, batch: Any) -> dict[str, float]:
        held.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
        return {"nothing": 0.0}

    job = library_job(name, train={"epochs": 2}, checkpoint={"every": {"epochs": 1}, "keep": 9})
    training, _ = in_this_process(tmp_path, replace(recipe, evaluate=look), job)
    training.run()
    between, end = checkpoints(tmp_path).values()
    evaluations = [held[6], held[-1]]  # six batches were tried out before the first step

    def points(saved: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        model = torch.cat([value.flatten() for value in saved["model"].values()])
        return model, torch.cat([state["z"].flatten() for state in saved["optimizer"]["state"].values()])

    y, z = points(between)
    assert torch.allclose(y, 0.9 * evaluations[0] + 0.1 * z, atol=1e-6), "between evaluations it continues at y"
    assert not torch.allclose(y, evaluations[0], atol=1e-4)
    x, _ = points(end)
    assert torch.equal(x, evaluations[1]), "at the end it stays at x"
    assert torch.equal(torch.tensor(weights_of(recipe.model)), x)


@pytest.mark.parametrize("name", SCHEDULE_FREE)
def test_an_average_of_schedule_free_s_training_point_is_refused(tmp_path: Path, name: str) -> None:
    job = library_job(name, train={"epochs": 2, "ema": {"decay": 0.9}})
    with pytest.raises(JobFileError) as caught:
        in_this_process(tmp_path, make_recipe(), job)
    assert str(caught.value) == (
        f"train.ema averages the weights, but {name} already averages them itself.\n"
        "  Leave out train.ema; evaluations and checkpoints use the optimizer's own average."
    )


def test_a_cycle_of_a_momentum_that_the_optimizer_lacks_is_refused(tmp_path: Path) -> None:
    schedule = {"name": "one_cycle", "low_momentum": 0.85, "high_momentum": 0.95}
    job = make_job(
        per_worker_batch_size=16,
        schedule=schedule,
        reference={"lr": 0.01, "optimizer": {"name": "pytorch_optimizer:FTRL"}},
        rule="sqrt",
    )
    with pytest.raises(JobFileError) as caught:
        in_this_process(tmp_path, make_recipe(), job)
    assert str(caught.value) == (
        "schedule.low_momentum moves the momentum, but pytorch_optimizer:FTRL has none.\n"
        "  Leave out low_momentum and high_momentum, or use another optimizer."
    )
    has_one = make_job(
        per_worker_batch_size=16,
        schedule=schedule,
        reference={"lr": 0.01, "optimizer": {"name": "torch.optim:NAdam"}},
        rule="sqrt",
        train={"epochs": 1},
    )
    training, _ = in_this_process(tmp_path, make_recipe(), has_one)
    assert training.run() is AttemptEnd.FINISHED


@pytest.mark.parametrize("name", SCHEDULE_FREE)
def test_a_longer_training_continues_from_schedule_free_s_end(tmp_path: Path, name: str) -> None:
    """The end's checkpoint holds x; training continues at the point where gradients are computed."""
    run(tmp_path, 1, library_job(name, train={"epochs": 1}), folder=tmp_path)
    recipe = make_recipe()
    training, _ = in_this_process(tmp_path, recipe, library_job(name, train={"epochs": 2}))
    saved = checkpoint(tmp_path)
    training.restore(250)
    x = torch.cat([value.flatten() for value in saved["model"].values()])
    z = torch.cat([state["z"].flatten() for state in saved["optimizer"]["state"].values()])
    assert torch.allclose(torch.tensor(weights_of(recipe.model)), 0.9 * x + 0.1 * z, atol=1e-6)
    assert not torch.allclose(x, z, atol=1e-3)
    assert training.run() is AttemptEnd.FINISHED


def schedule_free_average(optimizer: torch.optim.Optimizer, weight: nn.Parameter) -> torch.Tensor:
    set_mode(optimizer, training=False)
    x = weight.detach().clone()
    set_mode(optimizer, training=True)
    return x


def test_a_change_of_beta_leaves_schedule_free_s_average_where_it_is() -> None:
    """It moves the point where gradients are computed, which the first beta places between the two others."""
    weight = nn.Parameter(torch.tensor([[1.0, -2.0]], dtype=torch.float64))
    optimizer = build_optimizer({"w": weight}, {"name": "schedulefree_adamw", "lr": 0.1})
    for _ in range(5):
        weight.grad = torch.tensor([[1.0, 0.5]], dtype=torch.float64)
        optimizer.step()
    before, z = schedule_free_average(optimizer, weight), optimizer.state[weight]["z"].clone()
    set_constants(optimizer, phase({"name": "schedulefree_adamw", "lr": 0.1, "betas": [0.6, 0.996]}), ())
    assert torch.allclose(schedule_free_average(optimizer, weight), before, rtol=1e-12)
    assert torch.allclose(weight, 0.6 * before + 0.4 * z, rtol=1e-12)
    assert 0.996 ** optimizer.param_groups[0]["step"] == pytest.approx(0.999**5), "its count is the group's"


def test_a_missing_package_is_named_with_what_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pytorch_optimizer", None)  # as python has it for what cannot be imported
    with pytest.raises(JobFileError) as caught:
        build_optimizer(parameters(), {"name": "lamb", "lr": 0.1})
    assert str(caught.value) == (
        "reference.optimizer: lamb cannot be imported: import of pytorch_optimizer halted; None in sys.modules.\n"
        "  pip install scaler[optimizers]."
    )


def test_one_lr_for_all_refuses_ratios() -> None:
    with pytest.raises(JobFileError) as caught:
        two_groups(1.0, 0.5, name="prodigy")
    assert str(caught.value) == (
        "groups and layer_decay give parameters a lr_ratio, but prodigy has one learning rate for all.\n"
        "  Leave lr_ratio and layer_decay out, or use another optimizer."
    )
    assert len(two_groups(1.0, 1.0, name="prodigy").param_groups) == 2


@pytest.mark.parametrize("path", ["pytorch_optimizer:Lion", "pytorch_optimizer:ScheduleFreeSGD"])
def test_a_key_that_a_class_would_swallow_is_refused(path: str) -> None:
    """These take ``**kwargs``, so a misspelt key would have no effect."""
    kind = getattr(importlib.import_module("pytorch_optimizer"), path.partition(":")[2])
    assert any(parameter.kind is parameter.VAR_KEYWORD for parameter in inspect.signature(kind).parameters.values())
    with pytest.raises(JobFileError) as caught:
        build_optimizer(parameters(), {"name": path, "lr": 0.1, "wieght_decay": 0.1})
    names = [name for name in inspect.signature(kind).parameters if name not in ("params", "kwargs")]
    assert str(caught.value) == (
        f'reference.optimizer has the key "wieght_decay", which {path} does not take.\n  It takes {", ".join(names)}.'
    )
    assert build_optimizer(parameters(), {"name": path, "lr": 0.1, "weight_decay": 0.1}).defaults["weight_decay"] == 0.1


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (
            {"name": "torch.optim:Nope", "lr": 0.1},
            "reference.optimizer: torch.optim:Nope is not a torch optimizer.\n  Use torch.optim:NAdam or the like.",
        ),
        (
            {"name": "no_such_package:Muon", "lr": 0.1},
            "reference.optimizer: no_such_package:Muon cannot be imported: No module named 'no_such_package'.\n"
            "  Install it, or correct the name.",
        ),
        (
            {"name": "sgd", "lr": 0.1, "nesterov": True},
            "reference.optimizer: sgd does not take its keys: Nesterov momentum requires a momentum and zero "
            "dampening.\n"
            "  They are {'lr': 0.1, 'nesterov': True}.",
        ),
        (
            {"name": "torch.optim:Rprop", "lr": 0.1, "etas": [0.5, 1.2], "beta": 1},
            'reference.optimizer has the key "beta", which torch.optim:Rprop does not take.\n'
            "  It takes lr, etas, step_sizes, capturable, foreach, maximize, differentiable.",
        ),
    ],
)
def test_the_whole_text_of_each_refusal(options: dict[str, object], text: str) -> None:
    with pytest.raises(JobFileError) as caught:
        build_optimizer(parameters(), options)
    assert str(caught.value) == text
