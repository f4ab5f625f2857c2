"""Sharded training gives what one worker gives on the whole batch, with the real loop and on real process groups."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import small_runs
import torch
from groups import run_group
from small_runs import (
    accuracies,
    make_job,
    make_recipe,
    new_folder,
    records_of,
    run,
    shapes_of,
    step_losses,
    train,
)
from test_gradients import (
    FEATURES,
    LOSSES,
    assert_parts,
    exact_parts,
    leave_out,
    make_data,
    make_model,
    relative_error,
    whole_batch_gradient,
)
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from scaler.core.batch import micro_batch_bounds
from scaler.errors import JobFileError, RecipeError
from scaler.job import Job, parse_job
from scaler.job.fsdp import Fsdp
from scaler.plan import make_plan
from scaler.training.activity import Activity
from scaler.training.clock import CpuClock
from scaler.training.gradients.step import GradientStep
from scaler.training.gradients.values import RecordedValues
from scaler.training.loop import Training
from scaler.training.model.initial import materialize
from scaler.training.model.sharding import whole
from scaler.training.parallel.sharded import Sharded

CPU = torch.device("cpu")
TOLERANCE = 1e-12

SHARING = [(16, 1), (7, 1), (20, 2), (2, 2), (7, 3)]  # samples and micro-steps; (2, 2): a share may be empty
OPTIONS: list[dict[str, Any]] = [
    {},
    {"reduce_every_micro_step": False},
    {"reshard_after_forward": False, "blocks": ["Linear"]},
    {"blocks": ["0", "2"]},
]
CASES = [(*shares, loss, options) for shares in SHARING for loss in LOSSES for options in OPTIONS]


def gradient_step(model: nn.Module, loss: Any, rank: int, world_size: int, **options: Any) -> GradientStep:
    replicate = options.pop("replicate", 1)
    parallel = Sharded(Fsdp(**options), replicate=replicate, shard=world_size // replicate, device=CPU)
    parallel.distribute(model)
    return GradientStep(
        model,
        loss,
        parallel=parallel,
        world_size=world_size,
        device=CPU,
        precision="fp32",
        scaler=torch.amp.GradScaler("cpu", enabled=False),
        clock=CpuClock(),
        activity=Activity(),
        values=RecordedValues(),
    )


def gradients(rank: int, world_size: int, replicate: int) -> list[Any]:
    """Return the gradient of each case, its norm and its parts."""
    found = []
    for samples, micro_steps, loss, options in CASES:
        model = make_model()
        step = gradient_step(model, LOSSES[loss], rank, world_size, replicate=replicate, **options)
        inputs, labels = make_data(samples)
        mine = micro_batch_bounds(samples, world_size=world_size, rank=rank, grad_accum_steps=micro_steps)
        most = min(micro_steps, -(-samples // world_size))
        for measure in (False, True):
            batches = ((inputs[start:stop], labels[start:stop]) for start, stop in mine or [(0, 1)])
            sizes = [stop - start for start, stop in mine]
            model.zero_grad()
            measures = step(batches, sizes, step_samples=samples, measure=measure, micro_steps=most)
            parameters = list(model.parameters())
            flat = torch.cat([whole(parameter.grad).flatten() for parameter in parameters])
            parts = measures.parts
            found.append((flat.tolist(), float(step.square_of(parameters)), parts and (parts.squares, parts.samples)))
    return found


@pytest.mark.parametrize(("world_size", "replicate"), [(1, 1), (2, 1), (3, 1), (4, 2)])
def test_any_sharing_gives_the_gradient_of_one_worker_on_the_whole_batch(world_size: int, replicate: int) -> None:
    ranks = run_group(gradients, world_size, replicate)
    assert all(rank == ranks[0] for rank in ranks), "every rank must see the same gradient, norm and parts"
    found = iter(ranks[0])
    for samples, micro_steps, loss, _ in CASES:
        expected = whole_batch_gradient(samples, loss)
        for measure in (False, True):
            gradient, square, parts = next(found)
            assert relative_error(gradient, expected) < TOLERANCE
            assert square == pytest.approx(float(expected.square().sum()), rel=TOLERANCE)
            assert (parts is not None) == measure
        if world_size == 1:
            most = min(micro_steps, samples)
            exact = exact_parts(samples, loss, world_size=1, grad_accum_steps=most) if most > 1 else ((), ())
            assert_parts(parts, exact)


def leave_out_sharded(rank: int, world_size: int) -> list[Any]:
    return leave_out(rank, world_size, lambda model, loss: gradient_step(model, loss, rank, world_size))


def test_a_parameter_that_some_workers_leave_out_has_the_gradient_of_the_others_and_one_that_all_do_has_none() -> None:
    ones, halves = [1.0] * 3, [0.5] * 3
    assert run_group(leave_out_sharded, 2) == [[[ones, [1.0], halves, [0.5]], [ones, [1.0], None, None]]] * 2


ADAMW = {"optimizer": {"name": "adamw"}}
TRAININGS: dict[str, dict[str, Any]] = {
    "momentum": {},
    "clipping and an average": {"reference": ADAMW, "train": {"clip_grad_norm": 0.1, "ema": {"decay": 0.9}}},
    "micro-steps": {"grad_accum_steps": 3},
    "one sum": {"grad_accum_steps": 3, "train": {"fsdp": {"reduce_every_micro_step": False}}},
    "groups": {
        "reference": ADAMW,
        "groups": [{"match": "0.*", "lr_ratio": 0.1, "freeze": {"epochs": 1}}, {"match": "2.bias", "freeze": True}],
    },
    "a growing batch": {
        "global_batch_size": 32,
        "batch_schedule": {"name": "doubling", "every": {"epochs": 1}, "max_global_batch_size": 128},
    },
    "recomputed activations": {
        "train": {"last_batch": "carry", "activation_checkpointing": ["Tanh"], "fsdp": {"blocks": ["Linear"]}}
    },
}


def training_job(name: str, strategy: str, *, changes: dict[str, Any] | None = None, **train: Any) -> Job:
    sections = {"global_batch_size": 64, **TRAININGS[name], **(changes or {})}
    settings = {**sections.get("train", {}), "strategy": strategy, **train}
    if strategy == "ddp":
        settings.pop("fsdp", None)
    return make_job(**{**sections, "train": settings})


def train_all(rank: int, world_size: int, folder: str, jobs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        train(rank, world_size, f"{folder}/{number}", values, {"double": True}) for number, values in enumerate(jobs)
    ]


def assert_same_training(found: list[dict[str, Any]], alone: list[dict[str, Any]]) -> None:
    assert found[0]["error"] is None
    assert found[0]["weights"] == pytest.approx(alone[0]["weights"], rel=0, abs=TOLERANCE)
    assert step_losses(found) == pytest.approx(step_losses(alone), abs=TOLERANCE)
    assert accuracies(found) == pytest.approx(accuracies(alone), abs=1e-7)  # the accuracy is computed in float32
    norms, expected = ([record.grad_norm for record in records_of(ranks[:1])] for ranks in (found, alone))
    assert norms == pytest.approx(expected, rel=TOLERANCE)
    used, planned = zip(*((record.lr, record.lr_planned) for record in records_of(found)), strict=True)
    assert used == pytest.approx(planned, rel=TOLERANCE)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    """Each training on one worker that has the whole model."""
    folder = tmp_path_factory.mktemp("alone")
    found = train_all(0, 1, str(folder), [training_job(name, "ddp").model_dump() for name in TRAININGS])
    return {name: [ranks] for name, ranks in zip(TRAININGS, found, strict=True)}


@pytest.mark.parametrize(("world_size", "strategy"), [(1, "fsdp"), (2, "fsdp"), (3, "fsdp"), (2, "ddp")])
def test_every_training_equals_that_of_one_worker(
    tmp_path: Path, alone: dict[str, list[dict[str, Any]]], world_size: int, strategy: str
) -> None:
    jobs = [training_job(name, strategy).model_dump() for name in TRAININGS]
    ranks = run_group(train_all, world_size, str(tmp_path), jobs)
    for number, expected in enumerate(alone.values()):
        assert_same_training([rank[number] for rank in ranks], expected)
        if world_size == 1:
            assert ranks[0][number]["weights"] == expected[0]["weights"]


def test_a_mesh_of_copies_and_shards_equals_one_worker(tmp_path: Path, alone: dict[str, list[dict[str, Any]]]) -> None:
    names = ["clipping and an average", "micro-steps"]
    changes = {"num_workers": 4, "mesh": {"replicate": 2, "shard": 2}}
    jobs = [training_job(name, "fsdp", changes=changes).model_dump() for name in names]
    ranks = run_group(train_all, 4, str(tmp_path), jobs)
    for number, name in enumerate(names):
        assert_same_training([rank[number] for rank in ranks], alone[name])


def test_a_resume_at_the_same_size_continues_with_the_same_bits(tmp_path: Path) -> None:
    job = training_job("clipping and an average", "fsdp")
    unbroken = run(tmp_path, 2, job, double=True)
    folder = new_folder(tmp_path)
    run(tmp_path, 2, job, folder=folder, stop_after=5, double=True)
    resumed = run(tmp_path, 2, job, folder=folder, double=True)
    assert resumed[0]["weights"] == unbroken[0]["weights"]
    losses = [[record.loss for record in records_of([rank])] for rank in (*unbroken, *resumed)]
    assert [unbroken[5:] for unbroken in losses[:2]] == losses[2:]


@pytest.mark.parametrize("strategies", [["fsdp"] * 4, ["fsdp", "ddp", "fsdp", "ddp"]])
def test_a_resume_at_any_size_and_with_the_other_strategy_uses_the_same_samples(
    tmp_path: Path, alone: dict[str, list[dict[str, Any]]], strategies: list[str]
) -> None:
    name, folder = "clipping and an average", new_folder(tmp_path)
    attempts = []
    for world_size, strategy, stop in zip((2, 3, 1, 2), strategies, (3, 3, 3, None), strict=True):
        job = training_job(name, strategy)
        stopped = {} if stop is None else {"stop_after": stop}
        arguments = (str(folder), job.model_dump(), {"double": True, **stopped})
        attempts.append(run_group(train, world_size, *arguments))
    assert attempts[-1][0]["weights"] == pytest.approx(alone[name][0]["weights"], rel=0, abs=TOLERANCE)
    losses = [loss for ranks in attempts for loss in step_losses(ranks)]
    assert losses == pytest.approx(step_losses(alone[name]), abs=TOLERANCE)


class SlowLoss(small_runs.Loss):
    """Takes 10 ms more on rank 1."""

    def __call__(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        if torch.distributed.get_rank() == 1:
            time.sleep(0.01)
        return super().__call__(model, batch)


def train_slowly(rank: int, world_size: int, folder: str, values: dict[str, Any]) -> list[float]:
    small_runs.Loss = SlowLoss  # type: ignore[misc]
    found = records_of([train(rank, world_size, folder, values, {})])
    return [sum(getattr(record, name) for record in found) for name in ("compute_s", "sync_wait_s")]


def test_the_time_of_a_slow_worker_is_its_own_and_the_others_wait(tmp_path: Path) -> None:
    job = training_job("momentum", "fsdp")
    (fast, waits), (slow, _) = run_group(train_slowly, 2, str(tmp_path), job.model_dump())
    steps = 12
    assert slow - fast > steps * 0.005
    assert waits > steps * 0.005


class Meta(nn.Module):
    """A model with a tied weight, a buffer and a block of its own, as it may be built on the meta device."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(10, FEATURES)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(FEATURES, FEATURES), nn.Tanh()) for _ in range(2))
        self.norm = nn.BatchNorm1d(FEATURES)
        self.head = nn.Linear(FEATURES, 10, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, inputs: Tensor) -> Tensor:
        found = self.embedding(inputs)
        for block in self.blocks:
            found = block(found)
        return self.head(self.norm(found))


