"""The identities of FORMULAS section 12, items 1 to 3, 6 and 7, through the real training code."""

from typing import Any

import pytest
import torch
from groups import run_group
from torch import Tensor, nn

from scaler.core.batch import micro_batch_bounds
from scaler.training.clock import CpuClock
from scaler.training.gradients import GradientStep

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
    """Class 2 is padding: it has no weight, as a padded token has none."""
    kept = (batch[1] != 2).double()
    losses = nn.functional.cross_entropy(model(batch[0]), batch[1], reduction="none")
    return (losses * kept).sum(), kept.sum()


LOSSES = {"mean": mean_loss, "weighted": weighted_loss}


def step_gradient(rank: int, world_size: int, samples: int, grad_accum_steps: int, loss: str) -> dict[str, Any]:
    """The gradient of one step of ``samples`` samples, as this rank has it after the all-reduce."""
    model = make_model()
    inputs, labels = make_data(samples)
    gradient = GradientStep(
        model,
        LOSSES[loss],
        world_size=world_size,
        device=torch.device("cpu"),
        precision="fp32",
        scaler=torch.amp.GradScaler("cpu", enabled=False),
        clock=CpuClock(),
    )
    mine = micro_batch_bounds(samples, world_size=world_size, rank=rank, grad_accum_steps=grad_accum_steps)
    batches = ((inputs[start:stop], labels[start:stop]) for start, stop in mine or [(0, 1)])
    measures = gradient(batches, [stop - start for start, stop in mine], step_samples=samples)
    flat = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
    return {"gradient": flat.tolist(), "samples": measures.samples, "loss": measures.loss()}


def whole_batch_gradient(samples: int, loss: str) -> Tensor:
    """The gradient of the whole batch in one backward, by torch alone."""
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


class Bad:
    """Losses that no step can use, and what is said of each."""

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
        world_size=1,
        device=torch.device("cpu"),
        precision="fp32",
        scaler=torch.amp.GradScaler("cpu", enabled=False),
        clock=CpuClock(),
    )
    with pytest.raises(RecipeError) as caught:
        gradient(iter([(inputs, labels)]), [4], step_samples=4)
    assert caught.value.problem == problem
