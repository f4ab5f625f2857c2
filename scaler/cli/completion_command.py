"""``scaler completion``."""

import os
from pathlib import Path
from shlex import quote

import click
from click.shell_completion import get_completion_class

from scaler.errors import JobFileError

_VARIABLE = "_SCALER_COMPLETE"  # click answers a shell that sets it
_MARK = "# completion of scaler"


@click.group("completion")
def command() -> None:
    """Complete commands and options with the Tab key: install."""


@command.command("install")
@click.option(
    "--shell", type=click.Choice(["bash", "zsh", "fish"]), help="Default: the shell that the variable SHELL names."
)
@click.option("--show", is_flag=True, help="Print the script, and write nothing.")
@click.pass_context
def install_command(context: click.Context, shell: str | None, show: bool) -> None:
    """Make your shell complete scaler's commands and options.

    The script is written into your home folder, and one line that reads it into the file that your shell reads at its
    start. A second call changes nothing.
    """
    shell = shell or _shell()
    script = _script(context.find_root().command, shell)
    if show:
        click.echo(script, nl=False)
        return
    file, reader = _places(shell)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(script, encoding="utf-8")
        is_new = reader is not None and _add_line(reader, _line(shell, file))
    except OSError as error:
        raise JobFileError(
            f"{error.filename}: cannot be written: {error.strerror}.", "scaler completion install --show prints it."
        ) from None
    click.echo(str(file))
    if reader is not None:
        click.echo(f"{reader}: {'has a new line that reads it' if is_new else 'reads it already'}.", err=True)
    click.echo(f"It works in the next {shell} that you start.", err=True)


def _shell() -> str:
    name = Path(os.environ.get("SHELL", "")).name
    if name not in ("bash", "zsh", "fish"):
        raise JobFileError(
            f"SHELL = {os.environ.get('SHELL', '')}: scaler completes in bash, zsh and fish.",
            "Name the shell: scaler completion install --shell bash",
        )
    return name


def _script(cli: click.Command, shell: str) -> str:
    completion = get_completion_class(shell)
    assert completion is not None
    return completion(cli, {}, "scaler", _VARIABLE).source().strip() + "\n"


def _places(shell: str) -> tuple[Path, Path | None]:
    """Return the file of the script, and the file that must read it; None: the shell finds the script."""
    home = Path.home()
    if shell == "fish":
        config = Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config")
        return config / "fish" / "completions" / "scaler.fish", None
    data = Path(os.environ.get("XDG_DATA_HOME") or home / ".local" / "share")
    reader = home / ".bashrc" if shell == "bash" else Path(os.environ.get("ZDOTDIR") or home) / ".zshrc"
    return data / "scaler" / f"completion.{shell}", reader


def _line(shell: str, file: Path) -> str:
    """Return the line for the shell's file; it does nothing if the script is not there."""
    read = f"[ -r {quote(str(file))} ] && . {quote(str(file))}  {_MARK}"
    return f"(( $+functions[compdef] )) || {{ autoload -Uz compinit && compinit; }}; {read}" if shell == "zsh" else read


def _add_line(reader: Path, line: str) -> bool:
    """Add a line to a file; return False if the file has it."""
    before = reader.read_text(encoding="utf-8") if reader.exists() else ""
    if line in before.splitlines():
        return False
    separator = "" if before.endswith("\n") or not before else "\n"
    with reader.open("a", encoding="utf-8") as opened:
        opened.write(f"{separator}{line}\n")
    return True
