"""Gradients of one step are the same for every division of the batch, through the real training code."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from groups import run_group
from small_runs import make_job, records_of, run
from torch import Tensor, nn

from scaler.core.batch import micro_batch_bounds
from scaler.core.noise_scale import estimate_squares
from scaler.training.activity import Activity
from scaler.training.clock import CpuClock
from scaler.training.gradients.step import GradientStep
from scaler.training.gradients.values import RecordedValues
from scaler.training.model.sharding import whole
from scaler.training.parallel.replicated import Replicated

FEATURES = 5


def make_model() -> nn.Module:
    torch.manual_seed(7)
    return nn.Sequential(nn.Linear(FEATURES, 8), nn.Tanh(), nn.Linear(8, 3)).double()


def make_data(size: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return (
        torch.randn(size, FEATURES, generator=generator, dtype=torch.float64),
        torch.randint(3, (size,), generator=generator),
    )


def mean_loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


def weighted_loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Class 2 is padding: it has weight 0, like a padded token."""
    kept = (batch[1] != 2).double()
    losses = nn.functional.cross_entropy(model(batch[0]), batch[1], reduction="none")
    return (losses * kept).sum(), kept.sum()


LOSSES = {"mean": mean_loss, "weighted": weighted_loss}


def step_gradient(
    rank: int,
    world_size: int,
    samples: int,
    grad_accum_steps: int,
    loss: str,
    measure: bool = False,
    loss_scale: float | None = None,
) -> dict[str, Any]:
    """Return the gradient of one step of ``samples`` samples on this rank after the all-reduce."""
    model = make_model()
    inputs, labels = make_data(samples)
    gradient = GradientStep(
        model,
        LOSSES[loss],
        parallel=Replicated(world_size=world_size, device=torch.device("cpu")),
        world_size=world_size,
        device=torch.device("cpu"),
        precision="fp32",
        scaler=torch.amp.GradScaler("cpu", init_scale=loss_scale or 1.0, enabled=loss_scale is not None),
        clock=CpuClock(),
        activity=Activity(),
        values=RecordedValues(),
    )
    mine = micro_batch_bounds(samples, world_size=world_size, rank=rank, grad_accum_steps=grad_accum_steps)
    batches = ((inputs[start:stop], labels[start:stop]) for start, stop in mine or [(0, 1)])
    sizes = [stop - start for start, stop in mine]
    measures = gradient(batches, sizes, step_samples=samples, measure=measure, micro_steps=grad_accum_steps)
    flat = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
    parts = measures.parts
    return {
        "gradient": flat.tolist(),
        "samples": measures.samples,
        "loss": measures.loss()[0],
        "weight": measures.loss()[1],
        "parts": None if parts is None else (parts.squares, parts.samples),
    }


def whole_batch_gradient(samples: int, loss: str) -> Tensor:
    """Return the gradient of the whole batch from one backward, by torch alone."""
    model, batch = make_model(), make_data(samples)
    value = LOSSES[loss](model, batch)
    (value[0] / value[1] if isinstance(value, tuple) else value).backward()
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters()])


def relative_error(found: list[float], expected: Tensor) -> float:
    return float((torch.tensor(found, dtype=torch.float64) - expected).norm() / expected.norm())


@pytest.mark.parametrize("loss", ["mean", "weighted"])
@pytest.mark.parametrize(
    ("world_size", "samples", "grad_accum_steps"),
    [
        (2, 16, 1),  # even shares
        (2, 7, 1),  # shares of 4 and 3: a mean over ranks would be wrong
        (3, 20, 2),  # shares of 7, 7 and 6 in micro-batches of 4, 3, 4, 3, 3, 3
        (3, 2, 2),  # rank 2 has no sample at all, and nobody has two micro-batches
    ],
)
def test_any_sharing_gives_the_gradient_of_one_worker_on_the_whole_batch(
    world_size: int, samples: int, grad_accum_steps: int, loss: str
) -> None:
    expected = whole_batch_gradient(samples, loss)
    ranks = run_group(step_gradient, world_size, samples, grad_accum_steps, loss)
    assert [rank["samples"] for rank in ranks] == [
        samples // world_size + (rank < samples % world_size) for rank in range(world_size)
    ]
    assert all(rank["gradient"] == ranks[0]["gradient"] for rank in ranks), "every rank must hold the same bits"
    assert relative_error(ranks[0]["gradient"], expected) < 1e-12


