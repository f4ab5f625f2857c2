"""Write docs/reference: the commands from their ``--help``, the exit codes, the Python API. `make docs` runs it."""

from collections.abc import Iterator
from pathlib import Path

import click

import scaler
from scaler import errors
from scaler.cli import INTERRUPTED
from scaler.cli.group import cli

FOLDER = Path(__file__).parent / "reference"
WIDTH = 100

COMMANDS_INTRO = """# Commands

Made from `scaler COMMAND --help` by `make docs`. The result of a command goes to stdout, everything else to stderr.
`--json` prints the result as JSON. [Exit codes](exit-codes.md) has the codes.

JOB is a job file, or a folder with a `job.yaml`. RUN is the id of a run, its folder or URI, or `last`.

"""

EXIT_CODES_INTRO = """# Exit codes

Made from `scaler/errors.py` by `make docs`. In Python, every error is a `scaler.ScalerError`, with the attributes
`problem`, `remedy` and `exit_code`.

| code | error | meaning |
|---|---|---|
| 0 | | done |
| 1 | | a bug in scaler; `scaler --debug COMMAND` shows where |
"""

PYTHON_INTRO = """# Python

The public names of the package, from their docstrings: `scaler.Recipe` and so on. What is not on this page may change
at any time.
"""

# Heading -> public names. A name that is in no group is an error.
GROUPS: dict[str, tuple[str, ...]] = {
    "Write a job": ("Recipe", "Eval", "StepContext", "all_gather", "load_job", "Job"),
    "Plan": ("plan_job", "make_plan", "Plan", "plan_experiment"),
    "Run": ("submit", "resume", "find_lr", "probe", "run_experiment", "Run"),
    "Follow and stop": ("status", "wait", "stop"),
    "Read": ("read_run", "read_runs", "compare", "read_experiment"),
    "Use what was trained": ("load_model", "export_model"),
    "Your own training loop": ("start", "record"),
    "The learning rate alone": ("scale_lr", "ScaledLR", "Schedule", "Warmup", "shapes", "SampleScheduler"),
    "Errors": (
        "ScalerError",
        "JobFileError",
        "PlanError",
        "ClusterError",
        "TrainingError",
        "RecipeError",
        "RunError",
    ),
}


def commands_page() -> str:
    """Return the page of the commands."""
    context = click.Context(cli, info_name="scaler", terminal_width=WIDTH, **cli.context_settings)
    commands = _commands(cli, context)
    rows = "".join(
        f"| [`scaler {name}`](#scaler-{name}) | {command.get_short_help_str(WIDTH)} |\n" for name, command in commands
    )
    table = "| command | what it does |\n|---|---|\n" + rows
    return COMMANDS_INTRO + table + "".join(text for _, command in commands for text in _help(command, context, "##"))


def _commands(group: click.Group, context: click.Context) -> list[tuple[str, click.Command]]:
    found = [(name, group.get_command(context, name)) for name in group.list_commands(context)]
    return [(name, command) for name, command in found if command is not None]


def _help(command: click.Command, parent: click.Context, level: str) -> Iterator[str]:
    """Yield the section of a command, and those of the commands in it."""
    context = click.Context(command, info_name=command.name, parent=parent)
    yield f"\n{level} {context.command_path}\n\n<!-- test: text -->\n```text\n{command.get_help(context)}\n```\n"
    if isinstance(command, click.Group):
        for _, inner in _commands(command, context):
            yield from _help(inner, context, level + "#")


def exit_codes_page() -> str:
    """Return the page of the exit codes."""
    kinds = [errors.ScalerError, *_below(errors.ScalerError)]
    rows = [f"| {kind.exit_code} | `{kind.__name__}` | {_first_line(kind)} |\n" for kind in kinds[1:]]
    return EXIT_CODES_INTRO + "".join(rows) + f"| {INTERRUPTED} | | interrupted: Ctrl-C |\n"


def _below(kind: type[errors.ScalerError]) -> Iterator[type[errors.ScalerError]]:
    for inner in kind.__subclasses__():
        if inner.__module__ == errors.__name__:  # the others are details of a package
            yield inner
            yield from _below(inner)


def _first_line(kind: type) -> str:
    return (kind.__doc__ or "").strip().partition("\n")[0].replace("``", "`")


def python_page() -> str:
    """Return the page of the Python API; mkdocstrings fills in the docstrings."""
    listed = {name for names in GROUPS.values() for name in names}
    missing = set(scaler.__all__) - listed - {"__version__"}
    assert not missing, f"GROUPS lacks {missing}"
    return PYTHON_INTRO + "".join(
        f"\n## {heading}\n\n" + "\n\n".join(f"::: {_path(name)}" for name in names) + "\n"
        for heading, names in GROUPS.items()
    )


def _path(name: str) -> str:
    """Return where a public name is defined."""
    return f"{scaler._MODULES.get(name, 'scaler')}.{name}"


PAGES = {"commands.md": commands_page, "exit-codes.md": exit_codes_page, "python.md": python_page}

if __name__ == "__main__":
    for file, page in PAGES.items():
        (FOLDER / file).write_text(page())
