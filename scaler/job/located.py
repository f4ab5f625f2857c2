"""A job as a caller gives it, a file or a ``Job``, with the folder where its recipe is looked for."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

from scaler.errors import JobFileError
from scaler.job.load import edit_job, load_job
from scaler.job.model import Job

JOB_FILE = "job.yaml"
MOST_SHOWN = 5  # job files of a folder that an error names

JobLike = str | os.PathLike[str] | Job


@dataclass(frozen=True, kw_only=True, slots=True)
class LocatedJob:
    """A job, and where it comes from.

    Args:
        job: with every override in it.
        source: its file, or ``the job``; names it in errors.
        recipe_folder: absolute; the recipe's module is looked for here first.
    """

    job: Job
    source: str
    recipe_folder: Path


def locate_job(
    job: JobLike,
    *,
    overrides: Sequence[str] = (),
    workers: int | None = None,
    storage: str | os.PathLike[str] | None = None,
    recipe_folder: str | os.PathLike[str] | None = None,
) -> LocatedJob:
    """Return a job with its overrides, and the folder of its recipe.

    Args:
        job: the path of a job file, of a folder with a ``job.yaml``, or a ``Job``.
        overrides: ``key.key=value`` texts, the value in YAML; later ones win.
        workers: number of workers, instead of ``scale.num_workers``.
        storage: the folder or URI that gets the run, instead of the job's ``storage``.
        recipe_folder: where the recipe is looked for; None: next to the job file, or in the current folder for a
            ``Job``.

    Raises:
        JobFileError: the file cannot be read or is not a job; names the key and the remedy.
    """
    if storage is not None:
        overrides = [*overrides, f"storage={json.dumps(os.fspath(storage))}"]
    if isinstance(job, Job):
        source, folder = "the job", Path()
        job = edit_job(job.model_dump(), overrides=overrides, workers=workers, source=source)
    else:
        path = job_file(Path(job))
        source, folder = str(path), path.parent
        job = load_job(path, overrides=overrides, workers=workers)
    return LocatedJob(
        job=job, source=source, recipe_folder=Path(folder if recipe_folder is None else recipe_folder).absolute()
    )


def job_file(path: Path) -> Path:
    """Return the path of a job file: the path itself, or the ``job.yaml`` of a folder.

    Raises:
        JobFileError: the folder has no ``job.yaml``; names the YAML files that it has.
    """
    if not os.path.isdir(path):  # not path.is_dir(), which raises for a name that is too long
        return path
    if (path / JOB_FILE).exists():
        return path / JOB_FILE
    others = sorted(other for pattern in ("*.yaml", "*.yml") for other in path.glob(pattern))
    raise JobFileError(
        f"{path}: is a folder without a {JOB_FILE}.",
        f"Give the job file: {', '.join(map(str, others[:MOST_SHOWN]))}."
        if others
        else f"scaler init {quote(str(path))} writes a job file that is ready to run.",
    )
