"""The section ``search`` of an experiment file, and what it means in samples."""

import sys
from pathlib import Path
from typing import Any

import pytest

from scaler.cluster.search.spec import Between, SearchSpec
from scaler.errors import JobFileError
from scaler.experiment.file import load_experiment, parse_experiment
from scaler.experiment.matrix import Matrix, make_matrix
from scaler.experiment.search import search_spec
from scaler.experiment.search_dry_run import search_dry_run

DIGITS = Path(__file__).parents[2] / "jobs/digits"
SPACE: dict[str, Any] = {"reference.lr": {"low": 0.01, "high": 0.3, "scale": "log"}, "scale.rule": ["none", "linear"]}
SEARCH: dict[str, Any] = {"space": SPACE, "trials": 9}
BASE: dict[str, Any] = {
    "name": "study",
    "job": "job.yaml",
    "search": SEARCH,
    "compare": {"metric": "accuracy", "mode": "max"},
}
TOTAL = 15 * 1437


def matrix(section: dict[str, Any] | None = None, **changes: Any) -> Matrix:
    values = {**BASE, **({} if section is None else {"search": {**SEARCH, **section}}), **changes}
    known = {key: value for key, value in values.items() if value is not None}
    return make_matrix(parse_experiment(known, source="study"), folder=DIGITS, source="study")


def test_lengths_are_samples_and_do_not_depend_on_the_batch() -> None:
    spec = search_spec(matrix())
    assert (spec.total_samples, spec.grace, spec.interval) == (TOTAL, round(TOTAL / 9), round(TOTAL / 10))
    assert list(spec.places(TOTAL)) == [2395, 7185]
    spec = search_spec(matrix({"grace": {"epochs": 2}, "reduction_factor": 2.0}))
    assert list(spec.places(TOTAL)) == [2874, 5748, 11496]
    spec = search_spec(matrix({"scheduler": "pbt", "space": {"reference.lr": [0.01, 0.1]}, "interval": {"epochs": 5}}))
    assert list(spec.places(TOTAL)) == [7185, 14370]
    assert list(search_spec(matrix({"scheduler": "none"})).places(TOTAL)) == []


def test_a_grid_has_as_many_trials_as_combinations() -> None:
    space = {"reference.lr": [0.01, 0.1, 1.0], "scale.rule": ["none", "linear"]}
    assert search_spec(matrix({"space": space, "searcher": "grid", "trials": None})).trials == 6
    assert search_spec(matrix({"space": space, "trials": 100})).trials == 6, "a setting is tried once"
    assert search_spec(matrix()).trials == 9


def test_what_is_drawn_becomes_values_of_the_job() -> None:
    spec = SearchSpec(
        space={
            "a": Between(low=0.001, high=1.0, is_log=True, is_whole=False),
            "b": Between(low=16, high=256, is_log=True, is_whole=True),
            "c": [None, "x", {"epochs": 1}],
        },
        searcher="random",
        scheduler="pbt",
        trials=1,
        seed=0,
        metric="m",
        mode="max",
        total_samples=100,
        grace=10,
        reduction_factor=3.0,
        interval=10,
        side_by_side=1,
    )
    assert spec.values({"a": 0.0123456789, "b": 31.6, "c": 2}) == {"a": 0.01235, "b": 32, "c": {"epochs": 1}}
    changed = spec.values({"a": 1.2, "b": 12.8, "c": 0})
    assert changed == {"a": 1.0, "b": 16, "c": None}, "pbt may leave the range"
    assert spec.values(spec.drawn(changed)) == changed


def test_a_dry_run_says_what_the_search_takes_at_most_and_at_least() -> None:
    found = search_dry_run(matrix())
    assert (found.trials, found.most_samples, found.fewest_samples) == (9, 9 * TOTAL, TOTAL + 8 * 2395)
    assert found.space == {"reference.lr": "0.01 to 0.3, log", "scale.rule": "none, linear"}
    assert search_dry_run(matrix({"scheduler": "none"})).fewest_samples == 9 * TOTAL


