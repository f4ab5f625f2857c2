"""Metrics that are not means over samples: computed over all the data of all workers, or refused at the start."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from groups import run_group
from small_runs import Kept, make_job, make_recipe
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from scaler import Recipe
from scaler.errors import RecipeError
from scaler.plan import make_plan
from scaler.training.activity import Activity
from scaler.training.evaluation.cut_check import cut_error
from scaler.training.evaluation.evaluator import Evaluator
from scaler.training.evaluation.loop import evaluate

SAMPLES = 45
CPU = torch.device("cpu")


def scores() -> Tensor:
    """Return targets sorted by class, as evaluation sets often are, and scores that are right for most samples."""
    generator = torch.Generator().manual_seed(1)
    targets = torch.cat([torch.zeros(30), torch.ones(SAMPLES - 30)])
    return torch.stack([targets + 0.8 * torch.randn(SAMPLES, generator=generator), targets], 1)


def f1(predictions: Any, targets: Any) -> float:
    predictions, targets = np.asarray(predictions), np.asarray(targets)
    right = int(((predictions == 1) & (targets == 1)).sum())
    return 2 * right / max(2 * right + int((predictions != targets).sum()), 1)


EXPECTED = f1(scores()[:, 0] > 0.5, scores()[:, 1])


class OwnF1:
    """An F1 as a user without torchmetrics writes it."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.right = self.wrong = 0

    def update(self, predictions: Tensor, *, targets: Tensor) -> None:
        self.right += int(((predictions == 1) & (targets == 1)).sum())
        self.wrong += int((predictions != targets).sum())

    def compute(self) -> float:
        return 2 * self.right / max(2 * self.right + self.wrong, 1)


def recipe(kind: str) -> Recipe:
    data = TensorDataset(scores())
    if kind == "torchmetrics, states of other kinds":  # Pearson's is not defined for a share of one class
        data = TensorDataset(scores()[torch.randperm(SAMPLES, generator=torch.Generator().manual_seed(0))])
    parts: dict[str, Any] = {}
    own, library, several, ranked = OwnF1(), None, None, None
    if kind.startswith("torchmetrics"):
        from torchmetrics import MetricCollection
        from torchmetrics.classification import BinaryAUROC, BinaryF1Score, BinaryPrecision
        from torchmetrics.regression import PearsonCorrCoef

        library, ranked = BinaryF1Score(), BinaryAUROC()
        several = MetricCollection({"f1": BinaryF1Score(), "precision": BinaryPrecision()})
        pearson = PearsonCorrCoef()

    def evaluate(model: nn.Module, batch: tuple[Tensor]) -> dict[str, Any]:
        score, targets = batch[0][:, 0], batch[0][:, 1].long()
        predictions = (score > 0.5).long()
        if kind == "own object":
            own.update(predictions, targets=targets)
            return {"f1": own, "accuracy": (predictions == targets).float().mean()}
        if kind == "another object":
            found = OwnF1()
            found.update(predictions, targets=targets)
            return {"f1": found}
        if kind == "torchmetrics":
            library.update(predictions, targets)
            return {"f1": library}
        if kind == "torchmetrics, several":
            several.update(score.sigmoid(), targets)
            return {"all": several}
        if kind == "torchmetrics, states of other kinds":
            ranked.update(score.sigmoid(), targets)
            pearson.update(score, targets.float())
            return {"auroc": ranked, "pearson": pearson}
        if kind == "arrays":
            return {"predictions": predictions.numpy(), "targets": targets.numpy()}
        if kind == "lists":
            return {"predictions": predictions.tolist(), "targets": targets.tolist()}
        if kind == "perplexity":
            return {"nll": ((score**2 * (1 + targets)).sum(), (1 + targets).sum())}
        if kind == "missing":
            return {"predictions": predictions, "accuracy": 1.0}
        if kind == "rows without a name":
            return {"predictions": predictions, "labels": targets}
        if kind == "naive":
            return {"f1": f1(predictions, targets), "n": torch.ones(1)}
        return {"predictions": predictions, "targets": targets, "accuracy": (predictions == targets).float().mean()}

    if kind == "perplexity":
        parts["metrics"] = lambda nll: {"perplexity": np.exp(nll)}
    elif kind == "anything":
        parts["metrics"] = lambda **found: {"f1": f1(found["predictions"], found["targets"])}
    elif kind in ("rows", "arrays", "lists"):
        parts["metrics"] = lambda predictions, targets: {"f1": f1(predictions, targets)}
    elif kind in ("missing", "rows without a name"):
        parts["metrics"] = lambda predictions, targets: {}
    elif kind == "twice":
        parts["metrics"] = lambda predictions, targets: {"accuracy": 1.0}
    return Recipe(
        model=nn.Linear(1, 1),
        train_data=data,
        eval_data=data,
        loss=lambda m, b: b[0].mean(),
        evaluate=evaluate,
        **parts,
    )


