"""Rows of all workers, and their gradients."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from groups import run_group
from small_runs import Kept, make_job, step_losses
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize
from torch.utils.data import TensorDataset

import scaler
from scaler.core.batch import micro_batch_bounds
from scaler.errors import RecipeError
from scaler.job import Job, parse_job
from scaler.plan import make_plan
from scaler.training.activity import Activity
from scaler.training.clock import CpuClock
from scaler.training.gradients.gather import gathering
from scaler.training.gradients.step import GradientStep
from scaler.training.gradients.values import RecordedValues
from scaler.training.loop import Training
from scaler.training.parallel.replicated import Replicated
from scaler.training.randomness import seed_everything


class TwoTowers(nn.Module):
    """Two encoders and a temperature that is a part of the loss, as in CLIP."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(7)
        self.left, self.right = nn.Linear(12, 8).double(), nn.Linear(12, 8).double()
        self.log_scale = nn.Parameter(torch.tensor(1.5, dtype=torch.float64))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return normalize(self.left(x), dim=1), normalize(self.right(x), dim=1), self.log_scale.exp()


def clip_loss(model: nn.Module, batch: tuple[Tensor, ...], *, gather: bool = True) -> Tensor:
    """CLIP's loss of the gathered rows, the same on every worker."""
    left, right, scale = model(batch[0])
    if gather:
        left, right = scaler.all_gather(left), scaler.all_gather(right)
    logits = scale * left @ right.T
    target = torch.arange(len(logits))
    return (cross_entropy(logits, target) + cross_entropy(logits.T, target)) / 2


def samples(count: int) -> Tensor:
    return torch.randn(count, 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def gradient_of(rank: int, world_size: int, count: int) -> tuple[list[float], float]:
    """Return one step's gradient and this rank's loss, computed as in training."""
    model = TwoTowers()
    step = GradientStep(
        model,
        clip_loss,
        parallel=Replicated(world_size=world_size, device=torch.device("cpu")),
        world_size=world_size,
        device=torch.device("cpu"),
        precision="fp32",
        scaler=torch.amp.GradScaler("cpu", enabled=False),
        clock=CpuClock(),
        activity=Activity(),
        values=RecordedValues(),
    )
    mine = micro_batch_bounds(count, world_size=world_size, rank=rank, grad_accum_steps=1)
    source = ((samples(count)[start:stop],) for start, stop in mine or [(0, 1)])
    measures = step(source, [stop - start for start, stop in mine], step_samples=count)
    flat = torch.cat([parameter.grad.flatten() for parameter in model.parameters() if parameter.grad is not None])
    return flat.tolist(), float(measures.losses[0][0])


@pytest.mark.parametrize(
    ("world_size", "count"),
    [
        (2, 8),  # even shares
        (2, 7),  # shares of 4 and 3
        (3, 7),  # 3, 2 and 2
        (3, 2),  # rank 2 has no sample: what its model runs on is no row
    ],
)
def test_a_gathered_loss_has_the_gradient_of_one_worker_on_the_whole_batch(world_size: int, count: int) -> None:
    model = TwoTowers()
    loss = clip_loss(model, (samples(count),), gather=False)
    loss.backward()
    expected = torch.cat([parameter.grad.flatten() for parameter in model.parameters() if parameter.grad is not None])
    for found, of_rank in run_group(gradient_of, world_size, count):
        assert of_rank == pytest.approx(loss.item(), rel=1e-12), "every worker has the loss of all samples"
        assert found == pytest.approx(expected.tolist(), rel=1e-10, abs=1e-14)


def test_without_gathering_the_gradient_is_another() -> None:
    """The negative control: with only each worker's own samples, the objective is another one."""
    model = TwoTowers()
    sum(clip_loss(model, (part,), gather=False) / 2 for part in samples(8).split(4)).backward()
    parts = torch.cat([parameter.grad.flatten() for parameter in model.parameters() if parameter.grad is not None])
    ((expected, _),) = run_group(gradient_of, 1, 8)
    assert (parts - torch.tensor(expected, dtype=torch.float64)).norm() > 0.1 * parts.norm()


def gathers_everything(rank: int, world_size: int) -> list[Any]:
    """Rows of several dtypes, of 0, 1 and 2 rows, and the messages for shapes and dtypes that do not fit."""
    found: list[Any] = []
    for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.complex64, torch.int64, torch.bool, torch.uint8):
        rows = scaler.all_gather(torch.full((rank, 2), rank).to(dtype))
        found.append((str(rows.dtype), rows.to(torch.complex64).real[:, 0].tolist(), tuple(rows.shape)))
    for dtype in (torch.bfloat16, torch.complex64):
        mine = torch.ones(rank, dtype=dtype, requires_grad=True)
        (scaler.all_gather(mine).abs().sum() * (rank + 1)).backward()
        assert mine.grad is not None
        found.append((mine.grad.dtype == dtype, mine.grad.abs().tolist()))
    for wrong in (torch.zeros(1, 2 + rank), torch.zeros(1, dtype=torch.float64 if rank else torch.float32)):
        with pytest.raises(RecipeError) as caught:
            scaler.all_gather(wrong)
        found.append(str(caught.value))
    with gathering(is_alone=True) as calls:
        found.append((scaler.all_gather(torch.tensor([rank])).tolist(), calls.was_called))
    dist.barrier()
    return found