def made_from_meta(rank: int, world_size: int) -> list[Any]:
    with torch.device("meta"):
        model = Meta()
    torch.manual_seed(rank)  # must not matter
    Sharded(Fsdp(), shard=world_size, device=CPU, seed=5).distribute(model)
    assert model.head.weight is model.embedding.weight
    return [whole(parameter).tolist() for parameter in (*model.parameters(), *model.buffers())]


def test_a_model_on_the_meta_device_gets_the_same_weights_on_any_number_of_workers() -> None:
    with torch.device("meta"):
        model = Meta()
    materialize(model, CPU, seed=5, initialize=None)
    expected = [tensor.tolist() for tensor in (*model.parameters(), *model.buffers())]
    for world_size in (1, 2, 3):
        assert run_group(made_from_meta, world_size) == [expected] * world_size
    assert model.blocks[0][0].weight.std() > 0
    assert not torch.equal(model.blocks[0][0].weight, model.blocks[1][0].weight)


class NoReset(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3))


def test_a_module_on_the_meta_device_that_cannot_set_its_weights_is_named() -> None:
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(3, 3), NoReset())
    with pytest.raises(RecipeError) as caught:
        materialize(model, CPU, seed=0, initialize=None)
    assert str(caught.value) == (
        "the model is on the meta device, and 1 (NoReset) has weights or buffers of its own and no "
        "reset_parameters().\n"
        "  Give the class a reset_parameters() that sets them, or give scaler.Recipe(initialize=...), which is called "
        "with each such module."
    )
    with torch.device("meta"):
        model = nn.Sequential(NoReset())
    materialize(model, CPU, seed=0, initialize=lambda module: nn.init.constant_(module.scale, 2.0))
    assert model[0].scale.tolist() == [2.0] * 3


