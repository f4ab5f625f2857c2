"""``scaler completion install``, and what a shell shows then."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from in_process import Scaler


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("XDG_DATA_HOME", "XDG_CONFIG_HOME", "ZDOTDIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(("shell", "reader"), [("bash", ".bashrc"), ("zsh", ".zshrc")])
def test_it_is_installed_once(
    scaler_command: Scaler, home: Path, monkeypatch: pytest.MonkeyPatch, shell: str, reader: str
) -> None:
    monkeypatch.setenv("SHELL", f"/usr/bin/{shell}")
    (home / reader).write_text("alias ll='ls -l'")  # without a new line at its end
    script = home / ".local/share/scaler" / f"completion.{shell}"
    for state in ("has a new line that reads it", "reads it already"):
        assert scaler_command("completion", "install") == (
            0,
            f"{script}\n",
            f"{home / reader}: {state}.\nIt works in the next {shell} that you start.\n",
        )
    first, line = (home / reader).read_text().splitlines()
    assert first == "alias ll='ls -l'"
    assert line.endswith(f"[ -r {script} ] && . {script}  # completion of scaler")
    assert script.read_text() == scaler_command("completion", "install", "--show").out


def test_fish_finds_the_script_without_a_line(scaler_command: Scaler, home: Path) -> None:
    script = home / ".config/fish/completions/scaler.fish"
    assert scaler_command("completion", "install", "--shell", "fish") == (
        0,
        f"{script}\n",
        "It works in the next fish that you start.\n",
    )
    assert "_SCALER_COMPLETE=fish_complete" in script.read_text()


def test_another_shell_is_refused(scaler_command: Scaler, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHELL", "/bin/sh")
    assert scaler_command("completion", "install") == (
        2,
        "",
        "Error: SHELL = /bin/sh: scaler completes in bash, zsh and fish.\n"
        "  Name the shell: scaler completion install --shell bash\n",
    )


def test_a_home_that_cannot_be_written(scaler_command: Scaler, home: Path) -> None:
    (home / ".local").write_text("")
    code, out, err = scaler_command("completion", "install", "--shell", "bash")
    assert (code, out) == (2, "")
    assert err.startswith(f"Error: {home}/.local/share")
    assert err.endswith("cannot be written: Not a directory.\n  scaler completion install --show prints it.\n")


def test_bash_completes_commands_and_options(scaler_command: Scaler, home: Path) -> None:
    scaler_command("completion", "install", "--shell", "bash")
    script = """
. ~/.bashrc
COMP_WORDS=(scaler re); COMP_CWORD=1; _scaler_completion scaler; echo ${COMPREPLY[@]}
COMPREPLY=(); COMP_WORDS=(scaler submit --w); COMP_CWORD=2; _scaler_completion scaler; echo ${COMPREPLY[@]}
"""
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["resume report", "--workers"]
