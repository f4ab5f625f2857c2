"""The cells of an experiment: every combination of the matrix with every seed, as jobs with their plans."""

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from scaler.errors import JobFileError, ScalerError
from scaler.experiment.file import MOST_CELLS, SEEDS, ExperimentFile
from scaler.experiment.search_section import Range, Search
from scaler.job import Job
from scaler.job.changes import shown
from scaler.job.load import edit_job
from scaler.job.located import LocatedJob, locate_job
from scaler.plan import Plan, needs_parameters
from scaler.report.experiment.labels import matches
from scaler.training.plan_job import RecipeFacts, plan_with_recipe, recipe_facts

SEED = "train.seed"
NOT_IN_A_MATRIX = ("name", "recipe", "runtime_env", "storage", "tracking")

Overrides = Mapping[str, Any]
"""Values by key of the job, in the order of the matrix."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """One run of an experiment.

    Args:
        number: its place in the matrix; the first is 0.
        overrides: what the matrix sets.
        seed: ``train.seed``.
        job: the job with both; None: they do not make a job.
        plan: of the job; None: there is none.
        problem: why there is no job or no plan; empty: there is one.
    """

    number: int
    overrides: Overrides
    seed: int
    job: Job | None
    plan: Plan | None
    problem: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Matrix:
    """The cells of an experiment, and what they share.

    Args:
        experiment: the file.
        base: the job without the matrix.
        job_path: of the job file.
        overrides: ``key.key=value`` texts that hold for every cell, also those of the file's ``set``.
        recipe_folder: absolute; the recipes are looked for here.
        cells: in the order of the matrix; the repeats of one combination follow each other. Of a search, examples: the
            job, and the first value of each key.
    """

    experiment: ExperimentFile
    base: Job
    job_path: str
    overrides: Sequence[str]
    recipe_folder: Path
    cells: Sequence[Cell]

    def in_running_order(self) -> Sequence[Cell]:
        """Return the cells that have a plan as they run: in random order, those of one group of workers together.

        A random order keeps what changes during the experiment, such as the load of the machine, from falling on one
        combination only.
        """
        cells = [cell for cell in self.cells if cell.plan is not None]
        random.Random(self.experiment.order_seed).shuffle(cells)
        first = {worker_group(cell): position for position, cell in reversed(list(enumerate(cells)))}
        return sorted(cells, key=lambda cell: first[worker_group(cell)])


def worker_group(cell: Cell) -> str:
    """Return what the cells that one group of workers can train have in common."""
    assert cell.job is not None
    assert cell.plan is not None
    resources = cell.job.resources.model_dump(mode="json")
    about = [cell.plan.world_size, cell.job.scale.is_elastic, resources, cell.job.runtime_env.model_dump(mode="json")]
    return json.dumps(about, sort_keys=True)


def base_job(
    experiment: ExperimentFile, *, folder: Path, overrides: Sequence[str] = ()
) -> tuple[LocatedJob, Sequence[str]]:
    """Return the job without the matrix, and the ``key.key=value`` texts that were applied to it.

    Args:
        experiment: the file; its ``set`` comes before ``overrides``.
        folder: of the file; the job's path is relative to it.
        overrides: ``key.key=value`` texts for the job of every cell.

    Raises:
        JobFileError: the job cannot be read.
    """
    overrides = [*as_texts(experiment.set), *overrides]
    return locate_job(folder / experiment.job, overrides=overrides), overrides


def make_matrix(experiment: ExperimentFile, *, folder: Path, overrides: Sequence[str] = (), source: str) -> Matrix:
    """Return the cells of an experiment with their plans.

    Args:
        experiment: the file.
        folder: of the file; the job's path is relative to it.
        overrides: ``key.key=value`` texts for the job of every cell.
        source: the file's path, for errors.

    Raises:
        JobFileError: the job cannot be read, the matrix is too large, or no cell has a plan.
    """
    located, overrides = base_job(experiment, folder=folder, overrides=overrides)
    search = experiment.search
    combinations = (
        _combinations(experiment, source=source) if search is None else _examples(search, experiment.seeds[0])
    )
    values = located.job.model_dump()
    facts: dict[str, RecipeFacts] = {}
    cells = [
        make_cell(number, combination, seed, values, located.source, located.recipe_folder, facts)
        for number, (combination, seed) in enumerate(combinations)
    ]
    if search is not None:
        _require_space(search, cells, source=source)
    units = {cell.plan.unit for cell in cells if cell.plan is not None}
    if len(units) > 1:
        raise JobFileError(
            f"{source}: some cells count samples and some count tokens, and their batches cannot be compared.",
            "Leave train.unit out of the matrix; train.tokens_per_sample may differ.",
        )
    if all(cell.plan is None for cell in cells):
        raise JobFileError(f"{source}: no cell of the matrix has a plan.", f"The first one: {cells[0].problem}")
    return Matrix(
        experiment=experiment,
        base=located.job,
        job_path=located.source,
        overrides=overrides,
        recipe_folder=located.recipe_folder,
        cells=cells,
    )


def _combinations(experiment: ExperimentFile, *, source: str) -> Sequence[tuple[Overrides, int]]:
    """Return every combination that is not excluded, and those that are included, with each seed."""
    keys = list(experiment.matrix)
    known = ", ".join(keys)
    named = [("exclude", each) for each in experiment.exclude]
    baseline = experiment.compare.baseline if experiment.compare is not None else {}
    if not any(matches(each, baseline) for each in experiment.include):
        named.append(("compare.baseline", baseline))
    for name, some in named:
        for key, value in some.items():
            if key not in keys:
                raise JobFileError(f"{source}: {name} names {key}, which the matrix does not have.", f"It has {known}.")
            if value not in experiment.matrix[key]:
                values = ", ".join(map(shown, experiment.matrix[key]))
                raise JobFileError(f"{source}: {name} has {key} = {shown(value)}.", f"The matrix has {values}.")
    if SEED in (*keys, *(key for each in experiment.include for key in each)):
        raise JobFileError(f"{source}: the matrix has {SEED}.", "Give the seeds of the repeats: seeds: [0, 1, 2].")
    number = len(experiment.seeds)
    for choices in experiment.matrix.values():
        number *= len(choices)
    if number > MOST_CELLS:
        raise JobFileError(f"{source}: the matrix has {number:,} cells.", f"At most {MOST_CELLS:,}.")
    found = [dict(zip(keys, values, strict=True)) for values in product(*experiment.matrix.values())]
    kept: list[Overrides] = [each for each in found if not any(matches(each, some) for some in experiment.exclude)]
    seeds = [list(experiment.seeds) for _ in kept]
    for included in experiment.include:
        each = {key: value for key, value in included.items() if key != SEEDS}
        wanted: Any = included.get(SEEDS, experiment.seeds)
        if each not in kept:
            kept.append(each)
            seeds.append([])
        own = seeds[kept.index(each)]
        own += [seed for seed in wanted if seed not in own]
    if not kept:
        raise JobFileError(f"{source}: exclude leaves no cell.", "Leave a part of it out.")
    return [(each, seed) for each, own in zip(kept, seeds, strict=True) for seed in own]


def as_texts(overrides: Overrides) -> list[str]:
    """Return values by key as ``key.key=value`` texts, for ``edit_job``."""
    return [f"{key}={_yaml(value)}" for key, value in overrides.items()]


def _examples(search: Search, seed: int) -> Sequence[tuple[Overrides, int]]:
    """Return some settings of a search's space, with a seed: none, one for each key, and one of all keys."""
    first = {key: values.low if isinstance(values, Range) else values[0] for key, values in search.space.items()}
    return [(each, seed) for each in ({}, *({key: value} for key, value in first.items()), first)]


