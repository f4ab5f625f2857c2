"""Optimizers that share the parameters of a recipe: torch's own, stepped together, on any number of workers."""

import json
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
    make_job,
    new_folder,
    plain,
    records_of,
    weights_of,
)
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import TensorDataset

import scaler
from scaler.errors import RecipeError
from scaler.job import Job, load_job, parse_job
from scaler.plan import Plan, make_plan
from scaler.training.checkpoints.files import find_checkpoint
from scaler.training.loop import Training
from scaler.training.model.kinds import parameter_kinds
from scaler.training.optimizer.joint import JointOptimizers
from scaler.training.optimizer.scaled import ScaledOptimizer
from scaler.training.randomness import seed_everything
from scaler.training.recipe.check import checked_recipe
from scaler.training.worker_context import AttemptEnd

JOBS = Path(__file__).parents[2] / "jobs"
SAMPLES = 50  # in steps of 16: the last has 2
MATRICES = ["body.0.weight", "body.2.weight"]


class Words(nn.Module):
    """Tokens to a class: an embedding, two matrices with biases, a norm, and a head whose weight is tied if wanted."""

    def __init__(self, *, tied: bool = False) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 6)
        self.body = nn.Sequential(nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, 6), nn.LayerNorm(6))
        self.head = nn.Linear(6, 7)
        if tied:
            self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.body(self.embed(tokens).mean(1)))


def make_recipe(dtype: torch.dtype = torch.float64, **changes: Any) -> scaler.Recipe:
    torch.manual_seed(5)
    generator = torch.Generator().manual_seed(1)
    tokens, labels = torch.randint(7, (SAMPLES, 3), generator=generator), torch.arange(SAMPLES) % 7
    model = changes.pop("model", None) or Words()
    given = {
        "model": model.to(dtype),
        "train_data": TensorDataset(tokens, labels),
        "loss": lambda model, batch: cross_entropy(model(batch[0]), batch[1]),
        **changes,
    }
    return checked_recipe(scaler.Recipe(**given), "r:build")


MUON = {"name": "muon", "fallback": {"name": "adamw", "lr": 0.003, "betas": [0.9, 0.99], "match": ["head.*"]}}


def muon_job(**given: Any) -> Job:
    """Muon at four times the batch of its reference, with AdamW beside it."""
    reference = {"global_batch_size": 4, "lr": 0.02, "optimizer": MUON, **given.pop("reference", {})}
    train = {"num_samples": SAMPLES, "epochs": 2, **given.pop("train", {})}
    return make_job(**{"global_batch_size": 16, "rule": "auto", **given}, reference=reference, train=train)


def plan_of(job: Job, recipe: scaler.Recipe, world_size: int = 1) -> Plan:
    return make_plan(job, world_size, parameters=parameter_kinds(recipe.model))


