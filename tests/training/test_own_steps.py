"""Recipes with a step of their own and several optimizers: the same on any number of workers, resumed, and refused."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from groups import run_group
from small_runs import (
    NEVER_STOP,
    EveryStep,
    Kept,
    by_step,
    events_of,
    make_job,
    new_folder,
    records_of,
    shapes_of,
    weights_of,
)
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, mse_loss
from torch.utils.data import TensorDataset

import scaler
from scaler.errors import PlanError, RecipeError, ScalerError
from scaler.job import Job, load_job, parse_job
from scaler.metrics.events import Evaluated
from scaler.plan import make_plan
from scaler.training.checkpoints.files import find_checkpoint
from scaler.training.loop import Training
from scaler.training.randomness import seed_everything
from scaler.training.recipe.check import checked_recipe
from scaler.training.recipe.load import load_recipe
from scaler.training.worker_context import AttemptEnd

SAMPLES = 50  # in steps of 16: the last has 2


class Gan(nn.Module):
    """A generator and a discriminator of points, in float64 so that numbers of workers can be compared."""

    def __init__(self) -> None:
        super().__init__()
        self.g = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 3)).double()
        self.d = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1)).double()


def data(dtype: torch.dtype = torch.float64) -> TensorDataset:
    generator = torch.Generator().manual_seed(1)
    tensors = [torch.randn(SAMPLES, size, generator=generator, dtype=torch.float64) for size in (3, 2)]
    return TensorDataset(*(tensor.to(dtype) for tensor in tensors))


def real_or_fake(logits: Tensor, *, real: bool) -> Tensor:
    return binary_cross_entropy_with_logits(logits, torch.full_like(logits, float(real)))


def gan_step(context: scaler.StepContext, batch: tuple[Tensor, Tensor]) -> dict[str, Any]:
    """A step of DCGAN: two backwards of the discriminator, then the generator. Its noise is a part of the data."""
    real, noise = batch
    model = context.model
    fake = model.g(noise)
    d_loss = real_or_fake(model.d(real), real=True)
    context.backward(d_loss, "d")
    d_fake = real_or_fake(model.d(fake.detach()), real=False)
    context.backward(d_fake, "d")
    context.step("d")
    g_loss = real_or_fake(model.d(fake), real=True)
    context.backward(g_loss, "g")
    context.step("g")
    return {"loss": g_loss, "d_loss": d_loss + d_fake, "norm": (real.square().sum(), real.numel()), "one": 1}


def critics_step(context: scaler.StepContext, batch: tuple[Tensor, Tensor]) -> None:
    """Two steps of the critic, and one of the generator."""
    real, noise = batch
    for _ in range(2):
        context.backward(context.model.d(context.model.g(noise).detach()).mean() - context.model.d(real).mean(), "d")
        context.step("d")
    context.backward(-context.model.d(context.model.g(noise)).mean(), "g")
    context.step("g")


def joint_step(context: scaler.StepContext, batch: tuple[Tensor, Tensor]) -> None:
    """An autoencoder whose halves have an optimizer each: one loss for both, as a sum over values."""
    target, noise = batch
    made = context.model.g(context.model.d(target) * noise)
    weight = (target > 0).sum()
    context.backward(((made - target)[target > 0].square().sum(), weight))
    context.step()


def ppo_step(context: scaler.StepContext, batch: tuple[Tensor, Tensor]) -> dict[str, Any]:
    """Several epochs over what an old policy has collected, with a clipped ratio; actor and critic."""
    observed, action = batch
    with torch.no_grad():
        old = -(context.model.g(action) - observed).square().sum(1)
        advantage = observed.sum(1) - context.model.d(observed)[:, 0]
    for _ in range(3):
        ratio = (-(context.model.g(action) - observed).square().sum(1) - old).exp()
        clipped = torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage)
        context.backward(-clipped.mean(), "g")
        context.backward(mse_loss(context.model.d(observed)[:, 0], observed.sum(1)), "d")
        context.step()
    return {"advantage": advantage.mean()}


def double_step(context: scaler.StepContext, batch: tuple[Tensor, Tensor]) -> None:
    """A gradient penalty (WGAN-GP): the loss has a gradient in it."""
    real, noise = batch
    model = context.model
    real = real.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(model.d(real).sum(), real, create_graph=True)
    context.backward((gradient.norm(dim=1) - 1).square().mean() - model.d(real).mean(), "d")
    context.step("d")
    context.backward(-model.d(model.g(noise)).mean(), "g")
    context.step("g")


STEPS: Mapping[str, Callable[..., Any]] = {
    "gan": gan_step,
    "critics": critics_step,
    "joint": joint_step,
    "ppo": ppo_step,
    "double": double_step,
}


def clamp(model: nn.Module) -> None:
    for parameter in model.d.parameters():  # type: ignore[union-attr]
        parameter.clamp_(-0.4, 0.4)


def make_recipe(
    step: Callable[..., Any] = gan_step, *, dtype: torch.dtype = torch.float64, **changes: Any
) -> scaler.Recipe:
    torch.manual_seed(5)
    model = Gan().to(dtype)
    given = {
        "model": model,
        "train_data": data(dtype),
        "optimizers": {"d": model.d, "g": model.g.parameters()},
        "step": step,
        **changes,
    }
    return checked_recipe(scaler.Recipe(**given), "r:build")


def gan_job(**given: Any) -> Job:
    """A job whose two optimizers differ in learning rate and constants."""
    reference = {
        "global_batch_size": 4,
        "lr": 0.002,
        "optimizer": {"name": "adam", "betas": [0.5, 0.999]},
        "optimizers": {"d": {"lr": 0.01, "optimizer": {"name": "sgd", "momentum": 0.9}}},
        **given.pop("reference", {}),
    }
    train = {"num_samples": SAMPLES, "epochs": 2, **given.pop("train", {})}
    return make_job(**{"global_batch_size": 16, "rule": "auto", **given}, reference=reference, train=train)


class UsedLrs:
    """Notes the learning rates, with the constants, of each optimizer at each of its steps."""

    def __init__(self, training: Training) -> None:
        self.of: dict[str, list[tuple[float, Any]]] = {}
        for name, optimizer in training._stepper.optimizers.items():
            noted = self.of.setdefault(str(name), [])
            optimizer.optimizer.register_step_pre_hook(lambda made, *_, noted=noted: noted.append(self._now(made)))

    @staticmethod
    def _now(optimizer: torch.optim.Optimizer) -> tuple[float, Any]:
        (group,) = optimizer.param_groups
        return group["lr"], group.get("betas", group.get("momentum"))


def train(rank: int, world_size: int, folder: str, values: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    """Train one rank; resumes from the newest checkpoint. Returns what a test may check."""
    torch.set_num_threads(1)
    job = parse_job(values, source="job")
    seed_everything(job.train.seed)
    recipe = make_recipe(
        STEPS[options.get("step", "gan")],
        dtype=torch.float32 if options.get("single") else torch.float64,
        after_step=clamp if options.get("clamps") else None,
    )
    stop_after = options.get("stop_after", NEVER_STOP)
    around = Kept(rank, world_size, folder, stop_after=stop_after)
    training = Training(recipe, job, make_plan(job, world_size, parameters=shapes_of(recipe)), around)
    lrs = UsedLrs(training)
    if stop_after != NEVER_STOP:
        training._hand_over.interval = EveryStep()
    saved, _ = find_checkpoint(around.folder)
    if saved is not None:
        training.restore(saved)
    error = None
    try:
        assert training.run() is AttemptEnd.FINISHED or stop_after != NEVER_STOP
    except ScalerError as raised:
        error = str(raised)
    average = training._stepper.average
    return {
        "error": error,
        "records": [tuple(record) for record in around.records],
        "events": around.events,
        "weights": weights_of(recipe.model),
        "average": weights_of(average.model) if average is not None else None,
        "lrs": lrs.of,
    }


def run(
    tmp_path: Path, world_size: int, job: Job, *, folder: Path | None = None, **options: Any
) -> list[dict[str, Any]]:
    arguments = (str(folder or new_folder(tmp_path)), job.model_dump(), options)
    ranks = [train(0, 1, *arguments)] if world_size == 1 else run_group(train, world_size, *arguments)
    assert [rank["error"] for rank in ranks] == [None] * world_size
    return ranks


def recorded(ranks: list[dict[str, Any]]) -> dict[str, float]:
    """The weighted mean of each recorded value over the whole run."""
    sums: dict[str, list[float]] = {}
    for event in [event for rank in ranks for event in events_of(rank, "recorded")]:
        for name, value in event.values.items():
            mine = sums.setdefault(name, [0.0, 0.0])
            mine[0] += value * event.weights[name]
            mine[1] += event.weights[name]
    return {name: total / weight for name, (total, weight) in sums.items()}


@pytest.mark.parametrize("step", STEPS)
def test_a_step_of_ones_own_trains_the_same_on_any_number_of_workers(tmp_path: Path, step: str) -> None:
    """50 samples in steps of 16, on 1 and on 3 workers: shares of 6, 5 and 5; the last has 2, and rank 2 none."""
    job = gan_job(train={"clip_grad_norm": 0.5, "ema": {"decay": 0.9}})
    one, three = (run(tmp_path, size, job, step=step, clamps=True) for size in (1, 3))
    for rank in three:
        assert rank["weights"] == pytest.approx(one[0]["weights"], rel=1e-9, abs=1e-12)
        assert rank["average"] == pytest.approx(one[0]["average"], rel=1e-9, abs=1e-12)
        assert rank["lrs"] == one[0]["lrs"]
    for mine, theirs in zip(by_step(one), by_step(three), strict=True):
        samples = sum(record.samples for record in theirs)
        loss = sum(record.loss * record.samples for record in theirs if record.loss is not None)
        assert loss / samples == pytest.approx(mine[0].loss, rel=1e-9), "the mean over workers is the loss of all"
        assert [record.grad_norm for record in theirs] == pytest.approx([mine[0].grad_norm] * 3, rel=1e-6)
    assert recorded(three) == pytest.approx(recorded(one), rel=1e-9)


def test_each_optimizer_has_its_own_learning_rate_and_constants_in_every_step(tmp_path: Path) -> None:
    """SGD follows the linear rule and Adam the root, at a batch 4 times the reference's; a short step its own size."""
    job = gan_job()
    (rank,) = run(tmp_path, 1, job, step="critics")
    plan = make_plan(job, 1)
    own = plan.optimizers[0]
    assert (plan.rule, plan.peak_lr) == ("sqrt", 0.002 * 2)
    assert (own.scaling.rule.name, own.peak_lr) == ("linear", pytest.approx(0.01 * 4))
    records = records_of([rank])
    assert len(records) == 8
    short = {"g": (2 / 4) ** 0.5, "d": 2 / 4}  # the last step of an epoch has 2 samples
    for index, record in enumerate(records):
        assert record.lr == record.lr_planned
        share = plan.schedule.factor(record.samples_seen)
        is_short = record.samples == 2
        d = 0.01 * (short["d"] if is_short else 4.0) * share
        assert [lr for lr, _ in rank["lrs"]["d"][2 * index : 2 * index + 2]] == pytest.approx([d, d], rel=1e-12)
        g = 0.002 * (short["g"] if is_short else 2.0) * share
        assert rank["lrs"]["g"][index][0] == pytest.approx(g, rel=1e-12)
    betas = [constants for _, constants in rank["lrs"]["g"]]
    assert set(betas[:3]) == {(0.5, 0.999)}
    assert betas[3] == pytest.approx((0.5 ** (2 / 16), 0.999 ** (2 / 16))), "a short step is a share of a whole one"
    assert {constants for _, constants in rank["lrs"]["d"]} == {0.9}


