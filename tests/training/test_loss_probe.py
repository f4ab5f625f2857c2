"""Losses that are means over samples, losses that are not, and the message for each before the first step."""

import copy
import random
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from groups import run_group
from small_runs import Kept, make_job
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.utils.data import Dataset, TensorDataset

from scaler import Recipe
from scaler.errors import RecipeError
from scaler.plan import make_plan
from scaler.training.model.untouched import untouched
from scaler.training.randomness import random_state
from scaler.training.start_checks.loss_probe import LossProbe, probe_loss

SAMPLES = 250
CPU = torch.device("cpu")
ACCEPT = (
    "\n  To train with it anyway, on an objective that changes with the number of workers: "
    'scaler.Recipe(loss_over="micro_batch").'
)
COMPARE = 'gather the samples of all workers: scaler.all_gather, and scaler.Recipe(loss_over="global_batch").'
WEIGHS = (
    "\n  If it weighs samples or tokens (cross_entropy with weight or ignore_index), return (sum, weight)."
    f"\n  If it compares samples, or is a root or a ratio over them, {COMPARE}"
    f"\n  If collate pads samples to the longest of a batch, mask what it adds.{ACCEPT}"
)


def data() -> TensorDataset:
    inputs = torch.randn(SAMPLES, 6, generator=torch.Generator().manual_seed(3))
    return TensorDataset(inputs, (inputs.sum(1) > 0).long())


class Dropout(nn.Module):
    """Dropout that is not a torch module; with ``always``, in evaluation mode too."""

    def __init__(self, *, always: bool = False) -> None:
        super().__init__()
        self.always = always

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, 0.5, self.training or self.always)


class OwnBatchNorm(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x - x.mean(0)) / (x.var(0, unbiased=False) + 1e-5).sqrt() if self.training else x


class Vae(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(6, 4), nn.Linear(2, 6)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_variance = self.encoder(x).chunk(2, 1)
        code = mean + torch.randn_like(mean) * (log_variance / 2).exp()
        divergence = -0.5 * (1 + log_variance - mean**2 - log_variance.exp()).sum(1)
        return ((self.decoder(code) - x) ** 2).sum(1), divergence


def net(out: int = 2, *middle: nn.Module) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(nn.Linear(6, 16), *(copy.deepcopy(middle) or (nn.Tanh(),)), nn.Linear(16, out))


def ce(model: nn.Module, batch: Any) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


def ce_sum(model: nn.Module, batch: Any) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1], reduction="sum")


def weighted_ce(model: nn.Module, batch: Any) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1], weight=torch.tensor([1.0, 5.0]))


def weighted_pair(model: nn.Module, batch: Any) -> tuple[Tensor, Tensor]:
    weight = torch.tensor([1.0, 5.0])[batch[1]]
    return (F.cross_entropy(model(batch[0]), batch[1], reduction="none") * weight).sum(), weight.sum()


def ignoring(model: nn.Module, batch: Any) -> Tensor:
    return F.cross_entropy(model(batch[0]), torch.where(batch[0][:, 0] > 0, -100, batch[1]), ignore_index=-100)


def simclr(model: nn.Module, batch: Any) -> Tensor:
    one, other = F.normalize(model(batch[0]), dim=1), F.normalize(model(batch[0] + 0.05), dim=1)
    return F.cross_entropy(one @ other.T / 0.1, torch.arange(len(one)))


def two_views(model: nn.Module, batch: Any) -> Tensor:
    """NT-Xent with augmentation inside the loss."""
    x, size = batch[0], len(batch[0])
    views = F.normalize(torch.cat([model(x + 0.1 * torch.randn_like(x)) for _ in range(2)]), dim=1)
    likeness = (views @ views.T / 0.5).masked_fill(torch.eye(2 * size, dtype=torch.bool), -1e9)
    return F.cross_entropy(likeness, torch.arange(2 * size).roll(size))


def clip(model: nn.Module, batch: Any) -> Tensor:
    one, other = F.normalize(model(batch[0]), dim=1), F.normalize(model(batch[0] * 0.5 + 0.05), dim=1)
    logits, target = 5 * one @ other.T, torch.arange(len(one))
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def barlow_twins(model: nn.Module, batch: Any) -> Tensor:
    one, other = model(batch[0]), model(batch[0] + 0.05)
    cross = ((one - one.mean(0)) / one.std(0)).T @ ((other - other.mean(0)) / other.std(0)) / len(one)
    return ((cross - torch.eye(len(cross))) ** 2).sum()