def train(rank: int, world_size: int, folder: str, values: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    """Train one rank; resumes from the newest checkpoint. Returns what a test may check."""
    torch.set_num_threads(1)
    job = parse_job(values, source="job")
    seed_everything(job.train.seed)
    recipe = make_recipe(options.get("dtype", torch.float64))
    stop_after = options.get("stop_after", NEVER_STOP)
    around = Kept(rank, world_size, folder, stop_after=stop_after)
    training = Training(recipe, job, plan_of(job, recipe, world_size), around)
    if stop_after != NEVER_STOP:
        training._hand_over.interval = EveryStep()
    saved, _ = find_checkpoint(around.folder)
    if saved is not None:
        training.restore(saved)
    assert training.run() is AttemptEnd.FINISHED or stop_after != NEVER_STOP
    average = training._stepper.average
    return {
        "records": [tuple(record) for record in around.records],
        "events": around.events,
        "weights": weights_of(recipe.model),
        "average": weights_of(average.model) if average is not None else None,
        "state": plain(training._stepper.state_dict()["optimizer"]),
    }


def run(tmp_path: Path, world_size: int, job: Job, *, folder: Path | None = None, **options: Any) -> list[Any]:
    arguments = (str(folder or new_folder(tmp_path)), job.model_dump(), options)
    return [train(0, 1, *arguments)] if world_size == 1 else run_group(train, world_size, *arguments)


def trained_with_batches(tmp_path: Path, job: Job, **changes: Any) -> tuple[list[float], list[Any], list[Any]]:
    """Train in this process; return the weights, the batches of the steps, and their records."""
    torch.set_num_threads(1)
    batches: list[Any] = []

    def loss(model: nn.Module, batch: Any) -> Tensor:
        batches.append(batch)
        return cross_entropy(model(batch[0]), batch[1])

    recipe = make_recipe(loss=loss, loss_over="micro_batch", **changes)
    around = Kept(0, 1, str(new_folder(tmp_path)))
    assert Training(recipe, job, plan_of(job, recipe), around).run() is AttemptEnd.FINISHED
    return weights_of(recipe.model), batches, around.records


@pytest.mark.parametrize("most_norm", [None, 0.05])
def test_a_step_is_that_of_torchs_own_two_optimizers(tmp_path: Path, most_norm: float | None) -> None:
    """One gradient, clipped by the norm over both; then Muon and AdamW, each with the learning rate of its own."""
    job = muon_job(train={"clip_grad_norm": most_norm, "last_batch": "drop"})
    found, batches, records = trained_with_batches(tmp_path, job)
    recipe = make_recipe()
    model, plan = recipe.model, plan_of(job, recipe)
    named = dict(model.named_parameters())
    rest = [parameter for name, parameter in named.items() if name not in MATRICES]
    optimizers = [
        (0.02, torch.optim.Muon([named[name] for name in MATRICES])),
        (0.003, torch.optim.AdamW(rest, betas=(0.9, 0.99))),
    ]
    assert len(batches) == len(records) == 6
    for (tokens, labels), record in zip(batches, records, strict=True):
        cross_entropy(model(tokens), labels).backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), most_norm or float("inf"))
        assert record.grad_norm == pytest.approx(float(norm), rel=1e-6)
        for lr, optimizer in optimizers:
            optimizer.param_groups[0]["lr"] = lr * 2.0 * plan.schedule.factor(record.samples_seen)
            optimizer.step()
            optimizer.zero_grad()
        assert record.lr == record.lr_planned
    assert found == pytest.approx(weights_of(model), rel=1e-12, abs=1e-12)


def test_two_workers_train_as_one(tmp_path: Path) -> None:
    """50 samples in steps of 16; the last has 2. Clipped, averaged, with a batch that doubles after an epoch."""
    grows = {"name": "doubling", "every": {"epochs": 1}, "max_global_batch_size": 32}
    job = muon_job(train={"clip_grad_norm": 0.05, "ema": {"decay": 0.9}}, batch_schedule=grows)
    one, two = (run(tmp_path, size, job) for size in (1, 2))
    for rank in two:
        assert rank["weights"] == pytest.approx(one[0]["weights"], rel=1e-12, abs=1e-12)
        assert rank["average"] == pytest.approx(one[0]["average"], rel=1e-12, abs=1e-12)
    for mine, theirs in zip(by_step(one), by_step(two), strict=True):
        assert [record.grad_norm for record in theirs] == pytest.approx([mine[0].grad_norm] * 2, rel=1e-6)
        assert all(record.lr == record.lr_planned == mine[0].lr for record in theirs)


def test_a_step_in_micro_batches_is_a_step(tmp_path: Path) -> None:
    (whole,) = run(tmp_path, 1, muon_job())
    (parts,) = run(tmp_path, 1, muon_job(grad_accum_steps=4))
    assert parts["weights"] == pytest.approx(whole["weights"], rel=1e-12, abs=1e-12)


@pytest.mark.parametrize(("first", "then"), [(1, 1), (1, 2), (2, 1)])
def test_a_resume_in_the_middle_continues_both_optimizers(tmp_path: Path, first: int, then: int) -> None:
    """Stopped after 3 steps and resumed on another number of workers, at another batch: as if never stopped."""
    job = muon_job(train={"ema": {"decay": 0.9}})
    (whole,) = run(tmp_path, 1, job)
    folder = new_folder(tmp_path)
    before = run(tmp_path, first, job, folder=folder, stop_after=3)
    assert [record.step for record in records_of(before[:1])] == [0, 1, 2]
    after = run(tmp_path, then, job, folder=folder)
    assert after[0]["weights"] == pytest.approx(whole["weights"], rel=1e-12, abs=1e-12)
    assert after[0]["average"] == pytest.approx(whole["average"], rel=1e-12, abs=1e-12)
    if first == then == 1:
        assert after[0]["weights"] == whole["weights"]
        assert after[0]["state"] == whole["state"]


