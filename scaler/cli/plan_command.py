"""``scaler plan``."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from scaler.cli.estimates import estimate_plans
from scaler.cli.options import job_options, numbers, write_page
from scaler.cli.paths import UserPath
from scaler.cli.terminal import show
from scaler.core.nearest import did_you_mean
from scaler.core.rules import RULES
from scaler.errors import JobFileError
from scaler.job import Job, load_job
from scaler.plan import Plan
from scaler.plan.make import require_every_size
from scaler.report.plan.estimate import PlanEstimate
from scaler.report.plan.variants import Refused
from scaler.training.plan_job import RecipeFacts, plan_with_recipe, recipe_facts


@click.command("plan")
@job_options
@click.option("--workers", metavar="N[,N...]", help="Plan for these numbers of workers; an elastic job stays elastic.")
@click.option("--rule", metavar="R[,R...]", help="Plan with these rules, instead of the job's.")
@click.option(
    "--estimate/--no-estimate",
    default=None,
    help="Show the time, cost and risk that finished runs and experiments in the storage show. Default: if it is a "
    "local folder.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--html", "html_path", type=UserPath(), metavar="FILE", help="Write HTML to FILE.")
def command(
    job_path: Path,
    overrides: tuple[str, ...],
    workers: str | None,
    rule: str | None,
    estimate: bool | None,
    as_json: bool,
    html_path: Path | None,
) -> None:
    """Show every number that a job trains with, and its reason.

    It needs no cluster. The recipe's model and data are built only for jobs with groups, layer_decay or several
    optimizers, or without train.num_samples.
    """
    sizes = numbers(workers, option="--workers") if workers is not None else [None]
    rules = _rules(rule) if rule is not None else [None]
    outcomes, job = _outcomes(job_path, overrides, sizes=sizes, rules=rules)
    plans = [outcome for outcome in outcomes if isinstance(outcome, Plan)]
    estimates = estimate_plans(plans, job, source=str(job_path), overrides=overrides, asked=estimate)
    if html_path is not None:
        from scaler.report.plan.html import render_plan_html

        write_page(html_path, render_plan_html(outcomes, job=job, estimates=estimates))
    if as_json:
        click.echo(json.dumps(_as_json(outcomes, estimates), indent=1, allow_nan=False))
    elif html_path is None:
        from scaler.report.plan.text import plan_text, plans_table

        if len(outcomes) == 1 and isinstance(outcomes[0], Plan):
            show(plan_text(outcomes[0], job=job, estimate=estimates[0], with_curve=True))
        else:
            show(plans_table(outcomes, estimates=estimates, with_curve=True))


def _rules(text: str) -> list[str]:
    """Return the names of rules in a text such as ``linear,sqrt``."""
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in RULES:
            raise JobFileError(
                f'--rule {text}: "{name}" is not a rule.',
                f"{did_you_mean(name, RULES)}Rules: {', '.join(RULES)}; such as --rule linear,sqrt.",
            )
    return names


def _outcomes(
    job_path: Path, overrides: Sequence[str], *, sizes: Sequence[int | None], rules: Sequence[str | None]
) -> tuple[list[Plan | Refused], Job]:
    """Return the plan of each rule and number of workers, or why it is refused; and the last job that was read.

    Raises:
        JobFileError: every plan is refused; the error is that of the first.
    """
    source, folder = str(job_path), job_path.parent.absolute()
    outcomes: list[Plan | Refused] = []
    facts: RecipeFacts | None = None
    job: Job | None = None
    first: JobFileError | None = None
    for rule in rules:
        for size in sizes:
            asked = None  # the job's number of workers, for the error
            try:
                job, world_size = _job_at(size, job_path, [*overrides, *_rule_overrides(rule)])
                asked = job.scale.max_workers
                facts = recipe_facts(job, source=source, recipe_folder=folder) if facts is None else facts
                whole, plan = plan_with_recipe(
                    job, source=source, recipe_folder=folder, world_size=world_size, facts=facts
                )
                if size is None:
                    require_every_size(whole, plan)
                outcomes.append(plan)
            except JobFileError as error:
                first = first or error
                outcomes.append(Refused(workers=size or asked, rule=rule, problem=error.problem, remedy=error.remedy))
    if job is None or (first is not None and all(isinstance(outcome, Refused) for outcome in outcomes)):
        assert first is not None  # without a job there was an error
        raise first
    return outcomes, job


def _job_at(size: int | None, job_path: Path, overrides: Sequence[str]) -> tuple[Job, int | None]:
    """Return the job and the number of workers to plan for. An elastic job stays elastic at each size in its range."""
    try:
        job = load_job(job_path, overrides=overrides)
    except JobFileError:
        if size is None:
            raise
        return load_job(job_path, overrides=overrides, workers=size), None  # a mesh that is for this number only
    if size is None or (job.scale.is_elastic and job.scale.min_workers <= size <= job.scale.max_workers):
        return job, size
    return load_job(job_path, overrides=overrides, workers=size), None


def _rule_overrides(rule: str | None) -> list[str]:
    """Return overrides that set the job's rule, and remove the options that only other rules take."""
    if rule is None:
        return []
    resets = {"power": "scale.exponent=null", "gain": "scale.noise_scale=null", "adam_sde": "scale.betas=sde"}
    return [f"scale.rule={rule}", *(reset for taker, reset in resets.items() if taker != rule)]


def _as_json(outcomes: Sequence[Plan | Refused], estimates: Sequence[PlanEstimate | None]) -> dict[str, Any]:
    """Return the values of a single plan; for several outcomes, a list of plans and a list of refusals.

    A plan of which something is known has the key ``estimate``.
    """
    made = [outcome for outcome in outcomes if isinstance(outcome, Plan)]
    plans = [
        plan.to_dict() | ({"estimate": estimate.to_dict()} if estimate is not None else {})
        for plan, estimate in zip(made, estimates, strict=True)
    ]
    if len(outcomes) == 1:
        return plans[0]
    return {"plans": plans, "refused": [asdict(outcome) for outcome in outcomes if isinstance(outcome, Refused)]}