def test_an_optimizer_without_an_entry_has_the_reference(tmp_path: Path) -> None:
    job = gan_job(reference={"optimizers": {}})
    (rank,) = run(tmp_path, 1, job)
    assert rank["lrs"]["d"] == rank["lrs"]["g"]
    assert [lr for lr, _ in rank["lrs"]["g"]] == [record.lr for record in records_of([rank])]


@pytest.mark.parametrize(("first", "then"), [(1, 1), (1, 2), (2, 1)])
def test_a_resume_in_the_middle_continues_every_optimizer(tmp_path: Path, first: int, then: int) -> None:
    """Stopped after 3 steps, in the warmup, and resumed on another number of workers: as if never stopped."""
    job = gan_job(train={"ema": {"decay": 0.9}}, on_resize="scale_with_batch")
    (whole,) = run(tmp_path, 1, job)
    folder = new_folder(tmp_path)
    before = run(tmp_path, first, job, folder=folder, stop_after=3)
    assert [record.step for record in records_of(before[:1])] == [0, 1, 2]
    after = run(tmp_path, then, job, folder=folder)
    assert after[0]["weights"] == pytest.approx(whole["weights"], rel=1e-9, abs=1e-12)
    assert after[0]["average"] == pytest.approx(whole["average"], rel=1e-9, abs=1e-12)
    for name in ("d", "g"):
        assert before[0]["lrs"][name] + after[0]["lrs"][name] == whole["lrs"][name]
    if first == then == 1:
        assert after[0]["weights"] == whole["weights"]


