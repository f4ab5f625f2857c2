"""A loss as a dict: of terms that are added, or with values that are recorded."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from groups import run_group
from small_runs import Kept, events_of, make_job, new_folder, step_losses, weights_of
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy, mse_loss
from torch.utils.data import Dataset, TensorDataset

import scaler
from scaler.core.batch import micro_batch_bounds
from scaler.errors import RecipeError
from scaler.job import Job, parse_job
from scaler.plan import make_plan
from scaler.training.gradients.losses import evaluated_loss, read_loss
from scaler.training.loop import Training
from scaler.training.randomness import seed_everything
from scaler.training.recipe.check import checked_recipe

SAMPLES = 50  # in steps of 16: the last has 2


class Vae(nn.Module):
    """A variational autoencoder whose noise is a part of the data."""

    def __init__(self) -> None:
        super().__init__()
        self.encode, self.decode = nn.Linear(3, 4).double(), nn.Linear(2, 3).double()


def points(columns: int = 3) -> Tensor:
    return torch.randn(SAMPLES, columns, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def vae_loss(model: nn.Module, batch: tuple[Tensor, ...], *, beta: float = 0.5) -> dict[str, Any]:
    """Two terms, which the user weights; both are means over samples."""
    target, noise = batch[0][:, :3], batch[0][:, 3:]
    mean, log_var = model.encode(target).chunk(2, dim=1)  # type: ignore[operator,union-attr]
    made = model.decode(mean + noise * (log_var / 2).exp())  # type: ignore[operator]
    kl = (mean.square() + log_var.exp() - 1 - log_var).sum(1).mean() / 2
    return {"reconstruction": mse_loss(made, target, reduction="none").sum(1).mean(), "kl": beta * kl}


def vae() -> dict[str, Any]:
    return {"model": Vae(), "train_data": TensorDataset(points(5)), "loss": vae_loss}


class Scenes(Dataset[Any]):
    """Scenes with another number of boxes each, some with none: a batch is a list."""

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(index)
        boxes = torch.randn(index % 4, 3, generator=generator, dtype=torch.float64)
        return {"boxes": boxes, "labels": (boxes.sum(1) > 0).long()}


class Detector(nn.Module):
    """Returns a dict of losses in training, as torchvision's detectors do: each over its own number of boxes."""

    def __init__(self) -> None:
        super().__init__()
        self.box, self.label = nn.Linear(3, 3).double(), nn.Linear(3, 2).double()

    def forward(self, scenes: list[dict[str, Tensor]]) -> dict[str, Any]:
        boxes = torch.cat([scene["boxes"] for scene in scenes])
        labels = torch.cat([scene["labels"] for scene in scenes])
        far = boxes[boxes.norm(dim=1) > 1]
        return {
            "classes": (cross_entropy(self.label(boxes), labels, reduction="sum"), len(boxes)),
            "boxes": ((self.box(far) - far).abs().sum(), torch.tensor(len(far))),
            "count": torch.stack([self.box(scene["boxes"]).sum().square() for scene in scenes]).mean(),
        }


def detection() -> dict[str, Any]:
    return {
        "model": Detector(),
        "train_data": Scenes(),
        "collate": list,
        "loss": lambda model, scenes: model(scenes),
    }


def maml_loss(model: nn.Module, batch: tuple[Tensor, ...]) -> dict[str, Any]:
    """Each sample is a task: adapt to its first half in one inner step, and be good on its second (double backward)."""
    losses, before = [], []
    for task in batch[0]:
        own, query = task[:3], task[3:]
        parameters = dict(model.named_parameters())
        inner = (functional_call(model, parameters, own[None]) - own.sum()).square().mean()
        slopes = torch.autograd.grad(inner, list(parameters.values()), create_graph=True)
        adapted = {name: value - 0.05 * slope for (name, value), slope in zip(parameters.items(), slopes, strict=True)}
        losses.append((functional_call(model, adapted, query[None]) - query.sum()).square().mean())
        before.append(inner.detach())
    return {"loss": torch.stack(losses).mean(), "before": torch.stack(before).mean()}


