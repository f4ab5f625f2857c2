"""``scaler init``."""

from importlib.util import find_spec
from pathlib import Path
from shlex import quote

import click

from scaler.cli.paths import UserPath
from scaler.cli.templates import DEFAULT, TEMPLATES, Template, files_of, job_name_of
from scaler.errors import JobFileError

_LIST = "\b\n" + "\n".join(f"{name:<16}{template.is_for}" for name, template in TEMPLATES.items())


@click.command("init", epilog=f"Templates:\n\n{_LIST}")
@click.argument("folder", metavar="DIR", required=False, type=UserPath())
@click.option(
    "--template",
    "name",
    type=click.Choice(list(TEMPLATES)),
    metavar="NAME",
    help=f"What to begin with, from the list below. Default: {DEFAULT}.",
)
@click.option(
    "--from",
    "script",
    metavar="SCRIPT",
    type=UserPath(),
    help="Read a training script of yours, without running it, and show which template fits and which line belongs "
    "where. Nothing is written.",
)
def command(folder: Path | None, name: str | None, script: Path | None) -> None:
    """Make a folder with a job file and its code, ready to run.

    The job gets the folder's name. With --from, show what to move from a script of yours into a job file.
    """
    if script is not None:
        if folder is not None:
            raise click.UsageError("--from writes nothing, so it takes no DIR.")
        from scaler.cli.script.plan import script_plan

        click.echo(script_plan(script, wanted=name))
        return
    if folder is None:
        raise click.UsageError("Missing argument 'DIR'.")
    template = TEMPLATES[name or DEFAULT]
    files = files_of(name or DEFAULT, job_name=job_name_of(folder.absolute().name))
    _write(folder, files)
    for file in files:
        click.echo(str(folder / file))
    click.echo(_next(folder, template), err=True)


def _write(folder: Path, texts: dict[str, str]) -> None:
    existing = [name for name in texts if (folder / name).exists()]
    if existing:
        raise JobFileError(f"{folder / existing[0]} exists already.", "Give a new folder; nothing was written.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            (folder / name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise JobFileError(
            f"{folder}: cannot be written: {error.strerror}.", "Give a folder that can be written."
        ) from error


def _next(folder: Path, template: Template) -> str:
    """Return the commands that come next, one a line, and what must be installed first."""
    paths = {"JOB": quote(str(folder / "job.yaml")), "SCRIPT": quote(str(folder / "train.py"))}
    commands = {
        " ".join(paths.get(word, word) for word in typed.split()): meaning for typed, meaning in template.next.items()
    }
    if template.package is not None and find_spec(template.package) is None:
        install = f"pip install 'scaler[{template.package}]'"
        commands = {install: f"{template.package} is not installed", **commands}
    width = max(map(len, commands))
    return "\n".join(["Next:", *(f"  {typed:<{width}}  {meaning}" for typed, meaning in commands.items())])