class Language(nn.Module):
    """Two layers between an embedding and a head that are one weight; layers may share a weight, too."""

    def __init__(self, *, shared: bool = False) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.embedding = nn.Embedding(10, FEATURES)
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(FEATURES, FEATURES), nn.Tanh()) for _ in range(2))
        self.head = nn.Linear(FEATURES, 10, bias=False)
        self.head.weight = self.embedding.weight
        if shared:
            self.layers[1][0].weight = self.layers[0][0].weight
        self.double()

    def forward(self, inputs: Tensor) -> Tensor:
        found = self.embedding(inputs)
        for layer in self.layers:
            found = layer(found)
        return self.head(found)


def next_token(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


def tokens_of_rank(rank: int, world_size: int) -> tuple[Tensor, Tensor]:
    inputs = torch.arange(8) % 10
    return inputs[rank::world_size], (inputs[rank::world_size] + 3) % 10


def gradients_of_tied(rank: int, world_size: int) -> list[list[float]]:
    """Return the gradient of each parameter, for a tied embedding and for layers that share a weight."""
    found = []
    for shared in (False, True):
        model = Language(shared=shared)
        step = gradient_step(model, next_token, rank, world_size)
        mine = tokens_of_rank(rank, world_size)
        step(iter([mine]), [len(mine[0])], step_samples=8)
        assert len(list(model.parameters())) == 5 - shared
        found.append(torch.cat([whole(p.grad).flatten() for p in model.parameters()]).tolist())
    return found


def test_tied_weights_stay_tied() -> None:
    expected = []
    for shared in (False, True):
        model = Language(shared=shared)
        next_token(model, tokens_of_rank(0, 1)).backward()
        expected.append(torch.cat([p.grad.flatten() for p in model.parameters()]).tolist())
    for found in run_group(gradients_of_tied, 2):
        for gradient, whole_batch in zip(found, expected, strict=True):
            assert gradient == pytest.approx(whole_batch, rel=0, abs=TOLERANCE)


def refusals(rank: int, world_size: int) -> list[str]:
    """Return the errors of models that cannot be sharded."""

    def scalar() -> nn.Module:
        model = nn.Sequential(nn.Linear(3, 3))
        model.scale = nn.Parameter(torch.tensor(1.0))
        return model

    def mixed() -> nn.Module:
        return nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3).double())

    cases: list[tuple[nn.Module, dict[str, Any]]] = [
        (Language(), {"blocks": ["Embedding", "layers.*"]}),
        (Language(), {"blocks": ["layers"]}),
        (scalar(), {}),
        (mixed(), {}),
    ]
    found = []
    for model, options in cases:
        with pytest.raises(RecipeError) as caught:
            Sharded(Fsdp(**options), shard=1, device=CPU).distribute(model)
        found.append(str(caught.value))
    return found


