"""The plan of a job, with what it needs from the recipe: the size of the data, the parameters and their groups."""

import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path

from scaler.errors import JobFileError, ScalerError
from scaler.job import Job, parse_job
from scaler.job.located import JobLike, locate_job
from scaler.job.own_loop import require_own_loop_keys
from scaler.job.runtime_env import job_environment
from scaler.plan import Plan, PlanParameter, make_plan, needs_parameters


def plan_job(
    job: JobLike,
    *,
    workers: int | None = None,
    overrides: Sequence[str] = (),
    recipe_folder: str | os.PathLike[str] | None = None,
) -> Plan:
    """Return the plan of a job: the one that ``scaler.submit`` runs with the same arguments.

    Its recipe is built only where the plan needs it: with ``groups``, ``layer_decay`` or optimizers that share the
    parameters of a recipe, or without ``train.num_samples``. Otherwise neither torch nor Ray is loaded.

    Args:
        job: the path of a job file, of a folder with a ``job.yaml``, or a ``Job``.
        workers: number of workers, instead of ``scale.num_workers``.
        overrides: ``key.key=value`` texts, the value in YAML; later ones win.
        recipe_folder: where the recipe is looked for; None: next to the job file, or in the current folder for a
            ``Job``.

    Raises:
        JobFileError: the file cannot be read, or is not a job; names the key and the remedy.
        PlanError: the job's numbers do not fit together.
        RecipeError: the recipe raised an exception, or returned something that is not a usable recipe.

    Example:
        >>> import scaler
        >>> plan = scaler.plan_job("jobs/digits/job.yaml", workers=4)
        >>> plan.global_batch_size, plan.batch_ratio, plan.peak_lr  # samples, a ratio, a learning rate
        (512, 32.0, 0.32)
        >>> scaler.plan_job("jobs/digits/job.yaml", overrides=["scale.rule=sqrt"]).peak_lr
        0.04
    """
    located = locate_job(job, overrides=overrides, workers=workers, recipe_folder=recipe_folder)
    _, plan = plan_with_recipe(located.job, source=located.source, recipe_folder=located.recipe_folder)
    return plan


@dataclass(frozen=True, kw_only=True, slots=True)
class RecipeFacts:
    """What a plan needs from the recipe because the job file does not have it. Several plans can share it.

    Args:
        num_samples: size of the training set; None: the job file has it.
        parameters: size and kind of each parameter, by its name; None: the plan does not need them.
        groups: the parameter groups as the recipe gives them, not checked.
        tokens_per_sample: of the recipe.
    """

    num_samples: int | None = None
    tokens_per_sample: int | None = None
    parameters: Mapping[str, PlanParameter] | None = None
    groups: object = ()


def recipe_facts(job: Job, *, source: str, recipe_folder: Path) -> RecipeFacts:
    """Return what the plans of a job need from its recipe; the recipe is built only where they need something.

    Args:
        job: with every override in it.
        source: names the job in errors.
        recipe_folder: where the recipe is looked for.

    Raises:
        ScalerError: the recipe cannot be built.
    """
    needs_tokens = job.train.unit == "tokens" and job.train.tokens_per_sample is None
    if job.train.num_samples is not None and not needs_parameters(job) and not needs_tokens:
        return RecipeFacts()
    if job.scale.mesh.model_parallel_size > 1:  # for a loop of one's own, which makes its mesh before scaler.start
        raise JobFileError(
            f"{source}: train.num_samples is not given, and no mesh can be made in the one process that plans.",
            "Set train.num_samples to the size of the training set.",
        )
    from scaler.training.model.kinds import parameter_kinds
    from scaler.training.own_loop.around import LoopFound, Planning
    from scaler.training.process_group import process_of_its_own
    from scaler.training.recipe.check import checked_recipe
    from scaler.training.recipe.failures import recipe_failure
    from scaler.training.recipe.load import call_recipe

    try:
        # stdout is for the command's result
        with redirect_stdout(sys.stderr), job_environment(job.runtime_env, folder=recipe_folder), process_of_its_own():
            built = call_recipe(
                job.recipe_function,
                folder=recipe_folder,
                arguments=job.recipe_args,
                source=source,
                around=Planning(),
            )
            recipe = checked_recipe(built, job.recipe_function)
            return RecipeFacts(
                num_samples=len(recipe.train_data),  # type: ignore[arg-type]
                parameters=parameter_kinds(recipe.model),
                groups=recipe.groups,
                tokens_per_sample=recipe.tokens_per_sample,
            )
    except LoopFound as found:
        require_own_loop_keys(job, source=source)
        return RecipeFacts(num_samples=found.num_samples)
    except ScalerError:
        raise
    except (Exception, SystemExit) as error:
        raise recipe_failure(error, job.recipe_function, folder=recipe_folder) from error


def plan_with_recipe(
    job: Job,
    *,
    source: str,
    recipe_folder: Path,
    world_size: int | None = None,
    facts: RecipeFacts | None = None,
) -> tuple[Job, Plan]:
    """Return the job, with its recipe's groups in place of ``groups: recipe`` and its tokens per sample, and its plan.

    Args:
        job: with every override in it.
        source: names the job in errors.
        recipe_folder: where the recipe is looked for.
        world_size: number of workers to plan for; None: the job's.
        facts: what ``recipe_facts`` returned, where several plans are made; None: it is called here.

    Raises:
        JobFileError: numbers that do not fit together, or a group of the recipe that cannot be used.
        ScalerError: the recipe cannot be built.
    """
    if facts is None:
        facts = recipe_facts(job, source=source, recipe_folder=recipe_folder)
    if job.train.unit == "tokens" and job.train.tokens_per_sample is None:
        train = job.train.model_copy(update={"tokens_per_sample": facts.tokens_per_sample})
        job = job.model_copy(update={"train": train})
    if job.groups == "recipe":
        job = _with_groups(job, facts.groups, source=source)
    return job, make_plan(job, world_size, num_samples=facts.num_samples, parameters=facts.parameters)


def _with_groups(job: Job, groups: object, *, source: str) -> Job:
    """Return the job with its recipe's groups, which are checked as if they were in the job file."""
    if not isinstance(groups, list | tuple):
        raise JobFileError(
            f"{job.recipe_function}: groups is a {type(groups).__name__}, not a list.",
            'Such as scaler.Recipe(groups=[{"match": "backbone.*", "lr_ratio": 0.1}], ...).',
        )
    if not groups:
        raise JobFileError(
            f"{source}: groups = recipe, and {job.recipe_function} gives none.",
            'Return scaler.Recipe(groups=[{"match": "backbone.*", "lr_ratio": 0.1}], ...), or leave the key out.',
        )
    plain = [dict(group) if isinstance(group, Mapping) else group for group in groups]
    return parse_job({**job.model_dump(), "groups": plain}, source=job.recipe_function)