@pytest.mark.parametrize(
    ("section", "changes", "problem"),
    [
        (None, {"search": None}, "study: has no matrix and no search."),
        (None, {"compare": None}, "study: has a search and no compare, which says what is searched for."),
        (None, {"matrix": {"scale.rule": ["none"]}}, "study: has a matrix and a search."),
        (None, {"seeds": [0, 1]}, "study: has a search with 2 seeds."),
        (None, {"target": {"at_least": 0.9}}, "study: has a search with a baseline or a target."),
        ({"searcher": "grid"}, {}, "study: search has searcher = grid and a range for reference.lr."),
        ({"trials": None}, {}, "study: search has searcher = random and no trials."),
        ({"scheduler": "ash"}, {}, "study: search.scheduler = ash is not one of none, asha, pbt."),
        ({"schedule": "asha"}, {}, 'study: unknown key "schedule" in search. Did you mean "scheduler"?'),
        ({"grace": {"steps": 5}}, {}, 'study: unknown key "steps" in search.grace.'),
        ({"grace": {"epochs": 1}, "scheduler": "none"}, {}, "study: search has grace, and scheduler = none."),
        ({"grace": {"epochs": 16}}, {}, "search.grace is 22,992 samples, and the training has 21,555."),
        ({"scheduler": "pbt", "searcher": "optuna"}, {}, "study: search has scheduler = pbt and searcher = optuna"),
        ({"space": {}}, {}, "study: search.space = {} is too short."),
        ({"space": {"reference.lr": 3}}, {}, "study: search.space reference.lr = 3 is no range."),
        ({"space": {"reference.lr": []}}, {}, "study: search.space has no values for reference.lr."),
        (
            {"space": {"reference.lr": {"low": 1, "high": 0.5}}},
            {},
            "study: search.space reference.lr has low = 1 and high = 0.5.",
        ),
        (
            {"space": {"reference.lr": {"low": 0, "high": 1, "scale": "log"}}},
            {},
            "study: search.space reference.lr has scale = log and low = 0.",
        ),
        (
            {"space": {"scale.rul": ["none"]}},
            {},
            "study: search.space has scale.rul, and the first value makes no job.",
        ),
        ({"space": {"storage": ["a"]}}, {}, "study: search.space has storage, which all trials share."),
        ({"space": {"train.seed": [0, 1]}}, {}, "study: search.space has train.seed."),
        (
            {"scheduler": "pbt", "space": {"reference.optimizer.momentum": [0.0, 0.9]}},
            {},
            "search.space has reference.optimizer.momentum, which pbt cannot change",
        ),
        (None, {"budget": {"cost": 5.0}}, "budget.cost = 5, and the job has no price."),
        (None, {"compare": {"metric": "train_loss", "mode": "min"}}, "compare.metric = train_loss, and a search"),
        (None, {"set": {"scale.num_workers": {"min": 1, "max": 2}}}, "a search needs a fixed number of workers."),
        (None, {"set": {"train.eval_every": {"epochs": 20}}}, "search.scheduler = asha compares evaluations"),
    ],
)
def test_a_search_that_cannot_run_says_what_is_wrong(
    section: dict[str, Any] | None, changes: dict[str, Any], problem: str
) -> None:
    with pytest.raises(JobFileError) as caught:
        search_spec(matrix(section, **changes))
    assert str(caught.value).startswith(problem)


def test_a_matrix_needs_a_margin_and_no_other_cells_beside_it() -> None:
    about = {"search": None, "matrix": {"scale.rule": ["none", "linear"]}}
    with pytest.raises(JobFileError, match=r"compare has no margin\."):
        matrix(**about)
    with pytest.raises(JobFileError, match=r"max_concurrent = 2: the cells of a matrix run one after another"):
        matrix(**about, compare=None, max_concurrent=2)


def test_optuna_is_asked_for_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(JobFileError) as caught:
        search_spec(matrix({"searcher": "optuna"}))
    assert str(caught.value) == (
        "search.searcher = optuna, and optuna is not installed.\n  Install it: pip install 'scaler[search]'"
    )


def test_the_search_of_the_digits_can_run() -> None:
    path = DIGITS / "search.yaml"
    found = search_spec(make_matrix(load_experiment(path), folder=DIGITS, source=str(path)))
    assert (found.trials, list(found.places(TOTAL))) == (24, [2874, 8622])