@pytest.mark.parametrize("step", ["joint", "critics"])
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_step_of_ones_own_runs_in_another_precision(tmp_path: Path, precision: str, step: str) -> None:
    """fp16 has a loss scaler for each optimizer: also where they share a loss, or one steps twice on a batch."""
    job = gan_job(train={"precision": precision, "epochs": 1})
    (full,) = run(tmp_path, 1, gan_job(train={"epochs": 1}), step=step, single=True)
    half, *_ = run(tmp_path, 2, job, step=step, single=True)
    assert half["weights"] == pytest.approx(full["weights"], abs=0.02)
    assert half["weights"] != full["weights"]
    assert [record.grad_norm for record in records_of([half])] == pytest.approx(
        [record.grad_norm for record in records_of([full])],
        rel=0.15,  # a gradient that is still scaled is 65536 times as long
    )


def test_groups_apply_inside_each_optimizer(tmp_path: Path) -> None:
    """The last layer of the generator at a tenth; the discriminator's first frozen for an epoch."""
    job = gan_job(
        groups=[{"match": "g.2.*", "lr_ratio": 0.1}, {"match": "d.*", "freeze": {"epochs": 1}}],
        reference={"optimizers": {}},
    )
    torch.set_num_threads(1)
    recipe = make_recipe()
    start = weights_of(recipe.model.d)  # type: ignore[arg-type]
    seen: list[tuple[list[float], bool]] = []

    def note(model: nn.Module) -> None:
        groups = training._stepper.optimizers["g"].optimizer.param_groups
        seen.append(([group["lr"] for group in groups], weights_of(model.d) == start))  # type: ignore[arg-type]

    recipe = make_recipe(after_step=note)
    training = Training(recipe, job, make_plan(job, 1, parameters=shapes_of(recipe)), Kept(0, 1, str(tmp_path)))
    training.run()
    assert all(lrs == pytest.approx([lrs[0], lrs[0] * 0.1]) for lrs, _ in seen)
    assert [is_frozen for _, is_frozen in seen] == [True] * 4 + [False] * 4