def on_rank(rank: int, world_size: int, kind: str, batch_size: int, most: int | None) -> Any:
    made = recipe(kind)
    found = []
    try:
        for _ in range(2):  # the second evaluation begins anew
            found.append(
                evaluate(
                    made,
                    made.model,
                    rank=rank,
                    world_size=world_size,
                    batch_size=batch_size,
                    device=CPU,
                    activity=Activity(),
                    most_samples=most,
                )
            )
    except RecipeError as error:
        return str(error)
    return found


KINDS = ["own object", "rows", "arrays", "lists", "anything"]
TORCHMETRICS = ["torchmetrics", "torchmetrics, several", "torchmetrics, states of other kinds"]


@pytest.mark.parametrize(("world_size", "batch_size"), [(1, SAMPLES), (1, 7), (2, 7), (3, 4)])
@pytest.mark.parametrize("kind", KINDS)
def test_f1_is_that_of_all_predictions_whatever_workers_and_batches(
    kind: str, world_size: int, batch_size: int
) -> None:
    for found in run_group(on_rank, world_size, kind, batch_size, None):
        assert [values["f1"] for values in found] == pytest.approx([EXPECTED, EXPECTED], rel=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_workers_without_samples_add_nothing(kind: str) -> None:
    """Three workers share two samples, both of class 0."""
    found = run_group(on_rank, 3, kind, 4, 2)
    expected = f1(scores()[:2, 0] > 0.5, scores()[:2, 1])
    assert [values["f1"] for rank in found for values in rank] == [expected] * 6


@pytest.mark.parametrize(
    ("kind", "world_size", "batch_size", "most"),
    [(kind, *cut, None) for kind in TORCHMETRICS for cut in ((1, 7), (2, 7), (3, 4))]
    + [(kind, 3, 4, 2) for kind in TORCHMETRICS[:2]],  # rank 2 has no sample
)
def test_torchmetrics_states_are_put_together_exactly(
    kind: str, world_size: int, batch_size: int, most: int | None
) -> None:
    pytest.importorskip("torchmetrics")
    (expected,) = run_group(on_rank, 1, kind, SAMPLES, most)
    for found in run_group(on_rank, world_size, kind, batch_size, most):
        assert found == [pytest.approx(values, rel=1e-5, nan_ok=True) for values in expected]
    if most is None and kind == "torchmetrics":
        assert expected[0] == {"f1": pytest.approx(EXPECTED)}
    if kind == "torchmetrics, several":
        assert sorted(expected[0]) == ["all_f1", "all_precision"]


def test_perplexity_is_made_of_a_mean_by_tokens() -> None:
    score, targets = scores().unbind(1)
    nll = float((score**2 * (1 + targets)).sum() / (1 + targets).sum())
    for found in run_group(on_rank, 2, "perplexity", 4, None):
        assert found[0] == pytest.approx({"nll": nll, "perplexity": np.exp(nll)}, rel=1e-5)


@pytest.mark.parametrize("world_size", [1, 2])
@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (
            "another object",
            "evaluate(model, batch) returned another metric object for f1 than for the batch before.\n"
            "  Make the object once, outside evaluate, and update and return it for every batch.",
        ),
        (
            "missing",
            "metrics takes targets, which evaluate(model, batch) does not return.\n  It returns accuracy, predictions.",
        ),
        (
            "rows without a name",
            "evaluate(model, batch) returned labels = a tensor of shape (7,), not a number.\n"
            "  Return the mean over the batch's samples: a float, or a tensor of one number; or (sum, weight).\n"
            "  For a value with one row a sample, use scaler.Recipe(metrics=...).",
        ),
        ("twice", "metrics and evaluate both return accuracy.\n  Give one of them another name."),
    ],
)
def test_the_whole_text_of_each_refusal(kind: str, text: str, world_size: int) -> None:
    assert set(run_group(on_rank, world_size, kind, 7, None)) == {text}


def cut(made: Recipe, *, size: int = 16, model: nn.Module | None = None) -> RecipeError | None:
    job = make_job(per_worker_batch_size=size)
    return cut_error(made, model or made.model, job, batch_size=size, device=CPU, activity=Activity())


