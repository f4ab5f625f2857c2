"""Parameter types of the command line for paths."""

import os
from pathlib import Path
from typing import Any

import click


class UserPath(click.Path):
    """A path in which a leading ``~`` is the home folder.

    Shells replace ``~`` only at the start of a word, and so not in ``--html=~/plan.html``.
    """

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the path."""
        path = os.path.expanduser(value)
        if str(path).startswith("~"):
            self.fail(f"{value}: there is no home folder {Path(path).parts[0]}.", param, ctx)
        return super().convert(path, param, ctx)


class JobPath(UserPath):
    """The path of a job file; a folder stands for the ``job.yaml`` in it."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the file's path."""
        from scaler.job.located import job_file

        return job_file(super().convert(value, param, ctx))
