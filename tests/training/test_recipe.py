"""Messages for recipes that cannot be used."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from scaler.errors import JobFileError, RecipeError
from scaler.training.recipe import Recipe
from scaler.training.recipe.check import checked_recipe
from scaler.training.recipe.failures import recipe_failure
from scaler.training.recipe.load import load_recipe

GOOD = """
import torch, scaler
from torch.utils.data import TensorDataset

def build(width: int = 1, *, samples: int = 4, frozen: bool = False):
    model = torch.nn.Linear(1, width)
    model.requires_grad_(not frozen)
    data = TensorDataset(torch.zeros(samples, 1))
    return scaler.Recipe(model=model, train_data=data, loss=lambda m, b: m(b[0]).mean())

def number():
    return 3

def iterable():
    return scaler.Recipe(model=torch.nn.Linear(1, 1), train_data=iter([1]), loss=lambda m, b: m(b[0]).mean())
"""


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "good_recipe.py").write_text(GOOD)
    (tmp_path / "imports_more.py").write_text("import not_there_at_all\n")
    yield tmp_path
    sys.path[:] = [path for path in sys.path if path != str(tmp_path)]
    for name in ("good_recipe", "imports_more"):
        sys.modules.pop(name, None)


def test_a_recipe_next_to_the_job_is_built_with_its_arguments(folder: Path) -> None:
    recipe = load_recipe("good_recipe:build", folder=folder, arguments={"width": 3})
    assert isinstance(recipe, Recipe)
    assert recipe.model.out_features == 3


@pytest.mark.parametrize(
    ("path", "arguments", "kind", "text"),
    [
        (
            "goood_recipe:build",
            {},
            JobFileError,
            "job.yaml: recipe = goood_recipe:build: there is no module goood_recipe.\n"
            '  Did you mean "good_recipe:build"? '
            "Python searches FOLDER, PYTHONPATH and the installed packages.",
        ),
        (
            "good_recipe:make",
            {},
            JobFileError,
            "job.yaml: recipe = good_recipe:make: good_recipe has no function make.\n"
            "  Functions there: build, iterable, number.",
        ),
        (
            "good_recipe:bulid",
            {},
            JobFileError,
            "job.yaml: recipe = good_recipe:bulid: good_recipe has no function bulid.\n"
            '  Did you mean "build"? Functions there: build, iterable, number.',
        ),
        (
            "good_recipe.part:build",  # good_recipe is a file, no package
            {},
            JobFileError,
            "job.yaml: recipe = good_recipe.part:build: there is no module good_recipe.part.\n"
            "  Its package exists, but has no such module.",
        ),
        (
            "datetime:timedelta",  # takes what it takes: its signature is not known
            {},
            RecipeError,
            "datetime:timedelta returned a timedelta, not a scaler.Recipe.\n  return scaler.Recipe(model=..., ...)",
        ),
        (
            "good_recipe:build",
            {"widht": 3},
            JobFileError,
            "job.yaml: recipe_args do not fit good_recipe:build: got an unexpected keyword argument 'widht'.\n"
            "  Its signature is build(width: int = 1, *, samples: int = 4, frozen: bool = False).",
        ),
        (
            "good_recipe:number",
            {},
            RecipeError,
            "good_recipe:number returned an int, not a scaler.Recipe.\n  return scaler.Recipe(model=..., ...)",
        ),
        (
            "good_recipe:iterable",
            {},
            RecipeError,
            "good_recipe:iterable: train_data is a list_iterator, which can be read only once.\n"
            "  Give an object whose __iter__ starts a new epoch, such as a class with a generator as its __iter__.",
        ),
        (
            "good_recipe:build",
            {"samples": 0},
            RecipeError,
            "good_recipe:build: train_data is empty.\n  There is nothing to train on.",
        ),
        (
            "good_recipe:build",
            {"frozen": True},
            RecipeError,
            "good_recipe:build: the model has no parameter to train.\n  At least one must require a gradient.",
        ),
    ],
)
def test_the_whole_text_of_each_refusal(
    folder: Path, path: str, arguments: dict[str, Any], kind: type[Exception], text: str
) -> None:
    with pytest.raises(kind) as caught:
        load_recipe(path, folder=folder, arguments=arguments, source="job.yaml")
    assert str(caught.value) == text.replace("FOLDER", str(folder))


def test_a_missing_import_inside_the_recipe_is_the_recipes_own_error(folder: Path) -> None:
    with pytest.raises(ModuleNotFoundError, match="not_there_at_all"):
        load_recipe("imports_more:build", folder=folder, arguments={})


def test_a_traceback_begins_where_the_recipe_does(folder: Path) -> None:
    (folder / "imports_more.py").write_text("def build():\n    return 1 / 0\n")
    with pytest.raises(ZeroDivisionError) as caught:
        load_recipe("imports_more:build", folder=folder, arguments={})
    error = recipe_failure(caught.value.with_traceback(caught.tb.tb_next), "rank 0")  # without this test's own line
    assert str(error) == (
        "rank 0 failed: ZeroDivisionError: division by zero\n"
        "  Traceback (most recent call last):\n"
        f'    File "{folder}/imports_more.py", line 2, in build\n'
        "      return 1 / 0\n"
        "             ~~^~~\n"
        "  ZeroDivisionError: division by zero"
    )


@pytest.mark.parametrize(
    ("model", "problem"),
    [
        (lambda: nn.LazyLinear(3), "r:build: the model's parameter weight has no shape yet."),
    ],
)
def test_a_parameter_that_nobody_can_train_is_refused(model: Any, problem: str) -> None:
    data = TensorDataset(torch.ones(2, 2))
    with pytest.raises(RecipeError) as caught:
        checked_recipe(
            Recipe(model=model(), train_data=data, loss=lambda model, batch: model(batch[0]).mean()), "r:build"
        )
    assert caught.value.problem == problem
