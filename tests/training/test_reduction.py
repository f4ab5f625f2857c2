"""The sum of gradients without DDP's wrapper: every kind of gradient and model, on any number of workers as on one."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from groups import run_group
from small_runs import Kept, make_job, weights_of
from test_gradients import make_step
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import TensorDataset

from scaler import Recipe
from scaler.core.batch import micro_batch_bounds
from scaler.errors import RecipeError
from scaler.plan import make_plan
from scaler.training.gradients.norm import clip, total_norm
from scaler.training.loop import Training
from scaler.training.model.buffers import broadcast_tensors

SAMPLES = 7


class Branches(nn.Module):
    """The batch decides which branch is used."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.never = nn.Linear(4, 1), nn.Linear(4, 1), nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([(self.a if row[0] > 0 else self.b)(row) for row in x])


class Words(nn.Module):
    """A sparse embedding, a sparse embedding function, and an embedding that is used densely as well."""

    def __init__(self) -> None:
        super().__init__()
        self.by_layer = nn.Embedding(9, 4, sparse=True)
        self.bag = nn.EmbeddingBag(9, 4, sparse=True, mode="sum")
        self.by_function = nn.Parameter(torch.randn(9, 4))
        self.tied = nn.Embedding(9, 4, sparse=True)
        self.head = nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        ids = (x[:, 0] * 2).long().abs() % 9
        found = self.by_layer(ids) + self.bag(ids.unsqueeze(1))
        found = found + nn.functional.embedding(ids, self.by_function, sparse=True)
        return self.head(found + self.tied(ids)) + (found @ self.tied.weight.t()).mean(1, keepdim=True)


class Methods(nn.Module):
    """Has methods and attributes beside ``forward``."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head, self.width = nn.Linear(4, 3), nn.Linear(3, 1), 3

    def features(self, x: Tensor) -> Tensor:
        return self.body(x)

    def score(self, x: Tensor) -> Tensor:
        return self.head(self.features(x)) / self.width


class Twice(nn.Module):
    """A layer that is used twice, each time under a reentrant checkpoint: its gradient arrives in two parts."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.out = nn.Linear(4, 4), nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = x.clone().requires_grad_()
        for _ in range(2):
            x = checkpoint(self.layer, x, use_reentrant=True)
        return self.out(x)


class Mixed(nn.Module):
    """Two dtypes, another memory format, an empty parameter and a scalar."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 2).to(memory_format=torch.channels_last)
        self.small = nn.Parameter(torch.ones((), dtype=torch.float64))
        self.empty = nn.Parameter(torch.ones(0, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x.reshape(-1, 1, 2, 2)).flatten(1).sum(1, keepdim=True) * self.small + self.empty.sum()


def forward_loss(model: nn.Module, batch: Tensor) -> Tensor:
    return model(batch).pow(2).mean()


def method_loss(model: Any, batch: Tensor) -> Tensor:
    return model.score(batch).pow(2).mean()


MODELS: dict[str, tuple[Callable[[], nn.Module], Any]] = {
    "branches": (Branches, forward_loss),
    "words": (Words, forward_loss),
    "methods": (Methods, method_loss),
    "twice": (Twice, forward_loss),
    "mixed": (Mixed, forward_loss),
}


def gradients(rank: int, world_size: int, kind: str, grad_accum_steps: int, measure: bool) -> list[Any]:
    """Return the gradients of two steps, dense, and which of them are sparse."""
    torch.manual_seed(1)
    model, loss = MODELS[kind][0](), MODELS[kind][1]
    generator = torch.Generator().manual_seed(3)
    step, found = make_step(model, loss, world_size), []
    for samples in (SAMPLES, SAMPLES - 5, SAMPLES):
        x = torch.randn(samples, 4, generator=generator)
        mine = micro_batch_bounds(samples, world_size=world_size, rank=rank, grad_accum_steps=grad_accum_steps)
        batches = (x[start:stop] for start, stop in mine or [(0, 1)])
        sizes = [stop - start for start, stop in mine]
        parts = {"measure": measure, "micro_steps": grad_accum_steps}
        squares = step(batches, sizes, step_samples=samples, **parts).parts
        grads = [p.grad for p in model.parameters()]
        found.append([None if g is None else (g.is_sparse, g.to_dense().tolist()) for g in grads])
        found.append([None if squares is None else len(squares.squares)])
        model.zero_grad()
    return found


@pytest.mark.parametrize("measure", [False, True])
@pytest.mark.parametrize("kind", list(MODELS))
@pytest.mark.parametrize(("world_size", "grad_accum_steps"), [(2, 1), (3, 2)])  # of 2 samples, rank 2 has none
def test_the_gradient_is_that_of_one_worker(kind: str, world_size: int, grad_accum_steps: int, measure: bool) -> None:
    alone = gradients(0, 1, kind, 1, False)
    ranks = run_group(gradients, world_size, kind, grad_accum_steps, measure)
    assert all(rank == ranks[0] for rank in ranks), "every rank must hold the same bits"
    for mine, theirs in zip(alone[::2], ranks[0][::2], strict=True):
        for one, other in zip(mine, theirs, strict=True):
            assert (one is None) == (other is None), "what no worker used has no gradient"
            if one is not None:
                assert one[0] == other[0], "what is sparse on one worker stays it"
                torch.testing.assert_close(torch.tensor(other[1]), torch.tensor(one[1]), rtol=1e-5, atol=1e-6)


class Growing(nn.Module):
    """A layer that is used more often in later steps than in the first, under a reentrant checkpoint."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.times = nn.Linear(4, 4), 1

    def forward(self, x: Tensor) -> Tensor:
        x = x.clone().requires_grad_()
        for _ in range(self.times):
            x = checkpoint(self.layer, x, use_reentrant=True)
        return x


