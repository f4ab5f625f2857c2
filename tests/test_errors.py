import pickle
import re

import pytest

from scaler import errors
from scaler.errors import ClusterError, JobFileError, PlanError, RecipeError, RunError, ScalerError, TrainingError


def _all_errors() -> list[type[ScalerError]]:
    return [found for found in vars(errors).values() if isinstance(found, type) and issubclass(found, ScalerError)]


@pytest.mark.parametrize(
    ("kind", "parent", "exit_code"),
    [
        (JobFileError, ScalerError, 2),
        (PlanError, JobFileError, 2),
        (ClusterError, ScalerError, 3),
        (TrainingError, ScalerError, 4),
        (RecipeError, TrainingError, 4),
        (RunError, ScalerError, 5),
    ],
)
def test_each_error_has_its_place_and_exit_code(
    kind: type[ScalerError], parent: type[ScalerError], exit_code: int
) -> None:
    assert kind.__base__ is parent
    assert kind.exit_code == exit_code


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    drawn = dict(re.findall(r"[├└]── (\w+) +(\d+)", errors.__doc__ or ""))
    assert drawn == {kind.__name__: str(kind.exit_code) for kind in _all_errors() if kind is not ScalerError}


@pytest.mark.parametrize(
    ("problem", "remedy", "text"),
    [
        ("a = 1 is odd.", "Use 2.", "a = 1 is odd.\n  Use 2."),
        ("a = 1 is odd.", "", "a = 1 is odd."),  # nothing to type
        ("2 problems.", "a\nb", "2 problems.\n  a\n  b"),  # every line of the remedy is indented
        ("failed", "Traceback:\n\n  x", "failed\n  Traceback:\n\n    x"),  # no blanks at the end of an empty line
    ],
)
def test_the_remedy_is_printed_below_the_problem(problem: str, remedy: str, text: str) -> None:
    assert str(JobFileError(problem, remedy)) == text


@pytest.mark.parametrize("kind", _all_errors())
def test_an_error_crosses_processes_whole(kind: type[ScalerError]) -> None:
    copy = pickle.loads(pickle.dumps(kind("problem", "remedy")))
    assert type(copy) is kind
    assert (copy.problem, copy.remedy, str(copy)) == ("problem", "remedy", "problem\n  remedy")
