"""``scaler plan``."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import click

from scaler.cli.options import RecipeFacts, job_options, numbers, plan_for, recipe_facts, write_file
from scaler.cli.terminal import show
from scaler.core.rules import RULES
from scaler.errors import JobFileError
from scaler.job import load_job
from scaler.plan import Plan
from scaler.report.what_if import Refused


@click.command("plan")
@job_options
@click.option("--workers", metavar="N[,N...]", help="For these numbers of workers, instead of the job's.")
@click.option("--rule", metavar="R[,R...]", help="With these rules, instead of the job's.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--html", "html_path", type=click.Path(path_type=Path), metavar="FILE", help="Write HTML to FILE.")
def command(
    job_path: Path,
    overrides: tuple[str, ...],
    workers: str | None,
    rule: str | None,
    as_json: bool,
    html_path: Path | None,
) -> None:
    """Show every number of a job, each with its reason; no cluster needed."""
    sizes = numbers(workers, option="--workers") if workers is not None else [None]
    rules = _rules(rule) if rule is not None else [None]
    outcomes = _outcomes(job_path, overrides, sizes=sizes, rules=rules)
    if html_path is not None:
        from scaler.report.plan_html import render_plan_html

        write_file(html_path, render_plan_html(outcomes))
    if as_json:
        click.echo(json.dumps(_as_json(outcomes), indent=1, allow_nan=False))
    elif html_path is None:
        from scaler.report.plan_text import plan_text, plans_table

        if len(outcomes) == 1 and isinstance(outcomes[0], Plan):
            show(plan_text(outcomes[0], with_curve=True))
        else:
            show(plans_table(outcomes, with_curve=True))


def _rules(text: str) -> list[str]:
    """The rules of ``linear,sqrt``."""
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in RULES:
            near = get_close_matches(name, RULES, n=1)
            hint = f'Did you mean "{near[0]}"? ' if near else ""
            raise JobFileError(
                f'--rule {text}: "{name}" is not a rule.',
                f"{hint}Rules: {', '.join(RULES)}; such as --rule linear,sqrt.",
            )
    return names


def _outcomes(
    job_path: Path, overrides: Sequence[str], *, sizes: Sequence[int | None], rules: Sequence[str | None]
) -> list[Plan | Refused]:
    """A plan, or why there is none, of every rule with every number of workers.

    Raises:
        JobFileError: there is not one plan; the first one's reason.
    """
    outcomes: list[Plan | Refused] = []
    facts: RecipeFacts | None = None
    first: JobFileError | None = None
    for rule in rules:
        for size in sizes:
            asked = None
            try:
                job = load_job(job_path, overrides=[*overrides, *_rule_overrides(rule)], workers=size)
                asked = job.scale.max_workers
                facts = recipe_facts(job, job_path=job_path) if facts is None else facts
                outcomes.append(plan_for(job, job_path=job_path, facts=facts)[1])
            except JobFileError as error:
                first = first or error
                outcomes.append(Refused(workers=size or asked, rule=rule, problem=error.problem, remedy=error.remedy))
    if first is not None and all(isinstance(outcome, Refused) for outcome in outcomes):
        raise first
    return outcomes


def _rule_overrides(rule: str | None) -> list[str]:
    """A rule in place of the job's; what only another rule takes is left out."""
    if rule is None:
        return []
    options = {"power": "scale.exponent=null", "gain": "scale.noise_scale=null", "adam_sde": "scale.betas=sde"}
    return [f"scale.rule={rule}", *(nothing for taker, nothing in options.items() if taker != rule)]


def _as_json(outcomes: Sequence[Plan | Refused]) -> dict[str, Any]:
    """One plan as it is, several as a list with those that were refused."""
    plans = [outcome.to_dict() for outcome in outcomes if isinstance(outcome, Plan)]
    if len(outcomes) == 1:
        return plans[0]
    return {"plans": plans, "refused": [asdict(outcome) for outcome in outcomes if isinstance(outcome, Refused)]}