def test_after_step_is_called_once_after_each_step_and_may_change_weights_and_buffers(tmp_path: Path) -> None:
    """A target network of one's own: a slow copy that is in the model, and so in every checkpoint."""
    torch.set_num_threads(1)

    class WithTarget(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Linear(3, 1).double()
            self.register_buffer("target", torch.zeros(1, 3, dtype=torch.float64))

    def follow(model: nn.Module) -> None:
        model.target.lerp_(model.net.weight, 0.5)  # type: ignore[union-attr,operator]

    def recipe() -> scaler.Recipe:
        torch.manual_seed(2)
        return scaler.Recipe(
            model=WithTarget(),
            train_data=data(),
            loss=lambda model, batch: (model.net(batch[0]) - batch[0] @ model.target.T).square().mean(),
            after_step=follow,
        )

    job = gan_job(reference={"optimizers": {}})

    def trained(folder: Path, **options: Any) -> nn.Module:
        found = recipe()
        around = Kept(0, 1, str(folder), **options)
        training = Training(found, job, make_plan(job, 1), around)
        training._hand_over.interval = EveryStep()
        saved, _ = find_checkpoint(around.folder)
        if saved is not None:
            training.restore(saved)
        training.run()
        return found.model

    whole = trained(new_folder(tmp_path))
    assert whole.target.abs().sum() > 0  # type: ignore[union-attr,operator]
    folder = new_folder(tmp_path)
    trained(folder, stop_after=3)
    resumed = trained(folder)
    assert torch.equal(resumed.target, whole.target)  # type: ignore[arg-type]
    assert weights_of(resumed) == weights_of(whole)


def one_step(step: Callable[..., Any], tmp_path: Path, **scale: Any) -> str:
    """Return the error of a training with this step."""
    torch.set_num_threads(1)
    recipe = make_recipe(step)
    job = gan_job(**scale)
    with pytest.raises((RecipeError, PlanError)) as caught:
        Training(recipe, job, make_plan(job, 1, parameters=shapes_of(recipe)), Kept(0, 1, str(tmp_path))).run()
    return str(caught.value)


def d_of(context: scaler.StepContext, batch: Any) -> Tensor:
    return context.model.d(batch[0]).mean()


def ends_with_a_gradient(context: scaler.StepContext, batch: Any) -> None:
    context.backward(d_of(context, batch), "d")
    context.step("d")
    context.backward(d_of(context, batch), "d")


def bypasses(context: scaler.StepContext, batch: Any) -> None:
    d_of(context, batch).backward()
    context.backward(d_of(context, batch), "d")


def returns(value: Any) -> Callable[..., Any]:
    def step(context: scaler.StepContext, batch: Any) -> Any:
        context.backward(d_of(context, batch), "d")
        context.step("d")
        return value

    return step


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (
            lambda context, batch: context.backward(d_of(context, batch), "e"),
            "context.backward: the recipe has no optimizer 'e'.\n  Known: d, g.",
        ),
        (
            lambda context, batch: context.step("D"),
            "context.step: the recipe has no optimizer 'D'.\n  Did you mean \"d\"? Known: d, g.",
        ),
        (
            lambda context, batch: context.step("d"),
            "context.step('d') was called, and no context.backward before it gave d a gradient.\n"
            "  Call context.backward(loss, 'd') first.",
        ),
        (
            lambda context, batch: None,
            "step(context, batch) took no step of an optimizer.\n  Call context.step, such as context.step('d').",
        ),
        (
            ends_with_a_gradient,
            "step(context, batch) ended with a gradient of d that no context.step('d') used.\n"
            "  Gradients are not kept for the next batch: step the optimizer in the same call.",
        ),
        (
            bypasses,
            "a parameter of d has a gradient that context.backward did not compute.\n"
            "  Call context.backward(loss, 'd') instead of loss.backward().",
        ),
        (
            lambda context, batch: context.backward(batch[0].mean(), "d"),
            "context.backward was given a tensor without a gradient.\n  Compute it from the model's output.",
        ),
        (
            lambda context, batch: context.backward(d_of(context, batch), "g"),
            "context.backward(loss, 'g'): the loss does not depend on a parameter of g.\n"
            "  Compute it from context.model, without detach() or no_grad() on the way.",
        ),
        (
            lambda context, batch: context.backward(context.model.d(batch[0]), "d"),
            "context.backward was given a tensor of shape (16, 1).\n"
            "  Return a scalar tensor, (sum, weight), or a dict of these.",
        ),
        (
            lambda context, batch: context.backward((d_of(context, batch), 0.0), "d"),
            "the loss's weight over the whole batch = 0.\n  (sum, weight) needs a weight above 0.",
        ),
        (
            returns(3.0),
            "step(context, batch) returned a float.\n  Return a dict of values to record, or None.",
        ),
        (
            returns({"accuracy": "high"}),
            "step(context, batch) returned accuracy = a str.\n"
            "  A value to record is a number: a mean over the samples, or (sum, weight).",
        ),
    ],
)
def test_wrong_use_of_the_context_is_an_error(tmp_path: Path, step: Callable[..., Any], message: str) -> None:
    assert one_step(step, tmp_path) == message


