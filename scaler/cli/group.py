"""The group of all commands, and the only code that prints errors.

A command's module is imported when the command is run, so ``scaler --help`` loads nothing heavy.
"""

from importlib import import_module
from typing import Any

import click

import scaler
from scaler.cli import INTERRUPTED, raise_on_ctrl_c
from scaler.cli.missing_package import EXIT_CODE, missing_package_text
from scaler.cli.streams import open_streams
from scaler.errors import ScalerError

# --help shows these groups and lines without importing the commands; a test compares them with the docstrings.
GROUPS = {
    "Start": {
        "init": "Make a folder with a job file and its code, ready to run.",
        "env": "Show what this machine offers, and what is wrong with it.",
    },
    "Run": {
        "plan": "Show every number that a job trains with, and its reason.",
        "submit": "Plan a job, run it, and show its report.",
        "resume": "Continue a run that was stopped, failed, or lost its driver.",
    },
    "Follow a run": {
        "list": "List runs and their states.",
        "status": "Show the state of a run, and how far it is.",
        "logs": "Show what the workers of a run print.",
        "wait": "Follow a run to its end, and exit with its exit code.",
        "stop": "Stop a run; it saves a checkpoint first.",
    },
    "Read results": {
        "report": "Show the report of a run.",
        "compare": "Compare runs, and show which differences exceed the noise.",
        "check": "Check a run against limits, for example in CI.",
    },
    "Find settings": {
        "find-lr": "Find a learning rate by a range test.",
        "probe": "Find how far the batch can grow.",
        "experiment": "Run several settings of a job, and show which is worth it.",
    },
    "Deploy": {
        "export": "Write the files that run a job in containers or on a cluster.",
        "export-model": "Write the weights of a run to a file, with a model card.",
    },
    "Set up editor and shell": {
        "schema": "Print the JSON Schema of job files, for editors.",
        "completion": "Complete commands and options with the Tab key: install.",
    },
}
COMMANDS = {name: line for commands in GROUPS.values() for name, line in commands.items()}

ALIASES = {"export-checkpoint": "export-model"}  # names that other tools use for a command; --help does not list them


class _LazyGroup(click.Group):
    """A group that imports the module of a command when the command is run."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        cmd_name = ALIASES.get(cmd_name, cmd_name)
        if cmd_name not in COMMANDS:
            return None
        module = import_module(f"scaler.cli.{cmd_name.replace('-', '_')}_command")
        command = module.command
        assert isinstance(command, click.Command)
        raise_on_ctrl_c()
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        width = max(map(len, COMMANDS))
        for title, commands in GROUPS.items():
            with formatter.section(title):
                formatter.write_dl([(f"{name:<{width}}", line) for name, line in commands.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in {*COMMANDS, *ALIASES} and not args[0].startswith("-"):
            from scaler.core.nearest import did_you_mean

            hint = did_you_mean(args[0], COMMANDS)
            ctx.fail(f'there is no command "{args[0]}".\n  {hint}Commands: {", ".join(COMMANDS)}.')
        return super().resolve_command(ctx, args)


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(scaler.__version__, prog_name="scaler")
@click.option("--debug", is_flag=True, help="Show Python's stack trace with an error.")
def cli(debug: bool) -> None:
    """Train a model that was tuned on one worker on any number of workers, with the right learning rate.

    \b
    Begin with:
      scaler init my-job
      scaler submit my-job
    """


def run(arguments: list[str]) -> int:
    """Run the command line, print its error if it has one, and return its exit code."""
    with open_streams():
        return _run(arguments)


def _run(arguments: list[str]) -> int:
    debug = "--debug" in arguments
    try:
        result: Any = cli.main(args=arguments, prog_name="scaler", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except click.exceptions.Exit as exit_:
        return exit_.exit_code
    except click.exceptions.NoArgsIsHelpError as error:  # click >= 8.2
        click.echo(error.format_message(), err=True)
        return 2
    except click.UsageError as error:
        click.echo(f"Error: {_key_as_option(error) or error.format_message()}", err=True)
        if error.ctx is not None:
            click.echo(f"  {error.ctx.command_path} --help shows how it is used.", err=True)
        return 2
    except (KeyboardInterrupt, click.Abort):
        click.echo("Interrupted.", err=True)
        return INTERRUPTED
    except ScalerError as error:
        if debug:
            raise
        from scaler.masking import mask_text
        from scaler.report.text.format import printable

        click.echo(f"Error: {printable(mask_text(str(error)))}", err=True)
        return error.exit_code
    except Exception as error:
        if debug:
            raise
        if (text := missing_package_text(error)) is not None:
            click.echo(text, err=True)
            return EXIT_CODE
        from scaler.masking import mask_text
        from scaler.report.text.format import printable

        click.echo(
            f"Error: a bug in scaler: {type(error).__name__}: {printable(mask_text(str(error)))}\n"
            "  scaler --debug COMMAND ... shows where.",
            err=True,
        )
        return 1


def _key_as_option(error: click.UsageError) -> str:
    """Return what to write for an unknown option that is a key of the job; nothing for any other error."""
    if not isinstance(error, click.NoSuchOption) or error.ctx is None:
        return ""
    if all(parameter.name != "overrides" for parameter in error.ctx.command.params):
        return ""
    from scaler.job.explain import places

    keys = " or ".join(f"--set {place}=VALUE" for place in places(error.option_name.lstrip("-")))
    return f"no such option: {error.option_name}.\n  To set the key of the job: {keys}" if keys else ""