def maml() -> dict[str, Any]:
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double()
    return {"model": model, "train_data": TensorDataset(points(6)), "loss": maml_loss}


def simclr_loss(model: nn.Module, batch: tuple[Tensor, ...]) -> dict[str, Any]:
    """Two views of each sample; every row is compared with the views of all workers."""
    views = [nn.functional.normalize(model(view), dim=1) for view in (batch[0], batch[0] + 0.1)]
    left, right = (scaler.all_gather(view) for view in views)
    logits = left @ right.T / 0.5
    targets = torch.arange(len(logits))
    return {"loss": cross_entropy(logits, targets), "top1": (logits.argmax(1) == targets).double().mean()}


def simclr() -> dict[str, Any]:
    return {"model": nn.Linear(3, 4).double(), "train_data": TensorDataset(points()), "loss": simclr_loss}


def weighted() -> dict[str, Any]:
    """A loss with weights of its own, in micro-batches, that records the accuracy over the same weights."""

    def loss(model: nn.Module, batch: tuple[Tensor, ...]) -> dict[str, Any]:
        labels = (batch[0].sum(1) > 0).long()
        counts = batch[0][:, 0] > -0.5
        logits = model(batch[0])[counts]
        right = (logits.argmax(1) == labels[counts]).sum()
        total = cross_entropy(logits, labels[counts], reduction="sum")
        return {"loss": (total, counts.sum()), "accuracy": (right, counts.sum()), "samples": len(batch[0])}

    return {"model": nn.Linear(3, 2).double(), "train_data": TensorDataset(points()), "loss": loss}


KINDS: Mapping[str, Callable[[], dict[str, Any]]] = {
    "vae": vae,
    "detection": detection,
    "maml": maml,
    "simclr": simclr,
    "weighted": weighted,
}


def train(rank: int, world_size: int, folder: str, values: dict[str, Any], kind: str) -> dict[str, Any]:
    torch.set_num_threads(1)
    job = parse_job(values, source="job")
    seed_everything(job.train.seed)
    recipe = checked_recipe(scaler.Recipe(**KINDS[kind]()), "r:build")
    around = Kept(rank, world_size, folder)
    Training(recipe, job, make_plan(job, world_size), around).run()
    return {
        "records": [tuple(record) for record in around.records],
        "events": around.events,
        "weights": weights_of(recipe.model),
    }


def run(tmp_path: Path, world_size: int, job: Job, kind: str) -> list[dict[str, Any]]:
    arguments = (str(new_folder(tmp_path)), job.model_dump(), kind)
    return [train(0, 1, *arguments)] if world_size == 1 else run_group(train, world_size, *arguments)


def job_of(**scale: Any) -> Job:
    return make_job(**{"global_batch_size": 16, **scale}, train={"num_samples": SAMPLES, "epochs": 2})


def recorded(ranks: list[dict[str, Any]]) -> dict[str, tuple[float, float]]:
    """The weighted mean of each recorded value over the whole run, and its weight."""
    sums: dict[str, list[float]] = {}
    for event in [event for rank in ranks for event in events_of(rank, "recorded")]:
        for name, value in event.values.items():
            mine = sums.setdefault(name, [0.0, 0.0])
            mine[0] += value * event.weights[name]
            mine[1] += event.weights[name]
    return {name: (total / weight, weight) for name, (total, weight) in sums.items()}