def grow(rank: int, world_size: int) -> str:
    model = Growing()
    step = make_step(model, forward_loss, world_size)
    try:
        for model.times in (1, 2):
            step(iter([torch.ones(2, 4)]), [2], step_samples=4)
            model.zero_grad()
    except RecipeError as error:
        return str(error)
    return "it went well"


def test_a_gradient_that_comes_in_more_parts_than_were_counted_is_refused() -> None:
    (message,) = set(run_group(grow, 2))
    assert message.endswith(
        "got its gradient in more parts than in the first step, after the sum over workers had begun.\n"
        "  Give torch.utils.checkpoint.checkpoint use_reentrant=False."
    )


def ignore_the_model(rank: int, world_size: int) -> str:
    other = nn.Linear(4, 1)
    step = make_step(nn.Linear(4, 1), lambda model, batch: other(batch).mean(), world_size)
    try:
        step(iter([torch.ones(2, 4)]), [2], step_samples=2 * world_size)
    except RecipeError as error:
        return str(error)
    return "it went well"


@pytest.mark.parametrize("world_size", [1, 2])
def test_a_loss_of_another_model_is_refused(world_size: int) -> None:
    ranks = run_group(ignore_the_model, world_size)
    assert set(ranks) == {
        "none of the model's parameters got a gradient: the loss did not use the model that it was given.\n"
        "  Compute the loss from model(...), with the model that loss(model, batch) gets."
    }