def test_the_mean_of_means_would_fail_this_test() -> None:
    """The negative control: averaging over ranks, as plain DDP does, is far beyond the tolerance on uneven shares."""
    model = make_model()
    inputs, labels = make_data(7)
    gradients = []
    for part in (slice(0, 4), slice(4, 7)):
        model.zero_grad()
        mean_loss(model, (inputs[part], labels[part])).backward()
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in model.parameters()]))
    naive = (gradients[0] + gradients[1]) / 2
    assert relative_error(naive.tolist(), whole_batch_gradient(7, "mean")) > 1e-3


@pytest.mark.parametrize("grad_accum_steps", [1, 2, 3])
def test_accumulation_on_one_worker_gives_the_whole_batch(grad_accum_steps: int) -> None:
    found = step_gradient(0, 1, 8, grad_accum_steps, "mean")
    assert relative_error(found["gradient"], whole_batch_gradient(8, "mean")) < 1e-12


def test_one_worker_without_accumulation_is_a_bitwise_no_op() -> None:
    found = step_gradient(0, 1, 8, 1, "mean")
    assert found["gradient"] == whole_batch_gradient(8, "mean").tolist()


def test_an_empty_share_has_no_loss_and_no_samples() -> None:
    ranks = run_group(step_gradient, 3, 2, 1, "mean")
    assert (ranks[2]["samples"], ranks[2]["loss"]) == (0, None)


def exact_parts(samples: int, loss: str, *, world_size: int, grad_accum_steps: int) -> tuple[list[float], list[float]]:
    """Return the squared norm of each part's mean gradient, and the part's weight in samples."""
    inputs, labels = make_data(samples)
    squares, weights = [], []
    for start, stop in (
        bounds
        for rank in range(world_size)
        for bounds in micro_batch_bounds(samples, world_size=world_size, rank=rank, grad_accum_steps=grad_accum_steps)
    ):
        model = make_model()
        weight = float((labels[start:stop] != 2).sum()) if loss == "weighted" else float(stop - start)
        weights.append(weight)
        if weight == 0.0:
            squares.append(0.0)
            continue
        value = LOSSES[loss](model, (inputs[start:stop], labels[start:stop]))
        (value[0] / value[1] if isinstance(value, tuple) else value).backward()
        squares.append(float(sum((parameter.grad**2).sum() for parameter in model.parameters())))
    return squares, [samples * weight / sum(weights) for weight in weights]


def assert_parts(found: tuple[Any, Any], expected: tuple[list[float], list[float]]) -> None:
    """Compare the parts that have samples, in order: workers with fewer micro-batches have empty places."""
    ours, theirs = ([pair for pair in zip(*parts, strict=True) if pair[1]] for parts in (found, expected))
    assert [square for square, _ in ours] == pytest.approx([square for square, _ in theirs], rel=1e-12)
    assert [size for _, size in ours] == pytest.approx([size for _, size in theirs], rel=2e-12)


@pytest.mark.parametrize("loss", ["mean", "weighted"])
@pytest.mark.parametrize(
    ("world_size", "samples", "grad_accum_steps"),
    [
        (2, 16, 1),  # even shares
        (2, 7, 2),  # shares of 4 and 3, in two micro-batches each: four parts
        (2, 40, 5),  # ten parts
        (3, 4, 2),  # a share of 2 samples in two micro-batches, and two shares of 1 in one each
        (3, 20, 1),  # shares of 7, 7 and 6
        (3, 2, 1),  # rank 2 has no sample; with weights, one of the two samples may have none either
    ],
)
def test_the_parts_of_a_step_are_the_mean_gradients_of_every_worker_s_micro_batches(
    world_size: int, samples: int, grad_accum_steps: int, loss: str
) -> None:
    ranks = run_group(step_gradient, world_size, samples, grad_accum_steps, loss, True)
    exact = exact_parts(samples, loss, world_size=world_size, grad_accum_steps=grad_accum_steps)
    assert_parts(ranks[0]["parts"], exact)
    assert all(rank["parts"] == ranks[0]["parts"] for rank in ranks), "every rank must hold the same bits"