NAMES = {
    "vae": {"reconstruction": 100, "kl": 100},
    "detection": {"classes": 2 * sum(i % 4 for i in range(50)), "boxes": None, "count": 100},
    "maml": {"before": 100},
    "simclr": {"top1": 100},
    "weighted": {"accuracy": None, "samples": 100},
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_loss_of_terms_trains_the_same_on_any_number_of_workers(tmp_path: Path, kind: str) -> None:
    """50 samples in steps of 16, on 1 and on 3 workers: shares of 6, 5 and 5; the last has 2, and rank 2 none."""
    one, three = (run(tmp_path, size, job_of(), kind) for size in (1, 3))
    for rank in three:
        assert rank["weights"] == pytest.approx(one[0]["weights"], rel=1e-9, abs=1e-12)
    if kind != "weighted":  # its weight differs between workers
        assert step_losses(three) == pytest.approx(step_losses(one), rel=1e-9)
    mine, theirs = recorded(one), recorded(three)
    assert list(mine) == list(NAMES[kind])
    for name, weight in NAMES[kind].items():
        assert mine[name][1] == (weight if weight is not None else theirs[name][1])
        if name != "samples":  # of a micro-batch
            assert theirs[name] == pytest.approx(mine[name], rel=1e-9)
    if kind in ("vae", "detection"):
        assert max(step_losses(one)) > 0
        assert all(event.loss_not_checked is None for event in events_of(one[0], "tried_out"))


@pytest.mark.parametrize("kind", ["vae", "weighted"])
def test_terms_are_added_in_micro_batches_too(tmp_path: Path, kind: str) -> None:
    whole, parts = (run(tmp_path, 1, job_of(per_worker_batch_size=size), kind) for size in (16, 6))
    assert parts[0]["weights"] == pytest.approx(whole[0]["weights"], rel=1e-9, abs=1e-12)
    assert step_losses(parts) == pytest.approx(step_losses(whole), rel=1e-9)


def test_terms_with_weights_of_their_own_are_refused_in_micro_batches(tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        run(tmp_path, 1, job_of(per_worker_batch_size=8), "detection")
    assert str(caught.value) == (
        "the loss has terms with weights of their own, and a step has 2 micro-batches on a worker: the weights of the "
        "whole step are known only after the last.\n"
        "  Use scale.grad_accum_steps: 1 and a per_worker_batch_size of at least a worker's share of the step; or "
        "return means, or one (sum, weight)."
    )


def test_the_gradient_of_terms_is_that_of_their_means_over_the_whole_batch() -> None:
    """Against plain torch: each sum divided by its weight over all samples."""
    scenes = [Scenes()[index] for index in range(16)]
    torch.manual_seed(0)
    model = Detector()
    found = model(scenes)
    total = sum(term[0] / term[1] if isinstance(term, tuple) else term for term in found.values())
    total.backward()
    expected = torch.cat([parameter.grad.flatten() for parameter in model.parameters()]).tolist()
    for gradient, loss in run_group(gradient_of, 2):
        assert gradient == pytest.approx(expected, rel=1e-9)
        assert loss == pytest.approx(total.item(), rel=1e-9), "added up over the shares"


def gradient_of(rank: int, world_size: int) -> tuple[list[float], float]:
    """Return the gradient of a step of 16 scenes, and the losses of the workers weighted by their shares."""
    from test_gradients import make_step

    scenes = [Scenes()[index] for index in range(16)]
    torch.manual_seed(0)
    model = Detector()
    step = make_step(model, lambda model, batch: model(batch), world_size)
    ((start, stop),) = micro_batch_bounds(16, world_size=world_size, rank=rank, grad_accum_steps=1)
    measures = step(iter([scenes[start:stop]]), [stop - start], step_samples=16)
    loss = measures.losses[0][0] * (stop - start) / 16
    torch.distributed.all_reduce(loss)
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters()]).tolist(), float(loss)