def test_one_gradient_that_is_not_finite_stops_both_optimizers() -> None:
    """fp16 has one scale for one loss: an overflow in AdamW's gradient keeps Muon from stepping, too."""
    job = muon_job(train={"precision": "fp16"})
    recipe = make_recipe(torch.float32)
    plan = plan_of(job, recipe)
    named = dict(recipe.model.named_parameters())
    device = torch.device("cpu")
    several = {
        name: ScaledOptimizer({key: named[key] for key in keys}, job, plan, device, name=name)
        for name, keys in ((None, plan.tensors), ("fallback", plan.optimizers[0].tensors))
    }
    joint = JointOptimizers(several, job, device)
    before = {name: parameter.detach().clone() for name, parameter in named.items()}
    for is_finite in (False, True):
        scale = joint.scaler.get_scale()
        joint.scaler.scale(recipe.loss(recipe.model, recipe.train_data[:16])).backward()  # type: ignore[misc, no-untyped-call, union-attr]
        if not is_finite:
            named["head.bias"].grad[0] = float("inf")  # type: ignore[index]
        trained, norm = joint.whole_gradient()
        used = joint.step(trained, norm, plan.phases[0], lr=0.01, momentum=None)
        assert used == 0.01
        assert float(norm) == pytest.approx(0.9, abs=0.9) if is_finite else float(norm) == float("inf")
        assert joint.scaler.get_scale() == (scale if is_finite else scale / 2)
        steps = [not torch.equal(named[name], old) for name, old in before.items()]
        assert steps == [is_finite] * len(named)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_two_optimizers_train_in_another_precision(tmp_path: Path, precision: str) -> None:
    (full,) = run(tmp_path, 1, muon_job(train={"epochs": 1}), dtype=torch.float32)
    half, *_ = run(tmp_path, 2, muon_job(train={"epochs": 1, "precision": precision}), dtype=torch.float32)
    assert half["weights"] == pytest.approx(full["weights"], abs=0.05)
    assert half["weights"] != full["weights"]
    norms = [[record.grad_norm for record in records_of([rank])] for rank in (half, full)]
    assert norms[0] == pytest.approx(norms[1], rel=0.2), "a gradient that is still scaled is 65536 times as long"


def test_groups_apply_inside_each_optimizer(tmp_path: Path) -> None:
    """The body at half the learning rate, and its first layer frozen for an epoch."""
    groups = [{"match": "body.*", "lr_ratio": 0.5}, {"match": "body.0.*", "freeze": {"epochs": 1}}]
    seen: list[Any] = []
    torch.set_num_threads(1)

    def note(model: nn.Module) -> None:
        lrs = {
            name: [group["lr"] for group in each.optimizer.param_groups]
            for name, each in training._stepper.optimizers.items()
        }
        seen.append((lrs, model.body[0].weight.grad is not None, weights_of(model.body[0]) == first))  # type: ignore[index, union-attr]

    recipe = make_recipe(after_step=note)
    first = weights_of(recipe.model.body[0])  # type: ignore[index, union-attr]
    job = muon_job(groups=groups)
    plan = plan_of(job, recipe)
    training = Training(recipe, job, plan, Kept(0, 1, str(tmp_path)))
    training.run()
    for lrs, *_ in seen:
        whole = lrs["fallback"][0] / 0.003
        assert lrs[None] == pytest.approx([0.02 * whole * 0.5] * 2)
        assert lrs["fallback"] == pytest.approx([0.003 * whole * ratio for ratio in (1.0, 0.5, 0.5)])
    assert [is_frozen for *_, is_frozen in seen] == [True] * 4 + [False] * 4