def dice(model: nn.Module, batch: Any) -> Tensor:
    found, target = model(batch[0]).softmax(1)[:, 1], batch[1].float()
    return 1 - 2 * (found * target).sum() / (found.sum() + target.sum())


def hardest_triplet(model: nn.Module, batch: Any) -> Tensor:
    distance = torch.cdist(model(batch[0]), model(batch[0]))
    same = batch[1][:, None] == batch[1][None]
    return F.relu((distance * same).amax(1) - (distance + 1e9 * same).amin(1) + 1).mean()


def diffusion(model: nn.Module, batch: Any) -> Tensor:
    noise, when = torch.randn_like(batch[0]), torch.rand(len(batch[0]), 1)
    return F.mse_loss(model(batch[0] * (1 - when) + noise * when), noise)


def mixup(model: nn.Module, batch: Any) -> Tensor:
    other = torch.randperm(len(batch[0]))
    logits = model(0.3 * batch[0] + 0.7 * batch[0][other])
    return 0.3 * F.cross_entropy(logits, batch[1]) + 0.7 * F.cross_entropy(logits, batch[1][other])


def gradient_penalty(model: nn.Module, batch: Any) -> Tensor:
    x = batch[0].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
    return ((gradient.norm(dim=1) - 1) ** 2).mean()


def critic(model: nn.Module, batch: Any) -> Tensor:
    return model(batch[0]).mean() - model(torch.randn_like(batch[0])).mean()  # near 0, of either sign


def mse(model: nn.Module, batch: Any) -> Tensor:
    return F.mse_loss(model(batch[0]), batch[0][:, :1])


MEANS: dict[str, tuple[Any, Any]] = {
    "cross entropy": (ce, net()),
    "mean squared error": (mse, net(1)),
    "dropout": (ce, net(2, nn.Dropout())),
    "dropout by function": (ce, net(2, Dropout())),
    "dropout in evaluations too": (ce, net(2, Dropout(always=True))),
    "batch norm": (ce, net(2, nn.BatchNorm1d(16))),
    "batch norm without statistics": (ce, net(2, nn.BatchNorm1d(16, track_running_stats=False))),
    "batch norm of one's own": (ce, net(2, OwnBatchNorm())),
    "sum and weight": (weighted_pair, net()),
    "sum and weight with dropout": (weighted_pair, net(2, Dropout())),
    "weight decay in the loss": (lambda m, b: ce(m, b) + 0.01 * sum(p.square().sum() for p in m.parameters()), net()),
    "gradient penalty": (gradient_penalty, net(1)),
    "VAE": (lambda m, b: sum(m(b[0])).mean(), Vae),
    "diffusion": (diffusion, net(6)),
    "mixup": (mixup, net()),
    "critic": (critic, net(1)),
    "policy gradient, of either sign": (lambda m, b: -(m(b[0]).log_softmax(1)[:, 0] * b[0][:, 2]).mean(), net()),
}
NO_MEANS: dict[str, tuple[Any, Any]] = {
    "sum": (ce_sum, net()),
    "sum with dropout": (ce_sum, net(2, Dropout(always=True))),
    "sum with batch norm": (ce_sum, net(2, nn.BatchNorm1d(16))),
    "VAE's sum": (lambda m, b: sum(m(b[0])).sum(), Vae),
    "diffusion's sum": (lambda m, b: diffusion(m, b) * len(b[0]), net(6)),
    "SimCLR": (simclr, net(8)),
    "SimCLR with dropout": (simclr, net(8, Dropout(always=True))),
    "two random views": (two_views, net(8)),
    "CLIP": (clip, net(8)),
    "CLIP with dropout": (clip, net(8, Dropout(always=True))),
    "Barlow twins": (barlow_twins, net(4)),
    "hardest triplet": (hardest_triplet, net(4)),
    "class weights": (weighted_ce, net()),
    "class weights with batch norm": (weighted_ce, net(2, nn.BatchNorm1d(16))),
    "class weights with dropout": (weighted_ce, net(2, Dropout())),
    "ignored targets": (ignoring, net()),
    "root": (lambda m, b: mse(m, b).sqrt(), net(1)),
    "dice": (dice, net()),
    "mean for sum": (lambda m, b: (ce(m, b), len(b[1])), net()),
}


def recipe_of(loss: Any, build: Any = None, **parts: Any) -> Recipe:
    torch.manual_seed(0)
    return Recipe(model=(build or net())(), loss=loss, **{"train_data": data(), **parts})