def test_the_terms_of_a_loss_are_values_of_an_evaluation() -> None:
    one, two = torch.tensor(1.0), torch.tensor(2.0)
    assert evaluated_loss({"a": one, "b": two}) == {"loss": 3.0, "a": 1.0, "b": 2.0}
    assert evaluated_loss({"loss": (one, 4), "accuracy": 0.5}) == {"loss": (1.0, 4), "accuracy": 0.5}
    assert evaluated_loss((one, two)) == {"loss": (1.0, 2.0)}
    with pytest.raises(RecipeError) as caught:
        evaluated_loss({"a": (one, 2), "b": two})
    assert str(caught.value) == (
        "loss(model, batch) returned terms with weights of their own in the evaluation, and the recipe has no "
        "evaluate.\n  Add evaluate(model, batch), which returns the values by name."
    )


def test_a_constant_term_that_is_zero_is_a_term() -> None:
    """A detector without boxes in the batch."""
    loss = torch.ones((), requires_grad=True) * 2
    (term,) = read_loss({"boxes": loss, "masks": torch.tensor(0.0)}).terms
    assert term.value.item() == 2.0


needs = torch.ones((), requires_grad=True)


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (
            {},
            "loss(model, batch) returned an empty dict.\n  Return a scalar tensor, (sum, weight), or a dict of these.",
        ),
        (
            {"a": needs, "b": "high"},
            "loss(model, batch) returned a dict whose b is a str.\n"
            "  Return a scalar tensor, (sum, weight), or a dict of these.",
        ),
        (
            {"loss": "low"},
            "loss(model, batch) returned a dict whose loss is a str.\n"
            "  Return a scalar tensor, (sum, weight), or a dict of these.",
        ),
        (
            {"loss": needs, "logits": torch.zeros(4, 2)},
            "loss(model, batch) returned logits = a tensor of shape (4, 2).\n"
            "  A value to record is a number: a mean over the samples, or (sum, weight).",
        ),
        (
            {"loss": needs, 3: 1.0},
            "loss(model, batch) returned a value with the name 3.\n  The names of values are texts.",
        ),
        (
            {"a": needs, "accuracy": torch.tensor(0.5)},
            "loss(model, batch) returned the term accuracy without a gradient: without an entry loss, each entry is a "
            'term.\n  To record accuracy only, return the sum of the terms as "loss" beside it.',
        ),
        (
            {"a": torch.tensor(0.0)},
            "loss(model, batch) returned terms without a gradient.\n  Compute them from the model's output.",
        ),
        (
            {"loss": torch.tensor(1.0)},
            "loss(model, batch) returned a dict whose loss is a tensor without a gradient.\n"
            "  Compute it from the model's output.",
        ),
    ],
)
def test_a_dict_that_is_no_loss_is_refused(found: Any, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        read_loss(found)
    assert str(caught.value) == message


def test_a_term_that_is_no_mean_over_samples_is_found(tmp_path: Path) -> None:
    """The probe sees the terms together: a sum among them is refused."""
    given = vae()
    recipe = scaler.Recipe(
        **{**given, "loss": lambda model, batch: {**vae_loss(model, batch), "sum": model.encode(batch[0][:, :3]).sum()}}
    )
    job = job_of()
    with pytest.raises(RecipeError, match="is not a mean over the batch's samples"):
        Training(recipe, job, make_plan(job, 1), Kept(0, 1, str(tmp_path))).run()


def test_a_value_may_be_recorded_in_some_steps_only(tmp_path: Path) -> None:
    calls: list[int] = []

    def loss(model: nn.Module, batch: tuple[Tensor, ...]) -> Any:
        calls.append(1)
        value = model(batch[0]).square().mean()
        return {"loss": value, "twice": 2.0} if len(calls) > 2 else value

    recipe = scaler.Recipe(
        model=nn.Linear(3, 1).double(), train_data=TensorDataset(points()), loss=loss, loss_over="micro_batch"
    )
    job, context = job_of(), Kept(0, 1, str(tmp_path))
    Training(recipe, job, make_plan(job, 1), context).run()
    values = [event.values for event in context.events if event.kind == "recorded"]
    assert values
    assert all(each == {"twice": 2.0} for each in values)