def test_embeddings_are_found_by_their_module_and_tied_weights_have_both_names() -> None:
    kinds = parameter_kinds(Words(tied=True))
    assert (kinds["embed.weight"].kind, kinds["embed.weight"].other_names) == ("embedding", ("head.weight",))
    assert "head.weight" not in kinds
    assert kinds == parameter_kinds(nn.DataParallel(Words(tied=True)))
    assert {name: kind.kind for name, kind in parameter_kinds(Words()).items()} == {
        "embed.weight": "embedding",
        "body.0.weight": "matrix",
        "body.0.bias": "other",
        "body.2.weight": "matrix",
        "body.2.bias": "other",
        "body.3.weight": "other",
        "body.3.bias": "other",
        "head.weight": "matrix",
        "head.bias": "other",
    }
    assert parameter_kinds(nn.Conv2d(3, 4, 2))["weight"].kind == "other"


def frozen_body() -> Words:
    model = Words()
    model.body.requires_grad_(False)
    return model


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"model": frozen_body()},
            "reference.optimizer has no parameter to train: none of body.0.weight, body.2.weight requires a gradient.\n"
            "  Let one require a gradient in build(), or change what the optimizer matches.",
        ),
        (
            {"loss": None, "step": lambda context, batch: None, "optimizers": "all"},
            "reference.optimizer.fallback and match split the parameters of a recipe with a loss, and the recipe has "
            "step.\n  Give its optimizers in the recipe: Recipe(optimizers={...}), and what differs in "
            "reference.optimizers.",
        ),
    ],
)
def test_a_recipe_whose_parameters_cannot_be_shared_is_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    if changes.get("optimizers"):
        model = Words()
        changes = {**changes, "model": model, "optimizers": {"all": model}}
    recipe, job = make_recipe(**changes), muon_job()
    with pytest.raises(RecipeError) as caught:
        Training(recipe, job, plan_of(job, recipe), Kept(0, 1, str(tmp_path)))
    assert str(caught.value) == message


def test_a_checkpoint_of_other_optimizers_is_refused(tmp_path: Path) -> None:
    folder = new_folder(tmp_path)
    run(tmp_path, 1, muon_job(), folder=folder, stop_after=3)
    with pytest.raises(RecipeError) as caught:
        run(tmp_path, 1, muon_job(reference={"optimizer": {"name": "sgd"}}), folder=folder)
    assert str(caught.value).startswith(
        "the checkpoint at 48 samples has the optimizers reference.optimizer, fallback, and this training has "
        "reference.optimizer.\n"
    )


def test_the_job_with_muon_says_what_each_optimizer_trains() -> None:
    """scaler plan builds the recipe, and another number of workers is planned without it."""
    plan = scaler.plan_job(JOBS / "charlm/muon.yaml")
    (fallback,) = plan.optimizers
    kinds = ("queries_keys_values", "mix", "perceptron.0", "perceptron.2")
    assert list(plan.tensors) == [f"blocks.{block}.{kind}.weight" for block in (0, 1) for kind in kinds]
    assert {"position", "token.weight", "head.weight", "blocks.0.mix.bias", "norm.weight"} < set(fallback.tensors)
    alone = make_plan(load_job(JOBS / "charlm/muon.yaml"), 1, parameters=plan.parameters)
    assert alone == scaler.plan_job(JOBS / "charlm/muon.yaml", workers=1)


def test_the_general_form_of_the_page_plans() -> None:
    """The example of docs/recipes.md, with the recipe of the language model."""
    several = {
        "tables": {"match": ["token.*", "position"], "lr": 0.1, "optimizer": {"name": "sgd"}},
        "blocks": {
            "match": ["blocks.*.mix.weight", "blocks.*.perceptron.*.weight"],
            "lr": 0.02,
            "optimizer": {"name": "muon"},
            "rule": "sqrt",
        },
    }
    reference = {"global_batch_size": 16, "lr": 0.002, "optimizer": {"name": "adamw"}, "optimizers": several}
    plan = scaler.plan_job(JOBS / "charlm/muon.yaml", overrides=[f"reference={json.dumps(reference)}"])
    assert [(own.name, len(own.tensors), own.scaling.rule.name) for own in plan.optimizers] == [
        ("tables", 2, "linear"),
        ("blocks", 6, "sqrt"),
    ]