@pytest.mark.parametrize("loss", ["mean", "weighted"])
@pytest.mark.parametrize(("samples", "grad_accum_steps"), [(8, 2), (8, 3), (5, 4)])  # also uneven micro-batches
def test_the_parts_of_one_worker_are_its_micro_batches(samples: int, grad_accum_steps: int, loss: str) -> None:
    found = step_gradient(0, 1, samples, grad_accum_steps, loss, True)
    assert_parts(found["parts"], exact_parts(samples, loss, world_size=1, grad_accum_steps=grad_accum_steps))


@pytest.mark.parametrize("loss", ["mean", "weighted"])
@pytest.mark.parametrize(("world_size", "grad_accum_steps"), [(1, 3), (1, 1), (2, 2)])
def test_measuring_changes_no_bit_of_the_gradient(world_size: int, grad_accum_steps: int, loss: str) -> None:
    plain, measured = (
        run_group(step_gradient, world_size, 7, grad_accum_steps, loss, measure)[0]["gradient"]
        for measure in (False, True)
    )
    assert measured == plain


@pytest.mark.parametrize(("world_size", "grad_accum_steps"), [(1, 3), (2, 2)])
def test_a_loss_scale_is_taken_out_of_the_parts(world_size: int, grad_accum_steps: int) -> None:
    plain, scaled = (
        run_group(step_gradient, world_size, 7, grad_accum_steps, "mean", True, loss_scale)[0]
        for loss_scale in (None, 1024.0)
    )
    assert scaled["gradient"] == [1024.0 * value for value in plain["gradient"]]
    assert scaled["parts"] == plain["parts"]


def test_workers_and_micro_batches_of_the_same_samples_say_the_same_of_the_noise() -> None:
    ways = [
        run_group(step_gradient, 4, 20, 1, "mean", True)[0],
        step_gradient(0, 1, 20, 4, "mean", True),
        run_group(step_gradient, 2, 20, 2, "mean", True)[0],
    ]
    by_workers, by_micro_batches, by_both = (
        estimate_squares(*way["parts"], total_square=sum(value**2 for value in way["gradient"])) for way in ways
    )
    assert by_workers is not None
    assert by_micro_batches is not None
    assert by_both is not None
    for other in (by_micro_batches, by_both):
        assert by_workers.signal == pytest.approx(other.signal, rel=1e-12)
        assert by_workers.variance == pytest.approx(other.variance, rel=1e-12)


def test_one_worker_without_accumulation_has_no_parts() -> None:
    assert step_gradient(0, 1, 8, 1, "mean", True)["parts"] == ((), ())
    assert step_gradient(0, 1, 8, 3, "mean")["parts"] is None, "nor has a step that is not measured"


def test_the_parts_of_a_weighted_step_are_never_more_than_its_samples() -> None:
    """Their shares are rounded; in a step that uses all samples of the data, more would be refused."""
    for samples in range(3, 60):
        found = step_gradient(0, 1, samples, 3, "weighted", True)["parts"]
        assert sum(found[1]) <= samples


def test_a_run_measures_every_so_many_steps_and_on_one_worker_without_accumulation_never(tmp_path: Path) -> None:
    often = {"train": {"noise_scale_every": 3}}
    alone = records_of(run(tmp_path, 1, make_job(per_worker_batch_size=64, **often)))
    assert {record.grad_signal for record in alone} == {None}
    job = make_job(per_worker_batch_size=32, grad_accum_steps=2, **often)
    measured = records_of(run(tmp_path, 1, job))
    assert [record.step for record in measured if record.grad_signal is not None] == [0, 3, 6, 9]
    never = make_job(per_worker_batch_size=32, grad_accum_steps=2, train={"noise_scale_every": None})
    assert {record.noise_scale for record in records_of(run(tmp_path, 1, never))} == {None}


