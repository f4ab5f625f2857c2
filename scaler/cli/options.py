"""Options that several commands take."""

import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import click

from scaler.errors import JobFileError, ScalerError
from scaler.job import Job
from scaler.plan import Plan, make_plan

Command = Callable[..., Any]


def job_options(command: Command) -> Command:
    """JOB and ``--set``."""
    command = click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a key of the job.")(
        command
    )
    return click.argument("job_path", metavar="JOB", type=click.Path(path_type=Path))(command)


def storage_option(command: Command) -> Command:
    """``--storage``."""
    return click.option("--storage", default="runs", show_default=True, help="Where run folders are.")(command)


def plan_for(job: Job, *, job_path: Path, world_size: int | None = None) -> Plan:
    """Return a job's plan; builds the recipe to count its samples where the job does not give their number."""
    if job.train.num_samples is not None:
        return make_plan(job, world_size)
    from scaler.training.recipe import load_recipe, recipe_failure

    try:
        with redirect_stdout(sys.stderr):  # stdout is the result's
            recipe = load_recipe(
                job.recipe, folder=job_path.parent.absolute(), arguments=job.recipe_args, source=str(job_path)
            )
    except ScalerError:
        raise
    except (Exception, SystemExit) as error:
        raise recipe_failure(error, job.recipe) from error
    return make_plan(job, world_size, num_samples=len(recipe.train_data))  # type: ignore[arg-type]


def numbers(text: str, *, option: str) -> list[int]:
    """Return the whole numbers of ``1,2,4``.

    Raises:
        JobFileError: one of them is not a whole number above 0.
    """
    parts = text.split(",")
    if not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
        raise JobFileError(f"{option} {text} is not a list of whole numbers above 0.", f"Such as {option} 1,2,4,8.")
    return [int(part) for part in parts]
