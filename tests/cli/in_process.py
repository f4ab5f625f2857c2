"""Run the command line in this process; for several test modules."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from scaler.cli import run


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


Scaler = Callable[..., Outcome]


@contextmanager
def command_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, folder: Path) -> Iterator[Scaler]:
    """Yield a function that runs a command in a folder; at the end, the recipes that it imported are unloaded."""
    monkeypatch.chdir(folder)
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)

    def command(*arguments: str | Path) -> Outcome:
        capsys.readouterr()
        code = run([str(argument) for argument in arguments])
        return Outcome(code, *capsys.readouterr())

    yield command
    for name in set(sys.modules) - before:
        if name.startswith("recipe"):
            del sys.modules[name]