def test_rows_of_any_dtype_and_number_are_gathered_and_others_refused() -> None:
    for rank, found in enumerate(run_group(gathers_everything, 3)):
        assert [rows for _, rows, _ in found[:5]] == [[1.0, 2.0, 2.0]] * 5
        assert [shape for *_, shape in found[:7]] == [(3, 2)] * 7
        assert [dtype for dtype, *_ in found[:7]] == [
            f"torch.{name}" for name in ("float32", "bfloat16", "float16", "complex64", "int64", "bool", "uint8")
        ]
        assert found[7:9] == [(True, [6.0] * rank)] * 2, "the sum of what the workers want of a row"
        assert found[9:11] == [
            "scaler.all_gather: workers hold tensors of shapes (1, 2), (1, 3), (1, 4).\n"
            "  They may differ in the first dimension only.",
            "scaler.all_gather: workers hold tensors of dtypes float32, float64, float64.\n  They must be the same.",
        ]
        assert found[11] == ([rank], True)


def test_on_one_worker_it_is_the_tensor_itself() -> None:
    tensor = torch.ones(2, requires_grad=True)
    assert scaler.all_gather(tensor) is tensor
    with pytest.raises(RecipeError) as caught:
        scaler.all_gather(tensor.sum())
    assert str(caught.value) == (
        "scaler.all_gather was given a tensor without dimensions.\n  Give it one row for each sample."
    )


def train_contrastive(rank: int, world_size: int, folder: str, values: dict[str, Any], how: str) -> dict[str, Any]:
    """Train two towers on 200 samples; ``how`` is the recipe's declaration of its loss."""
    torch.set_num_threads(1)
    job: Job = parse_job(values, source="job")
    seed_everything(job.train.seed)
    recipe = scaler.Recipe(
        model=TwoTowers(),
        train_data=TensorDataset(samples(200)),
        loss=lambda model, batch: clip_loss(model, batch, gather=how != "plain"),
        loss_over="global_batch" if how == "plain" else "samples",
    )
    around = Kept(rank, world_size, folder)
    plan = make_plan(job, world_size, num_samples=200)
    try:
        Training(recipe, job, plan, around).run()
        error = None
    except RecipeError as raised:
        error = str(raised)
    return {"records": [tuple(record) for record in around.records], "error": error}


def contrastive(tmp_path: Path, world_size: int, how: str = "gathered", **scale: Any) -> list[dict[str, Any]]:
    job = make_job(num_workers=world_size, **scale, train={"num_samples": 200, "epochs": 2})
    folder = tmp_path / f"{world_size}-{how}"
    folder.mkdir()
    arguments = (str(folder), job.model_dump(), how)
    if world_size == 1:
        return [train_contrastive(0, 1, *arguments)]
    return run_group(train_contrastive, world_size, *arguments)


def test_a_gathered_contrastive_loss_trains_the_same_on_any_number_of_workers(tmp_path: Path) -> None:
    """200 samples in steps of 64: the last has 8."""
    one, *others = (contrastive(tmp_path, size, global_batch_size=64) for size in (1, 2, 3))
    expected = step_losses(one)
    assert len(expected) == 8
    for ranks in others:
        assert step_losses(ranks) == pytest.approx(expected, rel=1e-9)


def test_a_loss_over_the_global_batch_is_refused_where_a_step_has_micro_batches(tmp_path: Path) -> None:
    (rank,) = contrastive(tmp_path, 1, global_batch_size=64, per_worker_batch_size=32)
    assert rank["error"] == (
        "the loss is over the global batch, and a step has 2 micro-batches on a worker: their samples are never "
        "compared with each other.\n"
        "  Use scale.grad_accum_steps: 1 and a per_worker_batch_size of at least a worker's share of the step."
    )


def test_a_loss_over_the_global_batch_that_does_not_gather_is_refused_on_several_workers(tmp_path: Path) -> None:
    assert contrastive(tmp_path, 1, "plain", global_batch_size=64)[0]["error"] is None
    errors = [rank["error"] for rank in contrastive(tmp_path, 2, "plain", global_batch_size=64)]
    assert errors[0] == errors[1]
    assert errors[0].startswith("the loss is over the global batch, and 8 samples give ")
    assert errors[0].endswith(
        " on 2.\n  Gather everything that is compared with scaler.all_gather, and compute the loss from the gathered "
        "rows alone: then every worker has the loss of all samples."
    )