def test_a_model_that_torch_cannot_shard_is_refused_with_the_name_of_the_parameter() -> None:
    assert run_group(refusals, 1) == [
        [
            "train.fsdp.blocks has embedding, and its weight embedding.weight is also one of the whole model.\n"
            "  Tied weights must be in one block: leave such blocks out, or use train.fsdp.blocks: auto.",
            "train.fsdp.blocks has layers, a ModuleList, which has no forward.\n  Name what is in it: layers.*.",
            "the parameter scale has no dimensions, and cannot be sharded.\n"
            "  Give it one: nn.Parameter(torch.tensor([value])). Or use train.strategy: ddp.",
            "the parameters 0.weight and 1.weight are torch.float32 and torch.float64, and they are sharded together.\n"
            "  Use one dtype, with autocast or train.fsdp.mixed_precision for the others; or train.strategy: ddp.",
        ]
    ]


def blocks_of_pattern(rank: int, world_size: int) -> list[str]:
    model = nn.Sequential(nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 8, batch_first=True), 2))
    Sharded(Fsdp(blocks=("0.layers.*",)), shard=1, device=CPU).distribute(model)
    return [name for name, module in model.named_modules() if isinstance(module, FSDPModule)]


def test_a_star_stands_for_one_part_of_a_name() -> None:
    assert run_group(blocks_of_pattern, 1) == [["", "0.layers.0", "0.layers.1"]]