def test_clipping_does_not_change_what_is_measured(tmp_path: Path) -> None:
    ways = []
    for clip in (None, 1e-3):
        train = {"clip_grad_norm": clip, "noise_scale_every": 1}
        job = make_job(  # at this learning rate the weights stay where they are
            per_worker_batch_size=32, grad_accum_steps=2, reference={"lr": 1e-30}, train=train
        )
        records = records_of(run(tmp_path, 1, job))
        ways.append([(record.grad_norm, record.grad_signal, record.grad_variance) for record in records])
    assert ways[0] == ways[1]
    assert all(variance is not None for _, _, variance in ways[0])


class Bad:
    """Losses that no step can use, and the message for each."""

    CASES = (
        (lambda model, batch: model(batch[0]), "loss(model, batch) returned a tensor of shape (4, 3)."),
        (lambda model, batch: 1.0, "loss(model, batch) returned a float."),
        (lambda model, batch: torch.tensor(1.0), "loss(model, batch) returned a tensor without a gradient."),
    )


@pytest.mark.parametrize(("loss", "problem"), Bad.CASES)
def test_a_loss_that_no_step_can_use_is_refused(loss: Any, problem: str) -> None:
    from scaler.errors import RecipeError

    inputs, labels = make_data(4)
    gradient = GradientStep(
        make_model(),
        loss,
        parallel=Replicated(world_size=1, device=torch.device("cpu")),
        world_size=1,
        device=torch.device("cpu"),
        precision="fp32",
        scaler=torch.amp.GradScaler("cpu", enabled=False),
        clock=CpuClock(),
        activity=Activity(),
        values=RecordedValues(),
    )
    with pytest.raises(RecipeError) as caught:
        gradient(iter([(inputs, labels)]), [4], step_samples=4)
    assert caught.value.problem == problem


class TwoHeads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(3, 1), nn.Linear(3, 1)

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        return self.one(inputs), self.two(inputs)


def leave_out(rank: int, world_size: int, make: Callable[[nn.Module, Any], GradientStep] | None = None) -> list[Any]:
    """Return the gradients of two steps: rank 1 uses one head only in one, and no rank the second head in the other.

    ``make`` gets the model and its loss; None: every rank has a copy of the model.
    """
    model = TwoHeads()
    for parameter in model.parameters():
        nn.init.constant_(parameter, 0.5)
    uses = iter([rank == 1, True])

    def loss(model: nn.Module, inputs: Tensor) -> Tensor:
        one, two = model(inputs)
        return one.mean() if next(uses) else (one + two).mean()

    step = make_step(model, loss, world_size) if make is None else make(model, loss)
    found = []
    for _ in range(2):
        step(iter([torch.ones(2, 3)]), [2], step_samples=2 * world_size)
        found.append([None if p.grad is None else whole(p.grad).flatten().tolist() for p in model.parameters()])
        model.zero_grad()
    return found


def test_a_parameter_that_some_workers_leave_out_has_the_gradient_of_the_others_and_one_that_all_do_has_none() -> None:
    ones, halves = [1.0] * 3, [0.5] * 3
    assert run_group(leave_out, 2) == [[[ones, [1.0], halves, [0.5]], [ones, [1.0], None, None]]] * 2


def make_step(model: nn.Module, loss: Any, world_size: int) -> GradientStep:
    return GradientStep(
        model,
        loss,
        parallel=Replicated(world_size=world_size, device=torch.device("cpu")),
        world_size=world_size,
        device=torch.device("cpu"),
        precision="fp32",
        scaler=torch.amp.GradScaler("cpu", enabled=False),
        clock=CpuClock(),
        activity=Activity(),
        values=RecordedValues(),
    )
