"""Options that several commands take."""

import sys
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from scaler.cli.paths import JobPath
from scaler.errors import JobFileError, ScalerError
from scaler.job import Job, parse_job
from scaler.plan import Plan, make_plan

Command = Callable[..., Any]


def job_options(command: Command) -> Command:
    """JOB and ``--set``."""
    command = click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a key of the job.")(
        command
    )
    return click.argument("job_path", metavar="JOB", type=JobPath())(command)


def address_option(command: Command) -> Command:
    """``--address``."""
    return click.option(
        "--address",
        metavar="A",
        help="A running Ray cluster (auto, host:port). Default: an embedded local one. "
        "none: one worker in this process, without Ray.",
    )(command)


def output_options(command: Command) -> Command:
    """``--json``, ``--quiet`` and ``--verbose`` of the commands that run a job."""
    for option in (
        click.option("--verbose", is_flag=True, help="Show Ray's own log too."),
        click.option("--quiet", is_flag=True, help="No plan and no progress."),
        click.option("--json", "as_json", is_flag=True, help="Print the report as JSON."),
    ):
        command = option(command)
    return command


def where_it_runs(address: str | None) -> str:
    """Return what an ``--address`` means, in words."""
    return {None: "starting an embedded Ray", "none": "in this process"}.get(address, f"on the Ray at {address}")


def storage_option(command: Command) -> Command:
    """``--storage``."""
    return click.option("--storage", default="runs", show_default=True, help="Where run folders are.")(command)


@dataclass(frozen=True, kw_only=True, slots=True)
class RecipeFacts:
    """What a plan takes from the recipe, where the job file does not say it; a recipe is built once for many plans."""

    num_samples: int | None = None
    parameters: Mapping[str, int] | None = None  # name -> number of elements
    groups: object = ()  # as the recipe gives them: not checked yet


def recipe_facts(job: Job, *, job_path: Path, recipe_folder: Path | None = None) -> RecipeFacts:
    """Return what the plans of a job take from its recipe; builds it only where they take anything.

    Args:
        job: as its file says.
        job_path: of the file.
        recipe_folder: where the recipe is looked for; None: next to the file.

    Raises:
        ScalerError: the recipe cannot be built.
    """
    needs_model = bool(job.groups) or job.layer_decay is not None
    if job.train.num_samples is not None and not needs_model:
        return RecipeFacts()
    from scaler.training.model.names import named_parameters
    from scaler.training.recipe.failures import recipe_failure
    from scaler.training.recipe.load import load_recipe

    folder = recipe_folder or job_path.parent.absolute()
    try:
        with redirect_stdout(sys.stderr):  # stdout is the result's
            recipe = load_recipe(
                job.recipe,
                folder=folder,
                arguments=job.recipe_args,
                source=str(job_path),
            )
            return RecipeFacts(
                num_samples=len(recipe.train_data),  # type: ignore[arg-type]
                parameters={name: parameter.numel() for name, parameter in named_parameters(recipe.model).items()},
                groups=recipe.groups,
            )
    except ScalerError:
        raise
    except (Exception, SystemExit) as error:
        raise recipe_failure(error, job.recipe, folder=folder) from error


def plan_for(
    job: Job,
    *,
    job_path: Path,
    recipe_folder: Path | None = None,
    world_size: int | None = None,
    facts: RecipeFacts | None = None,
) -> tuple[Job, Plan]:
    """Return a job whose groups are its own, not its recipe's, and its plan.

    Args:
        job: as its file says.
        job_path: of the file.
        recipe_folder: where the recipe is looked for; None: next to the file.
        world_size: workers to plan for; None: as many as the job asks for.
        facts: what ``recipe_facts`` found, where several plans are made; None: it is asked now.

    Raises:
        JobFileError: a number that does not fit, or a group of the recipe that cannot be used.
    """
    if facts is None:
        facts = recipe_facts(job, job_path=job_path, recipe_folder=recipe_folder)
    if job.groups == "recipe":
        job = _with_groups(job, facts.groups, job_path=job_path)
    return job, make_plan(job, world_size, num_samples=facts.num_samples, parameters=facts.parameters)


def _with_groups(job: Job, groups: object, *, job_path: Path) -> Job:
    """The job with the groups that its recipe gives, checked as if they stood in the file."""
    if not isinstance(groups, list | tuple):
        raise JobFileError(
            f"{job.recipe}: groups is a {type(groups).__name__}, not a list.",
            'Such as scaler.Recipe(groups=[{"match": "backbone.*", "lr_ratio": 0.1}], ...).',
        )
    if not groups:
        raise JobFileError(
            f"{job_path}: groups = recipe, and {job.recipe} gives none.",
            'Return scaler.Recipe(groups=[{"match": "backbone.*", "lr_ratio": 0.1}], ...), or leave the key out.',
        )
    plain = [dict(group) if isinstance(group, Mapping) else group for group in groups]
    return parse_job({**job.model_dump(), "groups": plain}, source=job.recipe)


def numbers(text: str, *, option: str) -> list[int]:
    """Return the whole numbers of ``1,2,4``.

    Raises:
        JobFileError: one of them is not a whole number above 0.
    """
    parts = text.split(",")
    if not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
        raise JobFileError(f"{option} {text} is not a list of whole numbers above 0.", f"Such as {option} 1,2,4,8.")
    return [int(part) for part in parts]


def write_file(path: Path, text: str) -> None:
    """Write a file that an option names.

    Raises:
        JobFileError: it cannot be written.
    """
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise JobFileError(
            f"{path}: cannot be written: {error.strerror}.", "Give a file in a folder that is there."
        ) from error