def test_a_parameter_that_is_made_in_the_first_step_is_refused() -> None:
    class Late(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(4, 1)

        def forward(self, x: Tensor) -> Tensor:
            self.second = nn.Linear(1, 1)
            return self.second(self.first(x))

    with pytest.raises(RecipeError, match=r"the model created the parameter second.weight in its first step"):
        make_step(Late(), forward_loss, 1)(iter([torch.ones(2, 4)]), [2], step_samples=2)


def test_clipping_shortens_sparse_and_dense_gradients_alike() -> None:
    def made(sparse: bool) -> list[nn.Parameter]:
        torch.manual_seed(0)
        embedding, head = nn.Embedding(5, 3, sparse=sparse), nn.Linear(3, 1)
        head(embedding(torch.tensor([1, 1, 2]))).sum().backward()
        return [*embedding.parameters(), *head.parameters()]

    found = []
    for sparse in (False, True):
        parameters = made(sparse)
        parameters[0].grad = parameters[0].grad.coalesce() if sparse else parameters[0].grad
        norm = total_norm([p.grad for p in parameters])
        clip(parameters, norm, most=0.1)
        found.append((norm, [p.grad.to_dense() for p in parameters]))
    torch.testing.assert_close(found[0], found[1])
    assert float(total_norm(found[1][1])) == pytest.approx(0.1, rel=1e-4)


class Statistics(nn.Module):
    """A dense, a sparse and a boolean buffer, one of them assigned anew in each forward."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 1)
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))
        self.register_buffer("mean", torch.zeros(1))
        self.register_buffer("flags", torch.tensor([rank == 0, True]))
        self.register_buffer("graph", (torch.eye(2) * (rank + 1)).to_sparse())

    def forward(self, x: Tensor) -> Tensor:
        self.count += 1
        self.mean = x.mean().reshape(1) + self.mean
        return self.layer(x)


def share_statistics(rank: int, world_size: int) -> list[Any]:
    model = Statistics(rank)
    step = make_step(model, forward_loss, world_size)
    for _ in range(2):
        step(iter([torch.full((2, 4), float(rank + 1))]), [2], step_samples=4)
    before = model.mean.tolist()
    broadcast_tensors(list(model.buffers()))
    buffers = [model.count, model.mean, model.flags, model.graph.to_dense()]
    return [before, [buffer.tolist() for buffer in buffers]]


def test_buffers_are_rank_0s_at_each_step_and_of_every_kind_when_they_are_shared() -> None:
    first, second = run_group(share_statistics, 2)
    assert first[0] == [2.0]
    assert second[0] == [3.0], "1 of rank 0's first step, and 2 of its own second"
    assert first[1] == second[1] == [2, [2.0], [True, True], [[1.0, 0.0], [0.0, 1.0]]]


OPTIMIZERS: list[tuple[dict[str, Any], float | None]] = [
    ({"name": "sgd"}, None),
    ({"name": "sgd"}, 0.01),
    ({"name": "torch.optim:SparseAdam"}, 0.01),
    ({"name": "torch.optim:Adagrad"}, None),
]


def sparse_recipe() -> Recipe:
    generator = torch.Generator().manual_seed(0)
    ids, labels = torch.randint(0, 50, (256, 3), generator=generator), torch.randn(256, 50, generator=generator)
    torch.manual_seed(1)
    model = nn.EmbeddingBag(50, 50, sparse=True)
    data = TensorDataset(ids, labels)
    return Recipe(model=model, train_data=data, loss=lambda m, b: (m(b[0]) - b[1]).pow(2).mean())


def train_sparse(rank: int, world_size: int, folder: str, options: dict[str, Any], clip: float | None) -> list[float]:
    recipe = sparse_recipe()
    job = make_job(
        reference={"lr": 0.1, "optimizer": options},
        global_batch_size=32,
        rule="none",
        train={"num_samples": 256, "clip_grad_norm": clip},
    )
    around = Kept(rank, world_size, folder)
    Training(recipe, job, make_plan(job, world_size), around).run()
    return weights_of(recipe.model)


@pytest.mark.filterwarnings("ignore:Sparse invariant checks")  # torch's, of its own Adagrad
@pytest.mark.parametrize(("options", "clip"), OPTIMIZERS)
def test_sparse_gradients_are_trained_on_any_number_of_workers(
    tmp_path: Path, options: dict[str, Any], clip: float | None
) -> None:
    alone = train_sparse(0, 1, str(tmp_path / "alone"), options, clip)
    both = run_group(train_sparse, 2, str(tmp_path / "both"), options, clip)
    assert both[0] == both[1]
    torch.testing.assert_close(torch.tensor(both[0]), torch.tensor(alone), rtol=1e-4, atol=1e-5)


def test_an_optimizer_that_refuses_sparse_gradients_is_named_in_the_first_step(tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        train_sparse(0, 1, str(tmp_path), {"name": "adamw"}, None)
    assert str(caught.value) == (
        "the gradient of weight is sparse, and the optimizer does not take it: RuntimeError: Adam does not support "
        "sparse gradients, please consider SparseAdam instead\n"
        "  Use nn.Embedding(sparse=False), or an optimizer for sparse gradients: sgd without weight_decay, or "
        "torch.optim:SparseAdam."
    )


def launched_early(rank: int, world_size: int) -> list[int]:
    """Return how many buckets were being summed when backward ended, in each step."""
    torch.manual_seed(1)
    step, found = make_step(Words(), forward_loss, world_size), []
    gradient_sum = step._reduction._sum
    start_rest = gradient_sum.start_rest

    def note(*, counts: bool) -> None:
        found.append(gradient_sum._launched)
        start_rest(counts=counts)

    gradient_sum.start_rest = note
    for _ in range(4):
        step(iter([torch.ones(2, 4)]), [2], step_samples=4)
    return found


def test_sums_begin_inside_backward_from_the_second_step_on() -> None:
    assert run_group(launched_early, 2) == [[0, 1, 1, 1]] * 2