def _require_space(search: Search, cells: Sequence[Cell], *, source: str) -> None:
    """Refuse a key that the job does not have, or that all runs must share."""
    for key, cell in zip(search.space, cells[1:], strict=False):
        if key == SEED:
            raise JobFileError(f"{source}: search.space has {SEED}.", "Give the seed of all trials: seeds: [0].")
        if key.split(".")[0] in NOT_IN_A_MATRIX:
            raise JobFileError(f"{source}: search.space has {key}, which all trials share.", "Set it in the job.")
        if cell.job is None:
            raise JobFileError(f"{source}: search.space has {key}, and the first value makes no job.", cell.problem)


def _yaml(value: Any) -> str:
    """Return a value as YAML on one line; a plain word needs no quotes."""
    is_word = isinstance(value, str) and value.isidentifier() and value not in ("true", "false", "null")
    return str(value) if is_word else json.dumps(value)


def make_cell(
    number: int,
    overrides: Overrides,
    seed: int,
    values: Mapping[str, Any],
    source: str,
    recipe_folder: Path,
    facts: dict[str, RecipeFacts],
) -> Cell:
    """Return one cell with its job and its plan.

    Args:
        number: its place in the matrix.
        overrides: what the matrix sets.
        seed: ``train.seed``.
        values: of the job without the matrix, as ``Job.model_dump()`` has them.
        source: names the job in errors.
        recipe_folder: the recipes are looked for here.
        facts: of the recipes; what is missing is added.
    """
    job: Job | None = None
    try:
        texts = as_texts({**overrides, SEED: seed})
        job = edit_job(values, overrides=texts, source=source)
        needs = [str(job.groups), str(job.train.num_samples), needs_parameters(job)]
        unit = [job.train.unit, job.train.tokens_per_sample]
        about = json.dumps([job.recipe, job.recipe_args, *needs, *unit], default=str)
        if about not in facts:
            facts[about] = recipe_facts(job, source=source, recipe_folder=recipe_folder)
        job, plan = plan_with_recipe(job, source=source, recipe_folder=recipe_folder, facts=facts[about])
    except ScalerError as error:
        return Cell(number=number, overrides=overrides, seed=seed, job=job, plan=None, problem=str(error))
    return Cell(number=number, overrides=overrides, seed=seed, job=job, plan=plan)
