"""Paths as people type them on the command line."""

import os
from pathlib import Path
from shlex import quote
from typing import Any

import click

from scaler.errors import JobFileError

JOB_FILE = "job.yaml"
MOST_SHOWN = 5  # job files of a folder that an error names


class UserPath(click.Path):
    """A path; ``~`` is the home folder also where the shell leaves it alone, as in ``--html=~/plan.html``."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the path."""
        path = os.path.expanduser(value)
        if str(path).startswith("~"):
            self.fail(f"{value}: there is no home folder {Path(path).parts[0]}.", param, ctx)
        return super().convert(path, param, ctx)


class JobPath(UserPath):
    """A job file; of a folder, the ``job.yaml`` in it."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the file's path."""
        path: Path = super().convert(value, param, ctx)
        if not os.path.isdir(path):  # also of a name that is too long
            return path
        if (path / JOB_FILE).exists():
            return path / JOB_FILE
        others = sorted(other for pattern in ("*.yaml", "*.yml") for other in path.glob(pattern))
        raise JobFileError(
            f"{path}: is a folder without a {JOB_FILE}.",
            f"Give the job file: {', '.join(map(str, others[:MOST_SHOWN]))}."
            if others
            else f"scaler init {quote(str(path))} writes a job file that runs as it is.",
        )
