"""The experiment file: the meaning, range and default of every key."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from scaler.errors import JobFileError
from scaler.experiment.search_section import Key, Search
from scaler.job.explain import problems
from scaler.job.reading import read_file, read_values
from scaler.job.section import Section, file_name, problem

MOST_CELLS = 10_000
SEEDS = "seeds"

Value = str | int | float | bool | None | list[Any] | dict[str, Any]


class Compare(Section):
    """What the cells are compared by."""

    baseline: dict[Key, Value] = Field(
        default_factory=dict,
        description="Values of the matrix, or of an included combination, that name the baseline. Keys left out may "
        "have one value in the matrix, or the job's.",
    )
    metric: str = Field(description="A value of the evaluation, or train_loss.")
    mode: Literal["max", "min"] = Field(description="max: larger is better; min: smaller is better.")
    margin: float | None = Field(
        None,
        gt=0,
        description="Difference to the baseline that does not matter, in units of the metric. Fix it before the runs. "
        "A matrix needs it; a search does not use it.",
    )
    confidence: float = Field(0.9, gt=0.5, lt=1, description="Confidence of the intervals.")


class Target(Section):
    """A value of compare.metric: the samples, time and cost to reach it are compared."""

    at_least: float | None = Field(None, description="Reached when the metric is at least this.")
    at_most: float | None = Field(None, description="Reached when the metric is at most this.")

    @model_validator(mode="after")
    def _one_side(self) -> Self:
        if (self.at_least is None) == (self.at_most is None):
            raise problem("needs one of at_least and at_most.", "Such as {at_least: 0.95}.")
        return self


class Budget(Section):
    """Where an experiment stops. Cells that did not run are named."""

    runs: int | None = Field(None, ge=1, description="Most runs that are started. null: no limit.")
    hours: float | None = Field(None, gt=0, description="No run is started after this many hours. null: no limit.")
    cost: float | None = Field(
        None,
        gt=0,
        description="No run is started once the experiment's runs have cost this much; needs "
        "resources.price_per_worker_hour in the job. null: no limit.",
    )


class ExperimentFile(Section):
    """An experiment: a matrix over one job, or a search."""

    name: str = Field(description="Name of the experiment, of letters, digits, '.', '_' and '-'.")
    job: str = Field(description="The job file, relative to this file.")
    matrix: dict[Key, list[Value]] = Field(
        default_factory=dict,
        description="Values by key of the job: every combination is a cell. Left out in a search.",
    )
    search: Search | None = Field(None, description="A search instead of a matrix. null: none.")
    set: dict[Key, Value] = Field(
        default_factory=dict, description="Values by key of the job that hold for every cell."
    )
    seeds: list[int] = Field([0], min_length=1, description="train.seed of the repeats of each cell.")
    exclude: list[dict[Key, Value]] = Field(
        default_factory=list, description="Combinations that are left out; each names some keys with their values."
    )
    include: list[dict[Key, Value]] = Field(
        default_factory=list,
        description="Combinations that are added to those of the matrix; a key of the job may stand here only. With "
        "seeds: [8, 9], one has these seeds; a combination of the matrix has them too.",
    )
    compare: Compare | None = Field(None, description="What the cells are compared by. null: speed only.")
    target: Target | None = Field(None, description="A value whose cost is compared. null: none.")
    budget: Budget = Field(default_factory=Budget, description="Where the experiment stops.")
    max_concurrent: int = Field(
        1,
        ge=1,
        description="Most trials of a search that train at the same time, as many as fit. Cells of a matrix run one "
        "after another, because speed is measured.",
    )
    order_seed: int = Field(0, ge=0, description="Seed of the random order in which cells run.")

    @model_validator(mode="after")
    def _is_a_matrix_or_a_search(self) -> Self:
        if self.search is None:
            if not self.matrix:
                raise problem(
                    "has no matrix and no search.", "Such as matrix: {scale.global_batch_size: [16, 64, 256]}."
                )
            if self.compare is not None and self.compare.margin is None:
                raise problem("compare has no margin.", "Give the difference that does not matter: margin: 0.01.")
            if self.max_concurrent > 1:
                raise problem(
                    f"max_concurrent = {self.max_concurrent}: the cells of a matrix run one after another, because "
                    "their speed is measured.",
                    "Leave it out.",
                )
            return self
        if self.matrix or self.include or self.exclude:
            raise problem(
                "has a matrix and a search.",
                "Leave matrix, include and exclude out: a list of values in search.space is searched, too.",
            )
        if self.compare is None:
            raise problem(
                "has a search and no compare, which says what is searched for.",
                "Such as compare: {metric: accuracy, mode: max}.",
            )
        if self.compare.baseline or self.target is not None:
            raise problem(
                "has a search with a baseline or a target.",
                "Leave compare.baseline and target out; compare what the search finds with a matrix.",
            )
        if len(self.seeds) > 1:
            raise problem(
                f"has a search with {len(self.seeds)} seeds.",
                f"Give one, with which each trial trains: seeds: [{self.seeds[0]}]. Then repeat the best settings in a "
                "matrix.",
            )
        return self

    @model_validator(mode="after")
    def _target_fits(self) -> Self:
        if self.target is None:
            return self
        if self.compare is None:
            raise problem(
                "has a target and no compare.", "Such as compare: {metric: accuracy, mode: max, margin: 0.01}."
            )
        if (self.target.at_least is not None) != (self.compare.mode == "max"):
            key = "at_least" if self.compare.mode == "max" else "at_most"
            raise problem(f"has compare.mode = {self.compare.mode}.", f"Give target.{key}.")
        return self

    @field_validator("name")
    @classmethod
    def _name_is_a_file_name(cls, name: str) -> str:
        return file_name(name)

    @field_validator("include")
    @classmethod
    def _seeds_are_numbers(cls, include: list[dict[str, Value]]) -> list[dict[str, Value]]:
        for each in include:
            seeds = each.get(SEEDS, [0])
            if not (isinstance(seeds, list) and seeds and all(type(seed) is int for seed in seeds)):
                raise problem(f"has seeds = {seeds}.", "Give whole numbers: seeds: [8, 9].")
        return include

    @field_validator("matrix", "seeds")
    @classmethod
    def _distinct(cls, values: Any) -> Any:
        lists = values.values() if isinstance(values, Mapping) else [values]
        for each in lists:
            if not each:
                raise problem("has a key without values.", "Give each key a list of values.")
            if len({repr(value) for value in each}) < len(each):
                raise problem("has a value twice.", "Give each value once.")
        return values


def load_experiment(path: Path) -> ExperimentFile:
    """Read an experiment file.

    Raises:
        JobFileError: the file cannot be read, or is not an experiment; names the key and the remedy.
    """
    values = read_values(read_file(path), source=str(path))
    if "recipe" in values and "matrix" not in values:
        raise JobFileError(
            f"{path}: is a job, not an experiment.",
            "Say what to vary: --strong 1,2,4, --weak 1,2,4, --batches 16,64, --rules linear,sqrt or --lr 0.01,0.03.",
        )
    return parse_experiment(values, source=str(path))


def parse_experiment(values: Mapping[str, Any], *, source: str) -> ExperimentFile:
    """Return the experiment that ``values`` describe; ``source`` names them in errors."""
    try:
        return ExperimentFile.model_validate(values)
    except ValidationError as error:
        texts: Sequence[tuple[str, str]] = problems(error, ExperimentFile)
        lines = [f"{text} {remedy}".strip() for text, remedy in texts]
        raise JobFileError(f"{source}: {lines[0]}", "\n".join(lines[1:])) from None
