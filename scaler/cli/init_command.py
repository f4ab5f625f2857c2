"""``scaler init``."""

from importlib.resources import files
from pathlib import Path

import click

from scaler.cli.paths import UserPath
from scaler.errors import JobFileError


@click.command("init")
@click.argument("folder", metavar="DIR", type=UserPath())
def command(folder: Path) -> None:
    """Make a folder with an example job file and recipe, ready to run."""
    templates = files("scaler.cli") / "template"
    names = ("job.yaml", "recipe.py")
    existing = [name for name in names if (folder / name).exists()]
    if existing:
        raise JobFileError(f"{folder / existing[0]} exists already.", "Give a new folder; nothing was written.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in names:
            (folder / name).write_text((templates / f"{name}.txt").read_text())
    except OSError as error:
        raise JobFileError(
            f"{folder}: cannot be written: {error.strerror}.", "Give a folder that can be written."
        ) from error
    click.echo(str(folder / "job.yaml"))
    click.echo(f"scaler submit {folder / 'job.yaml'} runs it.", err=True)
