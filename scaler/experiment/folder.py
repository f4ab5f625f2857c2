"""The folder of an experiment: ``<storage>/experiments/<name>/``. This class knows the names of the files in it.

    experiment.yaml  cells.json  experiment.json  experiment.html  experiment.md  recommended.yaml

``cells.json`` says which run each cell has; the process that runs the experiment writes it. The others are made from it
and from the runs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

from scaler.errors import RunError
from scaler.experiment.file import ExperimentFile, parse_experiment
from scaler.job.reading import dump_yaml, read_values
from scaler.runs import RunFolder
from scaler.runs.filesystems import inside, located, make_folder, names_in

FOLDER = "experiments"
EXPERIMENT, CELLS = "experiment.yaml", "cells.json"
SCHEMA_VERSION = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class CellRow:
    """One cell in ``cells.json``.

    Args:
        cell: its number.
        overrides: what the matrix sets.
        seed: ``train.seed``.
        run_id: its run; None: it has none.
        order: the place at which it ran in this experiment, from 0; None: it was taken from an earlier run, or has not
            run.
        problem: why it has no run; empty: it waits for its turn, or has one.
        ended: how a trial of a search ended; None: it has not, or the experiment is no search.
        stopped_at: where the search stopped the trial, in samples seen; None: it did not.
        member: of the population of pbt.
        copied_from: the run from whose checkpoint its run began; None: it began at its first sample.
    """

    cell: int
    overrides: Mapping[str, Any]
    seed: int
    run_id: str | None = None
    order: int | None = None
    problem: str = ""
    ended: str | None = None
    stopped_at: int | None = None
    member: int = 0
    copied_from: str | None = None

    def with_run(self, run_id: str, *, order: int | None = None) -> Self:
        """Return the row of a cell that has a run."""
        return replace(self, run_id=run_id, order=order, problem="")


@dataclass(frozen=True, kw_only=True, slots=True)
class About:
    """What an experiment's cells share.

    Args:
        storage: of their runs.
        job: the path of the job file, as a person typed it.
        overrides: ``key.key=value`` texts that hold for every cell, also those of the file's ``set``.
        environment: the machine and the versions that ran them.
    """

    storage: str
    job: str
    overrides: Sequence[str]
    environment: Mapping[str, Any]


@dataclass(frozen=True)
class ExperimentFolder(RunFolder):
    """The folder of one experiment.

    Args:
        uri: of the folder.
    """

    @classmethod
    def of(cls, name: str, *, storage: str) -> Self:
        """Return the folder of the experiment with a name; it may not exist."""
        return cls(inside(inside(located(storage), FOLDER), name))

    @classmethod
    def make_named(cls, name: str, *, storage: str) -> Self:
        """Make the folder of an experiment; one that exists is no error.

        Raises:
            RunError: the storage cannot be written.
        """
        folder = cls.of(name, storage=storage)
        make_folder(folder._fs, folder._root, storage=storage, uri=folder.uri)
        return folder

    @property
    def storage(self) -> str:
        """The storage that the folder is in, also where it was moved or is named from another folder."""
        return self.uri.rstrip("/").removesuffix(f"/{FOLDER}/{self.run_id}")

    def is_experiment(self) -> bool:
        """Return whether the folder is an experiment's."""
        return self.exists(CELLS)

    def write_cells(self, experiment: ExperimentFile, rows: Sequence[CellRow], about: About) -> None:
        """Write what the experiment is, and which runs its cells have."""
        self.write(EXPERIMENT, dump_yaml(experiment.model_dump(mode="json", exclude_none=True)))
        cells = [asdict(row) for row in rows]
        self.write_json(CELLS, {"schema_version": SCHEMA_VERSION, **asdict(about), "cells": cells})

    def read_cells(self) -> tuple[ExperimentFile, Sequence[CellRow], About]:
        """Return the experiment, its cells and what they share.

        Raises:
            RunError: the folder cannot be read, or a file in it was altered.
        """
        values = self.read_json(CELLS)
        try:
            source = self.path(EXPERIMENT)
            experiment = parse_experiment(read_values(self.read(EXPERIMENT), source=source), source=source)
            about = About(**{name: values[name] for name in ("storage", "job", "overrides", "environment")})
            return experiment, [CellRow(**row) for row in values["cells"]], about
        except (KeyError, TypeError) as error:
            raise RunError(f"{self.path(CELLS)} is not the cells of an experiment: {error}.", "") from None


def list_experiments(storage: str) -> Sequence[ExperimentFolder]:
    """Return the experiments in a storage, by name.

    Raises:
        RunError: the storage cannot be read.
    """
    base = inside(located(storage), FOLDER)
    names = names_in(base, what=f"storage = {storage}")
    return [folder for name in sorted(names) if (folder := ExperimentFolder(inside(base, name))).is_experiment()]
