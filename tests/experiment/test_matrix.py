"""The cells of an experiment, from its file."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from scaler.errors import JobFileError
from scaler.experiment.file import load_experiment, parse_experiment
from scaler.experiment.matrix import Matrix, make_matrix
from scaler.experiment.presets import preset
from scaler.report.experiment.labels import label

DIGITS = Path(__file__).parents[2] / "jobs/digits"
BASE: dict[str, Any] = {
    "name": "study",
    "job": "job.yaml",
    "matrix": {"scale.num_workers": [1, 2], "scale.rule": ["none", "linear"]},
}


def matrix(**changes: Any) -> Matrix:
    return make_matrix(parse_experiment({**BASE, **changes}, source="study"), folder=DIGITS, source="study")


def labels(found: Matrix) -> list[str]:
    return [f"{label(cell.overrides)} {cell.seed}" for cell in found.cells]


def test_every_combination_is_a_cell_with_every_seed() -> None:
    found = matrix(seeds=[0, 7])
    assert labels(found) == [
        f"workers {workers}, rule {rule} {seed}" for workers in (1, 2) for rule in ("none", "linear") for seed in (0, 7)
    ]
    assert [cell.number for cell in found.cells] == list(range(8))
    last = found.cells[-1]
    assert last.job is not None
    assert last.plan is not None
    assert (last.job.train.seed, last.plan.world_size, last.plan.rule, last.plan.peak_lr) == (7, 2, "linear", 0.16)


def test_combinations_are_left_out_and_added() -> None:
    found = matrix(
        exclude=[{"scale.num_workers": 1, "scale.rule": "linear"}],
        include=[{"scale.num_workers": 1, "reference.lr": 0.03}],
        set={"train.epochs": 3},
    )
    assert labels(found) == [
        "workers 1, rule none 0",
        "workers 2, rule none 0",
        "workers 2, rule linear 0",
        "workers 1, lr 0.03 0",
    ]
    assert {cell.plan.total_samples for cell in found.cells if cell.plan is not None} == {3 * 1437}


def test_a_cell_without_a_plan_says_why() -> None:
    found = matrix(matrix={"scale.global_batch_size": [64, 1024]})
    good, bad = found.cells
    assert good.problem == ""
    assert bad.plan is None
    assert "1024" in bad.problem
    assert [cell.number for cell in found.in_running_order()] == [0]


def test_cells_of_two_units_are_refused() -> None:
    """Their batches and lengths are numbers of different things."""
    tokens = {"unit": "tokens", "tokens_per_sample": 16, "epochs": 1, "num_samples": 1437}
    with pytest.raises(JobFileError) as caught:
        matrix(matrix={"train": [{"epochs": 1, "num_samples": 1437}, tokens]}, set={"scale.per_worker_batch_size": 64})
    assert caught.value.problem == (
        "study: some cells count samples and some count tokens, and their batches cannot be compared."
    )


def test_cells_whose_samples_have_other_lengths_are_one_experiment() -> None:
    found = matrix(
        matrix={"train.tokens_per_sample": [16, 8]},
        set={"train.unit": "tokens", "scale.per_worker_batch_size": 64},
    )
    plans = [cell.plan for cell in found.cells if cell.plan is not None]
    assert [(plan.global_batch_size, plan.batch_ratio) for plan in plans] == [(8, 8.0), (16, 8.0)]


def test_the_order_is_random_and_one_group_of_workers_follows_the_other() -> None:
    seeds = list(range(6))
    first, again = (matrix(seeds=seeds).in_running_order() for _ in range(2))
    numbers = [cell.number for cell in first]
    assert numbers == [cell.number for cell in again]
    assert numbers != sorted(numbers)
    workers = [cell.plan.world_size for cell in first if cell.plan is not None]
    assert workers in ([1] * 12 + [2] * 12, [2] * 12 + [1] * 12)
    other = [cell.number for cell in matrix(seeds=seeds, order_seed=1).in_running_order()]
    assert sorted(other) == sorted(numbers)
    assert other != numbers


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"matrx": {}}, 'study: unknown key "matrx".'),
        ({"matrix": {"scale.rule": []}}, "study: matrix has a key without values."),
        ({"matrix": {"scale.rule": ["none", "none"]}}, "study: matrix has a value twice."),
        ({"matrix": {"train.seed": [0, 1]}}, "study: the matrix has train.seed."),
        ({"seeds": [1, 1]}, "study: seeds has a value twice."),
        ({"name": "a/b"}, "study: name = 'a/b' cannot be the name of a run."),
        ({"exclude": [{"scale.rules": 1}]}, "study: exclude names scale.rules, which the matrix does not have."),
        ({"exclude": [{"scale.rule": "sqrt"}]}, "study: exclude has scale.rule = sqrt."),
        (
            {"exclude": [{"scale.rule": "none"}, {"scale.rule": "linear"}]},
            "study: exclude leaves no cell.",
        ),
        ({"matrix": {"scale.num_workrs": [1]}}, "study: no cell of the matrix has a plan."),
        ({"matrix": {"scale.num_workers": list(range(1, 10_002))}}, "study: the matrix has 10,001 cells."),
        ({"target": {"at_least": 0.9}}, "study: has a target and no compare."),
        (
            {"compare": {"metric": "loss", "mode": "min", "margin": 0.1}, "target": {"at_least": 0.9}},
            "study: has compare.mode = min.",
        ),
        ({"compare": {"metric": "loss", "mode": "least", "margin": 0.1}}, "study: compare.mode = least is not"),
        ({"compare": {"metric": "loss", "mode": "min", "margin": 0.0}}, "study: compare.margin = 0.0 must be > 0."),
    ],
)
def test_a_file_that_cannot_be_used_says_what_is_wrong(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(JobFileError) as caught:
        matrix(**changes)
    assert str(caught.value).startswith(problem)


def test_a_file_is_read_beside_its_job(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump({**BASE, "job": str(DIGITS / "job.yaml")}))
    found = make_matrix(load_experiment(path), folder=tmp_path, source=str(path))
    assert found.recipe_folder == DIGITS
    assert len(found.cells) == 4


RULES = DIGITS.parents[1] / "benchmarks/rules"
EXPERIMENTS = [*sorted(DIGITS.parent.glob("*/*sc*.yaml")), *sorted(set(RULES.glob("*.yaml")) - {RULES / "digits.yaml"})]


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.name)
def test_the_experiments_of_the_jobs_and_of_the_rules_have_a_plan_for_each_cell(path: Path) -> None:
    found = make_matrix(load_experiment(path), folder=path.parent, source=str(path))
    assert len(found.cells) > 20
    assert all(cell.plan is not None for cell in found.cells)


def test_the_baseline_may_be_an_included_combination() -> None:
    compare = {"baseline": {"schedule": {"name": "constant"}}, "metric": "loss", "mode": "min", "margin": 0.1}
    choices = {"schedule": [{"name": "linear"}, {"name": "cosine"}]}
    with pytest.raises(JobFileError, match=r"compare\.baseline has schedule"):
        matrix(matrix=choices, compare=compare)
    assert len(matrix(matrix=choices, compare=compare, include=[{"schedule": {"name": "constant"}}]).cells) == 3


@pytest.mark.parametrize(
    ("options", "name", "cells"),
    [
        ({"strong": [1, 2]}, "digits-strong", ["workers 1, batch 256", "workers 2, batch 256"]),
        ({"weak": [1, 2]}, "digits-weak", ["workers 1", "workers 2"]),
        ({"rules": ["linear", "none"]}, "digits-rules", ["rule linear", "rule none"]),
        ({"lrs": [0.01, 0.03]}, "digits-lr", ["lr 0.01", "lr 0.03"]),
        (
            {"batches": [16, 64], "rules": ["sqrt"]},
            "digits-batches-rules",
            ["batch 16, rule sqrt", "batch 64, rule sqrt"],
        ),
    ],
)
def test_an_option_makes_an_experiment_without_a_file(options: dict[str, Any], name: str, cells: list[str]) -> None:
    experiment = preset(DIGITS / "job.yaml", **options)
    assert experiment.name == name
    found = make_matrix(experiment, folder=DIGITS, source="the experiment")
    assert [label(cell.overrides) for cell in found.cells] == cells


def test_strong_scaling_keeps_the_global_batch_and_weak_scaling_lets_it_grow() -> None:
    for option, batches in (("strong", [256, 256]), ("weak", [128, 256])):
        found = make_matrix(preset(DIGITS / "job.yaml", **{option: [1, 2]}), folder=DIGITS, source="x")
        plans = [cell.plan for cell in found.cells if cell.plan is not None]
        # One worker cannot hold 256 samples in one micro-step of 128: that cell has no plan.
        assert [plan.global_batch_size for plan in plans] == (batches if option == "weak" else batches[1:])


COMPARE = {"metric": "accuracy", "mode": "max", "margin": 0.015}


def test_weak_scaling_is_compared_with_the_tuned_reference() -> None:
    """One worker with its part of the batch (128) is not what was tuned (16), and may be worse already."""
    found = make_matrix(preset(DIGITS / "job.yaml", weak=[1, 2], compare=COMPARE), folder=DIGITS, source="x")
    assert [label(cell.overrides) for cell in found.cells] == ["workers 1", "workers 2", "workers 1, batch 16"]
    assert found.experiment.compare is not None
    assert found.experiment.compare.baseline == {"scale.num_workers": 1, "scale.global_batch_size": 16}
    assert found.cells[2].plan is not None
    assert found.cells[2].plan.batch_ratio == 1


def test_weak_scaling_from_the_reference_runs_no_cell_twice() -> None:
    options = ["scale.per_worker_batch_size=16"]
    experiment = preset(DIGITS / "job.yaml", weak=[2, 1], overrides=options, compare=COMPARE)
    found = make_matrix(experiment, folder=DIGITS, overrides=options, source="x")
    assert [label(cell.overrides) for cell in found.cells] == ["workers 2", "workers 1"]
    assert experiment.compare is not None
    assert experiment.compare.baseline == {"scale.num_workers": 1}


def test_weak_scaling_needs_a_global_batch_that_grows() -> None:
    with pytest.raises(JobFileError) as raised:
        preset(DIGITS / "job.yaml", weak=[1, 8], batches=[16, 128])
    assert str(raised.value) == (
        "--weak and --batches: with one batch a worker, the number of workers gives the global batch.\n"
        "  Each number of workers with each global batch: --strong 1,8 --batches 16,128. Another batch a worker: "
        "--weak 1,8 --set scale.per_worker_batch_size=128. Chosen pairs: the include of an experiment file."
    )
    with pytest.raises(JobFileError) as raised:
        preset(DIGITS / "job.yaml", weak=[1, 8], overrides=["scale.global_batch_size=256"])
    assert str(raised.value) == (
        "--weak: scale.global_batch_size = 256 keeps the global batch the same.\n"
        "  Add --set scale.global_batch_size=null --set scale.per_worker_batch_size=64."
    )


def test_presets_that_do_not_go_together_are_refused() -> None:
    with pytest.raises(JobFileError, match="two experiments"):
        preset(DIGITS / "job.yaml", strong=[1], weak=[1])
    with pytest.raises(JobFileError, match="what is to be compared"):
        preset(DIGITS / "job.yaml")


def test_an_included_combination_may_have_seeds_of_its_own() -> None:
    found = matrix(
        seeds=[0, 1],
        include=[
            {"scale.num_workers": 2, "scale.rule": "linear", "seeds": [1, 8]},
            {"scale.num_workers": 1, "reference.lr": 0.03, "seeds": [7]},
        ],
    )
    assert labels(found)[-5:] == [
        "workers 2, rule none 1",
        "workers 2, rule linear 0",
        "workers 2, rule linear 1",
        "workers 2, rule linear 8",
        "workers 1, lr 0.03 7",
    ]


@pytest.mark.parametrize("seeds", [[], 3, ["a"], [True]])
def test_seeds_of_a_combination_are_whole_numbers(seeds: object) -> None:
    with pytest.raises(JobFileError, match="seeds"):
        matrix(include=[{"scale.num_workers": 1, "seeds": seeds}])


def test_a_matrix_compares_muon_with_a_fallback_and_one_optimizer() -> None:
    """One recipe, and only some of its plans need the model."""
    muon = {"name": "muon", "fallback": {"name": "adamw", "lr": 0.004}}
    found = matrix(matrix={"reference.optimizer": [{"name": "adamw"}, muon]})
    assert [len(cell.plan.optimizers) for cell in found.cells if cell.plan is not None] == [0, 1]
    assert found.cells[1].plan is not None
    assert found.cells[1].plan.tensors
