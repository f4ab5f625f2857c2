"""``scaler check``."""

import json
from collections.abc import Sequence

import click

from scaler.cli.options import run_argument, storage_option
from scaler.cli.terminal import show
from scaler.errors import JobFileError, TrainingError
from scaler.runs import find_run


@click.command("check")
@run_argument
@storage_option
@click.option(
    "--min-efficiency",
    type=float,
    metavar="X",
    help="Smallest allowed efficiency, such as 0.8: speed per worker / speed of one worker alone.",
)
@click.option(
    "--baseline", metavar="RUN", help="A run of this job with one worker; its speed is used by --min-efficiency."
)
@click.option(
    "--max-loss",
    type=float,
    metavar="X",
    help="Largest allowed loss of the last evaluation; of training if nothing was evaluated.",
)
@click.option("--min-accuracy", type=float, metavar="X", help="The same as: --min-eval accuracy=X.")
@click.option(
    "--min-eval",
    "min_evals",
    multiple=True,
    metavar="NAME=X",
    help="Smallest allowed value of NAME in the last evaluation.",
)
@click.option(
    "--max-eval",
    "max_evals",
    multiple=True,
    metavar="NAME=X",
    help="Largest allowed value of NAME in the last evaluation.",
)
@click.option(
    "--min-samples-per-s", type=float, metavar="X", help="Smallest allowed training speed of all workers together."
)
@click.option("--max-wall-s", type=float, metavar="X", help="Largest allowed seconds from submission to the end.")
@click.option(
    "--max-cost", type=float, metavar="X", help="Largest allowed cost, computed with resources.price_per_worker_hour."
)
@click.option(
    "--no-verdict",
    "no_verdicts",
    multiple=True,
    metavar="CODE",
    help="Fail if the report has the verdict CODE; any: if it has a verdict.",
)
@click.option("--allow-unfinished", is_flag=True, help="Also check a run that has not succeeded.")
@click.option(
    "--allow-damaged", is_flag=True, help="Also check a run with damaged files, from the files that can be read."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    run: str,
    storage: str,
    min_efficiency: float | None,
    baseline: str | None,
    max_loss: float | None,
    min_accuracy: float | None,
    min_evals: tuple[str, ...],
    max_evals: tuple[str, ...],
    min_samples_per_s: float | None,
    max_wall_s: float | None,
    max_cost: float | None,
    no_verdicts: tuple[str, ...],
    allow_unfinished: bool,
    allow_damaged: bool,
    as_json: bool,
) -> int:
    """Check a run against limits, for example in CI.

    RUN is a run's id, its folder or URI, or: last. Exit codes: 0: the run keeps every limit. 4: the run breaks a limit,
    has not succeeded, or has damaged files. 2: a limit cannot be checked. 5: the run cannot be read.
    """
    from scaler.report.run.checks import Limits, check_report
    from scaler.report.run.checks_text import checks_text
    from scaler.report.run.read import read_report

    least = _limits(min_evals, option="--min-eval")
    if min_accuracy is not None:
        least["accuracy"] = max(min_accuracy, least.get("accuracy", min_accuracy))
    limits = Limits(
        min_efficiency=min_efficiency,
        max_loss=max_loss,
        min_evals=least,
        max_evals=_limits(max_evals, option="--max-eval"),
        min_samples_per_s=min_samples_per_s,
        max_wall_s=max_wall_s,
        max_cost=max_cost,
        no_verdicts=no_verdicts,
        allow_unfinished=allow_unfinished,
        allow_damaged=allow_damaged,
    )
    if not limits.has_limits:
        raise JobFileError(f"scaler check {run} has no limit to check.", f"Give one or more of {_OPTIONS}.")
    if baseline is not None and min_efficiency is None:
        raise JobFileError(
            f"--baseline {baseline} is used by --min-efficiency only.", "Give --min-efficiency X with it."
        )
    one_worker = find_run(baseline, storage=storage) if baseline is not None else None
    checks = check_report(read_report(find_run(run, storage=storage), baseline=one_worker), limits)
    if as_json:
        click.echo(json.dumps(checks.to_dict(), indent=1, allow_nan=False))
    else:
        show(checks_text(checks))
    return 0 if checks.is_ok else TrainingError.exit_code


_OPTIONS = (
    "--min-efficiency, --max-loss, --min-accuracy, --min-eval, --max-eval, --min-samples-per-s, --max-wall-s, "
    "--max-cost, --no-verdict"
)


def _limits(texts: Sequence[str], *, option: str) -> dict[str, float]:
    """Return the limits by name, from texts ``NAME=X``; a name may contain ``=``."""
    found: dict[str, float] = {}
    for text in texts:
        name, equals, value = text.rpartition("=")
        try:
            limit = float(value)
        except ValueError:
            equals = ""
        if not equals or not name:
            raise JobFileError(f"{option} {text} is not NAME=X with a number X.", f"Such as {option} accuracy=0.95.")
        if name in found:
            raise JobFileError(f"{option} {name} is given twice.", "Give each name once.")
        found[name] = limit
    return found