def short_weights(model: nn.Module) -> None:
    """Let no weight be longer than 1, as a hook after the step does it."""
    for parameter in model.parameters():
        if float(parameter.norm()) > 1.0:
            parameter.mul_(1.0 / parameter.norm().item())


def with_numbers_of_weights(rank: int, world_size: int, folder: str, values: dict[str, Any]) -> dict[str, Any]:
    """Train with numbers that are computed from the weights: after each step, recorded, and evaluated."""

    def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        found = nn.functional.cross_entropy(model(batch[0]), batch[1])
        return {"loss": found, "size": sum(p.detach().square().sum() for p in model.parameters())}

    def evaluate(model: nn.Module, batch: tuple[Tensor, Tensor]) -> dict[str, Any]:
        before = float(sum(p.square().sum() for p in model.parameters()))
        right = (model(batch[0]).argmax(1) == batch[1]).double().mean()
        return {
            "accuracy": right,
            "before": before,
            "norm": model[0].weight.norm(),
            "mean": float(model[0].weight.mean()),
        }

    torch.manual_seed(8)
    recipe = replace(make_recipe(double=True), loss=loss, evaluate=evaluate, after_step=short_weights)
    job, around = parse_job(values, source="job"), small_runs.Kept(rank, world_size, folder)
    Training(recipe, job, make_plan(job, world_size, parameters=shapes_of(recipe)), around).run()
    if rank > 0:  # rank 0 has the events
        return {}
    (*_, last) = [event for event in around.events if event.kind == "evaluated"]
    (*_, recorded) = [event for event in around.events if event.kind == "recorded"]
    return {**last.values, "recorded": recorded.values["size"]}


def test_numbers_of_weights_are_those_of_the_whole_weights(tmp_path: Path) -> None:
    ddp, fsdp = (training_job("momentum", strategy).model_dump() for strategy in ("ddp", "fsdp"))
    expected = with_numbers_of_weights(0, 1, str(tmp_path / "alone"), ddp)
    found, _ = run_group(with_numbers_of_weights, 2, str(tmp_path / "shards"), fsdp)
    assert found == pytest.approx(expected, rel=1e-10)


def problems(rank: int, world_size: int, folder: str) -> list[str]:
    """Return the errors of trainings that cannot be sharded."""
    found = []
    for options in ({"blocks": ["Block"]}, {"forward_methods": ["encode"]}, {"cpu_offload": True}):
        job = training_job("momentum", "fsdp", fsdp=options)
        recipe, around = make_recipe(), small_runs.Kept(rank, world_size, folder)
        try:
            Training(recipe, job, make_plan(job, 1, parameters=shapes_of(recipe)), around)
        except (RecipeError, JobFileError) as error:
            found.append(str(error))
    return found


def test_what_cannot_be_sharded_is_refused_with_what_to_do(tmp_path: Path) -> None:
    (found,) = run_group(problems, 1, str(tmp_path))
    assert found == [
        "train.fsdp.blocks: the model has no module of the class Block.\n"
        "  The model's classes: Sequential, Linear, Tanh.",
        "train.fsdp.forward_methods: the model (Sequential) has no method encode.\n  Name a method of the model.",
        "train.fsdp.cpu_offload = true, and the workers have no GPU.\n"
        "  Leave it out, or set resources.gpus_per_worker.",
    ]
