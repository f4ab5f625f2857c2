"""Several evaluation sets, rows of different sizes, and random numbers in evaluations."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from groups import run_group
from small_runs import Kept, in_this_process, make_job, make_recipe
from torch import Tensor, nn
from torch.utils.data import Dataset, IterableDataset, TensorDataset

from scaler import Eval, Recipe
from scaler.errors import RecipeError
from scaler.plan import make_plan
from scaler.training.activity import Activity
from scaler.training.evaluation.evaluator import Evaluator
from scaler.training.recipe.check import checked_recipe
from scaler.training.recipe.data import with_data
from scaler.training.start_checks.data_digests import data_digests

NUMBERS = TensorDataset(torch.arange(11, dtype=torch.float32))


class Tokens(Dataset[Any]):
    """Sample ``n`` has ``n`` tokens."""

    def __len__(self) -> int:
        return 11

    def __getitem__(self, index: int) -> Tensor:
        return torch.full((index,), index)


def mean(model: nn.Module, batch: tuple[Tensor]) -> dict[str, Tensor]:
    return {"mean": batch[0].mean()}


def recipe_of(**given: Any) -> Recipe:
    parts = {"train_data": NUMBERS, "loss": lambda model, batch: batch[0].mean() * model.weight.sum() ** 0, **given}
    return checked_recipe(Recipe(model=nn.Linear(1, 1), **parts), "r:build")


def evaluator(rank: int, world_size: int, recipe: Recipe) -> Evaluator:
    return Evaluator(recipe, Kept(rank, world_size, "unused"), recipe.model, None, Activity())


def values_of(rank: int, world_size: int, kind: str) -> dict[str, float]:
    plan = make_plan(make_job(num_workers={"min": 1, "max": 3}, per_worker_batch_size=4), world_size)
    return evaluator(rank, world_size, recipe_of(**KINDS[kind])).values(plan)


def sets() -> dict[str, Any]:
    own = Eval(
        data=Tokens(),
        evaluate=lambda model, batch: {"tokens": list(batch), "count": float(len(batch))},
        metrics=lambda tokens: {"order": float([len(one) for one in tokens] == list(range(11)))},
        collate=list,
        evaluate_over="batch",
        batch_size=3,
    )
    return {"eval_data": NUMBERS, "evaluate": mean, "evals": {"half": TensorDataset(torch.arange(5.0)), "own": own}}


def noise(batch_size: int | None) -> dict[str, Any]:
    """Random numbers for each batch, the module random, and metrics."""

    def evaluate(model: nn.Module, batch: tuple[Tensor]) -> dict[str, Any]:
        return {"drawn": torch.rand(()), "rows": torch.rand(len(batch[0]))}

    def metrics(rows: Tensor) -> dict[str, Any]:
        return {"sum": rows.sum(), "last": rows[-1], "of_metrics": torch.rand(())}

    return {"evals": {"noise": Eval(data=NUMBERS, evaluate=evaluate, metrics=metrics, batch_size=batch_size)}}


KINDS = {"sets": sets(), "noise": noise(3)}


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_each_set_has_its_own_parts_and_its_name_before_its_values(world_size: int) -> None:
    expected = {"mean": 5.0, "half_mean": 2.0, "own_order": 1.0, "own_count": (3 * 9 + 2 * 2) / 11}
    for values in run_group(values_of, world_size, "sets"):
        assert values == pytest.approx(expected)


def test_with_a_batch_size_random_values_are_the_same_on_any_number_of_workers() -> None:
    alone, *groups = (run_group(values_of, size, "noise") for size in (1, 2, 3))
    for values in (each for group in groups for each in group):
        assert values == pytest.approx(alone[0], rel=1e-6)
    assert len(set(alone[0].values())) == 4


def test_an_evaluation_draws_the_same_each_time_and_leaves_the_random_numbers_of_the_training(tmp_path: Path) -> None:
    plan = make_plan(make_job(per_worker_batch_size=4), 1)
    one = evaluator(0, 1, recipe_of(**noise(None)))
    torch.manual_seed(5)
    expected = float(torch.rand(()))
    torch.manual_seed(5)
    first, second = one.values(plan), one.values(plan)
    assert first == second
    assert float(torch.rand(())) == expected


def test_processes_that_load_batches_change_no_value(tmp_path: Path) -> None:
    class Augmented(Tokens):
        def __getitem__(self, index: int) -> Tensor:
            return torch.rand(())

    plan = make_plan(make_job(per_worker_batch_size=4), 1)
    found = [
        evaluator(
            0,
            1,
            recipe_of(
                evals={
                    "a": Eval(
                        data=Augmented(),
                        evaluate=lambda model, batch: {"mean": batch.mean(), "drawn": torch.rand(())},
                        data_workers=workers,
                    )
                }
            ),
        ).values(plan)
        for workers in (0, 2)
    ]
    assert found[0] == found[1]


def test_a_run_reacts_to_a_value_of_a_named_set_and_averages_its_weights_too(tmp_path: Path) -> None:
    made = make_recipe()
    recipe = checked_recipe(replace(made, eval_data=None, evals={"test": made.eval_data}), "r:build")
    job = make_job(
        per_worker_batch_size=64,
        train={"ema": {"decay": 0.9}, "eval_every": {"epochs": 1}},
        checkpoint={"best": {"metric": "ema_test_accuracy", "mode": "max"}},
    )
    training, around = in_this_process(tmp_path, recipe, job)
    training.run()
    evaluated = [event.values for event in around.events if event.kind == "evaluated"]
    assert len(evaluated) == 3
    assert list(evaluated[0]) == ["test_accuracy", "test_loss", "ema_test_accuracy", "ema_test_loss"]
    assert any(event.best for event in around.events if event.kind == "checkpointed")


def test_the_data_of_every_set_are_compared_between_workers() -> None:
    found = data_digests(recipe_of(**sets()), data_workers=0)
    assert {name: len(digests) for name, digests in found.items()} == {
        "train_data": 11, "eval_data": 11, "evals[half]": 5, "evals[own]": 4
    }  # fmt: skip


def check(recipe: Recipe, **sections: Any) -> str:
    job = make_job(per_worker_batch_size=16, **sections)
    with pytest.raises(RecipeError) as caught:
        evaluator(0, 1, recipe).check(job, make_plan(job, 1), is_start=True)
    return str(caught.value)


def test_the_whole_text_of_errors_before_the_first_step() -> None:
    sets = {"val": NUMBERS, "hard": NUMBERS}
    schedule = {"name": "constant", "plateau": {"metric": "mean", "factor": 0.5}}
    assert check(recipe_of(evaluate=mean, evals=sets), schedule=schedule) == (
        "schedule.plateau.metric = mean is not among the evaluation's values.\n  They are val_mean, hard_mean."
    )
    wide = recipe_of(evaluate=lambda model, batch: {"std": batch[0].std()}, evals={"val": NUMBERS})
    assert check(wide).startswith(
        "evals[val]: evaluate(model, batch): std depends on how the data is cut into batches: 11 samples give "
    )
    tokens = Eval(data=Tokens(), collate=list, evaluate=lambda model, batch: {"tokens": batch})
    assert check(recipe_of(evals={"val": tokens})) == (
        "evals[val]: evaluate(model, batch) returned tokens = a list, not a number.\n"
        "  Return the mean over the batch's samples: a float, or a tensor of one number; or (sum, weight).\n"
        "  For a value with one row a sample, use scaler.Recipe(metrics=...)."
    )
    twice = recipe_of(
        evaluate=lambda model, batch: {"b_mean": batch[0].mean(), "mean": batch[0].mean()},
        evals={"a_b": NUMBERS, "a": NUMBERS},
    )
    assert check(twice) == ("two values of the evaluation are called a_b_mean.\n  Give one of the sets another name.")


class Plain(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter([1.0])


class Sized(Plain):
    def __len__(self) -> int:
        return 1


@pytest.mark.parametrize(
    ("evals", "text"),
    [
        ([NUMBERS], "evals is a list.\n  Give a dict: name -> dataset or scaler.Eval(...)."),
        ({"a b": NUMBERS}, "evals has the name 'a b'.\n  Use letters, digits, '_', '-' and '.'."),
        ({"a": Plain()}, "evals[a] is a Plain without len().\n  State the samples of an epoch: a method __len__."),
        ({"a": []}, "evals[a] is empty.\n  Leave evals[a] out for no evaluation."),
        ({"a": Eval(data=NUMBERS, collate=3)}, "evals[a]: collate is an int.\n  collate must be a function."),
        ({"a": Eval(data=NUMBERS, metrics=print)}, "evals[a]: metrics is given without evaluate.\n  metrics gets its "
         "arguments from evaluate: add evaluate."),
        ({"a": Eval(data=NUMBERS, evaluate_over="batches")}, "evals[a]: evaluate_over = 'batches' is not known.\n  Did "
         "you mean \"batch\"? Known: samples, batch."),
        ({"a": Eval(data=NUMBERS, batch_size=0)}, "evals[a]: batch_size = 0.\n  It must be a whole number, 1 or more."),
        ({"a": Eval(data=Sized(), data_workers=2)}, "evals[a]: data_workers = 2, but its data is an iterable, which "
         "one process reads.\n  Set data_workers to 1, or give the data a method read_range(start, stop)."),
    ],
)  # fmt: skip
def test_the_whole_text_of_each_refusal(evals: Any, text: str) -> None:
    with pytest.raises(RecipeError) as caught:
        recipe_of(evals=evals)
    assert str(caught.value) == f"r:build: {text}"


def test_a_set_without_evaluate_needs_a_loss() -> None:
    recipe = Recipe(model=nn.Linear(1, 1), train_data=NUMBERS, loss=None, evals={"a": NUMBERS})  # type: ignore[arg-type]
    with pytest.raises(RecipeError) as caught:
        with_data(recipe, "r:build")
    assert str(caught.value) == "r:build: evals[a]: there is neither evaluate nor a loss to evaluate.\n  Add evaluate."