def test_a_step_in_micro_batches_is_refused(tmp_path: Path) -> None:
    assert one_step(gan_step, tmp_path, per_worker_batch_size=8) == (
        "the recipe has step, and a step of the plan has 2 micro-batches on a worker: step gets a worker's whole share "
        "of the batch at once.\n"
        "  Use scale.grad_accum_steps: 1 and a per_worker_batch_size of at least a worker's share; step itself may "
        "divide the batch and call context.backward several times."
    )


def test_names_in_the_job_that_the_recipe_does_not_have_are_refused(tmp_path: Path) -> None:
    assert one_step(gan_step, tmp_path, reference={"optimizers": {"dd": {"lr": 0.1}}}) == (
        'reference.optimizers.dd: the recipe has no optimizer dd.\n  Did you mean "d"? Known: d, g.'
    )


def model_with_three() -> nn.ModuleDict:
    return nn.ModuleDict({name: nn.Linear(1, 1) for name in "abc"})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            lambda m: {"optimizers": {"a": m["a"], "b": m["b"]}},
            "r:build: the parameter c.weight is in none of the optimizers a, b.\n"
            "  Add it to one of them, or call parameter.requires_grad_(False) in build().",
        ),
        (
            lambda m: {"optimizers": {"a": m["a"], "rest": m}},
            "r:build: the parameter a.weight is in the optimizers a and rest.\n"
            "  Each parameter belongs to one of them.",
        ),
        (
            lambda m: {"optimizers": {"all": m, "other": nn.Linear(1, 1)}},
            "r:build: optimizers['other'] has a parameter that model does not have.\n"
            "  model must contain everything that is trained, such as nn.ModuleDict({'d': ..., 'g': ...}).",
        ),
        (
            lambda m: {"optimizers": {"all": "adam"}},
            "r:build: optimizers['all'] is a str.\n  Give a module or its parameters. Such as "
            'scaler.Recipe(optimizers={"d": model.discriminator, "g": model.generator}, step=...).',
        ),
        (
            lambda m: {"optimizers": None},
            "r:build: step is given, and optimizers is None.\n  Such as "
            'scaler.Recipe(optimizers={"d": model.discriminator, "g": model.generator}, step=...).',
        ),
        (
            lambda m: {"optimizers": {"all": m}, "step": None, "loss": lambda model, batch: None},
            "r:build: optimizers is given without step.\n  Add step(context, batch), which steps them.",
        ),
        (
            lambda m: {"optimizers": {"all": m}, "loss": lambda model, batch: None},
            "r:build: the recipe has both loss and step.\n  Give loss(model, batch), or step(context, batch).",
        ),
        (
            lambda m: {"step": None},
            "r:build: the recipe has neither loss nor step.\n  Give loss(model, batch), or step(context, batch).",
        ),
        (
            lambda m: {"optimizers": {"all": m}, "eval_data": data()},
            "r:build: eval_data is given without evaluate, and a recipe with step has no loss to evaluate.\n"
            "  Add evaluate.",
        ),
    ],
)
def test_optimizers_that_cannot_train_are_refused(changes: Callable[..., dict[str, Any]], message: str) -> None:
    model = model_with_three()
    given = {"model": model, "train_data": data(), "step": gan_step, **changes(model)}
    with pytest.raises(RecipeError) as caught:
        checked_recipe(scaler.Recipe(**given), "r:build")
    assert str(caught.value) == message