def probe(recipe: Recipe, *, size: int = 32, seed: int = 0, precision: str = "fp32", start: bool = True) -> LossProbe:
    count = len(recipe.train_data)  # type: ignore[arg-type]
    train = {"precision": precision, "seed": seed, "num_samples": count}
    job = make_job(per_worker_batch_size=size, train=train, schedule={"name": "constant"})
    recipe.model.train()
    return probe_loss(recipe, recipe.model, job, make_plan(job, 1), Kept(0, 1, "unused"), is_start=start)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("name", MEANS)
def test_a_mean_over_samples_is_not_refused(name: str, precision: str) -> None:
    for seed in range(3):
        assert probe(recipe_of(*MEANS[name]), seed=seed, precision=precision).why_not is None


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("name", NO_MEANS)
def test_a_loss_that_is_no_mean_over_samples_is_refused_unless_the_recipe_says_so(name: str, precision: str) -> None:
    with pytest.raises(RecipeError):
        probe(recipe_of(*NO_MEANS[name]), precision=precision)
    assert probe(recipe_of(*NO_MEANS[name], loss_over="micro_batch")) == LossProbe()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "sum",
            "loss(model, batch) is not a mean over the batch's samples: 8 samples give 5.545, the same given twice "
            "11.09.\n  It is a sum. Return (sum, weight), with the number of samples (or of tokens) as weight; or the "
            f"mean.{ACCEPT}",
        ),
        (
            "SimCLR",
            "loss(model, batch) is not a mean over the batch's samples: 8 samples give 2.079, the same given twice "
            f"2.773.\n  If it compares samples, {COMPARE}\n  If it adds them up, return (sum, weight), or the mean."
            f"{ACCEPT}",
        ),
        (
            "root",
            "loss(model, batch) is not a mean over the batch's samples: 8 samples give 0.75, in parts of 2 together "
            f"0.7128.{WEIGHS}",
        ),
        (
            "mean for sum",
            "loss(model, batch) returns (sum, weight), and sum / weight depends on the batch: 8 samples give 0.08664, "
            "the same given twice 0.04332.\n  The sum and its weight must be over the same samples.\n"
            f"  If it compares samples, {COMPARE}{ACCEPT}",
        ),
    ],
)
def test_the_whole_text_of_each_refusal(name: str, text: str) -> None:
    """With a model whose output is the same for all inputs, the numbers can be computed by hand."""
    loss, build = NO_MEANS[name]
    recipe = recipe_of(loss, build)
    with torch.no_grad():
        recipe.model[-1].weight.zero_()  # type: ignore[index,operator,union-attr]
        recipe.model[-1].bias.fill_(1.0 if name == "SimCLR" else 0.0)  # type: ignore[index,operator,union-attr]
    if name == "root":
        inputs = torch.ones(8, 6)
        inputs[:2], inputs[2:4] = (
            0.5,
            0.0,
        )  # (4 * 1 + 2 * 0.25) / 8 = 0.75**2; drawn as (0, 0.5), (1, 0.5), (1, 0), (1, 1)
        recipe = recipe_of(loss, lambda: recipe.model, train_data=TensorDataset(inputs, torch.zeros(8)))
    with pytest.raises(RecipeError) as caught:
        probe(recipe)
    assert str(caught.value) == text