def test_a_value_that_depends_on_the_cut_is_found_and_named() -> None:
    error = cut(recipe("naive"))
    assert str(error) == (
        "evaluate(model, batch): f1 depends on how the data is cut into batches: 16 samples give 0.7692, in "
        "parts of 4 together 0.7917.\n"
        "  For a mean with weights of samples or tokens: return (sum, weight).\n"
        "  For a function of all predictions, such as F1: update and return a torchmetrics object, or return the "
        "predictions, and compute it in scaler.Recipe(metrics=...).\n"
        '  To report the mean over batches anyway: scaler.Recipe(evaluate_over="batch").'
    )


@pytest.mark.parametrize("kind", [*KINDS, "perplexity", "torchmetrics"])
@pytest.mark.parametrize("size", [4, 16, 17, 64])
def test_what_does_not_depend_on_the_cut_is_not_named(kind: str, size: int) -> None:
    if kind == "torchmetrics":
        pytest.importorskip("torchmetrics")
    assert cut(recipe(kind), size=size) is None


def evaluated_as(function: Any, **parts: Any) -> Recipe:
    data = TensorDataset(scores())
    return Recipe(
        model=nn.Linear(1, 1),
        train_data=data,
        eval_data=data,
        loss=lambda m, b: b[0].mean(),
        evaluate=None if function is None else lambda m, b: {"value": function(b[0])},
        **parts,
    )


@pytest.mark.parametrize(
    ("function", "is_found"),
    [
        (lambda x: x.mean(), False),
        (lambda x: x[:, 0].square().mean(), False),
        (lambda x: (x[:, 0] - x[:, 0]).mean(), False),  # 0
        (lambda x: float("nan"), False),
        (lambda x: x[:, 0].mean() + torch.randn(()), False),  # random
        (lambda x: (x + 0.1 * torch.randn_like(x)).square().mean().sqrt(), False),  # random, so nothing is known of it
        (lambda x: (x.sum(), x.shape[0]), False),
        (lambda x: ((x[:, 0] * x[:, 1]).sum(), x[:, 1].sum()), False),
        (lambda x: x.square().mean().sqrt(), True),
        (lambda x: x.sum(), True),
        (lambda x: x[:, 0].std(), True),
        (lambda x: (x[:, 0] * x[:, 1]).sum() / x[:, 1].sum(), True),  # by weight
        (lambda x: x.mean().exp(), True),
        (lambda x: x[:, 0].max(), True),
        (lambda x: float("nan") if len(x) < 16 else 1.0, True),
    ],
)
def test_which_values_are_found(function: Any, is_found: bool) -> None:
    assert (cut(evaluated_as(function)) is not None) == is_found
    assert cut(evaluated_as(function, evaluate_over="batch")) is None


def test_an_evaluation_by_a_loss_over_the_batch_is_found_unless_it_is_accepted() -> None:
    def loss(model: nn.Module, batch: tuple[Tensor]) -> Tensor:
        return batch[0][:, 0].std()

    made = evaluated_as(None)
    object.__setattr__(made, "loss", loss)
    error = cut(made)
    assert error is not None
    assert error.problem.startswith("the loss of the evaluation depends on how the data is cut into batches: ")
    object.__setattr__(made, "loss_over", "micro_batch")
    assert cut(made) is None


def test_a_model_that_sees_the_batch_in_evaluation_is_not_checked() -> None:
    model = nn.BatchNorm1d(2, track_running_stats=False)
    made = evaluated_as(None)
    object.__setattr__(made, "loss", lambda m, b: m(b[0]).square().mean(1).sqrt().mean())
    assert cut(made, model=model) is None


def test_an_evaluation_that_fails_shows_before_the_first_step_and_changes_nothing(tmp_path: Path) -> None:
    def evaluate(model: nn.Module, batch: Any) -> dict[str, float]:
        model.training = True
        torch.rand(1)
        raise KeyError("labels")

    made = make_recipe()
    object.__setattr__(made, "evaluate", evaluate)
    job = make_job(per_worker_batch_size=16)
    evaluation = Evaluator(made, Kept(0, 1, str(tmp_path)), made.model, None, Activity())
    state = torch.get_rng_state()
    with pytest.raises(KeyError):
        evaluation.check(job, make_plan(job, 1), is_start=True)
    assert torch.equal(torch.get_rng_state(), state)
    assert made.model.training