def test_a_parameter_that_is_frozen_needs_no_optimizer() -> None:
    model = model_with_three()
    model["c"].requires_grad_(False)
    recipe = scaler.Recipe(
        model=model, train_data=data(), step=gan_step, optimizers={"a": model["a"], "b": model["b"].parameters()}
    )
    assert list(checked_recipe(recipe, "r:build").optimizers or ()) == ["a", "b"]


@pytest.mark.parametrize(("name", "value", "rises"), [("gan", "distance", False), ("contrastive", "found", True)])
def test_the_jobs_learn(tmp_path: Path, name: str, value: str, rises: bool) -> None:
    """Some epochs of each job, in this process: the evaluation is better at the end than after the first epoch."""
    torch.set_num_threads(1)
    folder = Path(__file__).parents[2] / "jobs" / name
    job = load_job(folder / "job.yaml", overrides=["train.epochs=4", "train.eval_every={epochs: 1}"], workers=1)
    seed_everything(job.train.seed)
    recipe = load_recipe(job.recipe_function, folder=folder, arguments=job.recipe_args)
    around = Kept(0, 1, str(tmp_path))
    Training(recipe, job, make_plan(job, 1), around).run()
    values = [event.values[value] for event in around.events if isinstance(event, Evaluated)]
    assert len(values) == 4
    assert values[-1] > 1.2 * values[0] if rises else values[-1] < 0.8 * values[0]