class Recording(nn.Module):
    """Everything in a module that a forward pass may change."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(6, 2), nn.BatchNorm1d(2)
        self.calls, self.seen, self.queue, self.last = 0, [torch.zeros(1)], deque([1], maxlen=2), torch.zeros(2)
        self.norm.eval()

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.seen.append(x)
        self.queue.append(self.calls)
        self.last += 1
        self.new = x
        with torch.no_grad():
            self.linear.weight.clamp_(-0.01, 0.01)
        random.random(), np.random.rand(), torch.rand(1)
        return self.norm(self.linear(x)) * torch.rand(len(x), 1)


def test_model_gradients_modes_and_random_numbers_are_left_as_they_were() -> None:
    recipe = recipe_of(ce, Recording)
    model = recipe.model
    model.linear.weight.grad = torch.ones(2, 6)  # type: ignore[union-attr,operator]
    job = make_job(per_worker_batch_size=32)
    before, state, modes = random_state(CPU), copy.deepcopy(model.state_dict()), [m.training for m in model.modules()]
    held = {name: id(value) for name, value in vars(model).items()}
    with untouched(model, CPU):
        ce(model, data()[:8]).backward()
    probe_loss(recipe, model, job, make_plan(job, 1), Kept(0, 1, "unused"), is_start=True)
    assert torch.equal(random_state(CPU), before)
    assert {name: torch.equal(value, model.state_dict()[name]) for name, value in state.items()} == dict.fromkeys(
        state, True
    )
    assert [m.training for m in model.modules()] == modes
    assert {name: id(value) for name, value in vars(model).items()} == held
    assert (model.calls, len(model.seen), list(model.queue), model.last.tolist()) == (0, 1, [1], [0.0, 0.0])  # type: ignore[arg-type,union-attr,operator]
    assert torch.equal(model.linear.weight.grad, torch.ones(2, 6))  # type: ignore[union-attr,arg-type]
    assert model.linear.bias.grad is None  # type: ignore[union-attr]


class Augmented(Dataset[Any]):
    """Another crop each time, in a sample that its collate function changes."""

    def __len__(self) -> int:
        return 50

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"x": torch.full((6,), float(index)) + torch.randn(6), "y": torch.tensor(index % 2)}


class Container:
    def __init__(self, samples: list[dict[str, Tensor]]) -> None:
        self.y = torch.stack([sample.pop("y") for sample in samples])
        self.x = torch.stack([sample.pop("x") for sample in samples])


def test_augmented_samples_in_containers_of_ones_own_are_given_twice_as_they_were_loaded() -> None:
    recipe = recipe_of(lambda m, b: ce(m, (b.x, b.y)), train_data=Augmented(), collate=Container)
    found = probe(recipe)
    assert found.comparison is not None
    assert found.comparison.twice == pytest.approx(found.comparison.whole, rel=1e-6)
    with pytest.raises(RecipeError):
        probe(recipe_of(lambda m, b: ce_sum(m, (b.x, b.y)), train_data=Augmented(), collate=Container))


def broken(model: nn.Module, batch: Any) -> Tensor:
    assert len(batch[0]) == 32
    return ce(model, batch)


class Branches(nn.Module):
    """The batch's first sample decides which part of the model is used."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Linear(6, 2), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        branch: nn.Module = self.one if x[0, 0] > 0 else self.other
        found: Tensor = branch(x)
        return found


@pytest.mark.parametrize("seed", range(5))
def test_a_loss_that_depends_on_the_order_of_the_samples_is_not_refused(seed: int) -> None:
    assert probe(recipe_of(ce, Branches), seed=seed).why_not in (None, "the order of the samples changes the loss")


@pytest.mark.parametrize(
    ("loss", "count", "why_not"),
    [
        (broken, SAMPLES, "AssertionError"),
        (ce, 1, "the training set has one sample"),
        (ce, 2, None),
        (ce, 3, None),
        (lambda m, b: m(b[0]).sum() * 0, SAMPLES, "the loss is 0"),
        (lambda m, b: m(b[0]).mean() / 0, SAMPLES, "the loss is not finite"),
        (lambda m, b: (m(b[0]).sum() * 0, 0.0), SAMPLES, "8 samples have the weight 0"),
    ],
)
def test_what_cannot_be_checked_is_reported_and_not_refused(loss: Any, count: int, why_not: str | None) -> None:
    recipe = recipe_of(loss, train_data=TensorDataset(*(tensor[:count] for tensor in data().tensors)))
    found = probe(recipe)
    assert (found.why_not or "").partition(":")[0] == (why_not or "")


def test_two_samples_show_a_sum() -> None:
    with pytest.raises(RecipeError):
        probe(recipe_of(ce_sum, train_data=TensorDataset(*(tensor[:2] for tensor in data().tensors))))


def test_no_more_samples_are_given_than_a_micro_batch_has() -> None:
    sizes: list[int] = []

    def loss(model: nn.Module, batch: Any) -> Tensor:
        sizes.append(len(batch[1]))
        return ce(model, batch)

    probe(recipe_of(loss), size=10)
    assert sizes == [5, 10, 2, 2, 1]


def test_a_run_that_continues_is_not_probed_again() -> None:
    assert probe(recipe_of(ce_sum), start=False) == LossProbe()


def on_rank(rank: int, world_size: int, name: str) -> str:
    """Return the result on one of several workers: the same message on all, and no worker waits."""
    torch.set_num_threads(1)
    recipe = recipe_of(*(NO_MEANS | MEANS)[name])
    job = make_job(num_workers=world_size, per_worker_batch_size=32)
    try:
        probe_loss(
            recipe, recipe.model, job, make_plan(job, world_size), Kept(rank, world_size, "unused"), is_start=True
        )
    except RecipeError as error:
        return str(error)
    return "accepted"


@pytest.mark.parametrize("name", ["SimCLR with dropout", "VAE"])
def test_workers_agree(name: str, tmp_path: Path) -> None:
    found = run_group(on_rank, 3, name)
    assert len(set(found)) == 1
    assert (found[0] == "accepted") == (name in MEANS)
