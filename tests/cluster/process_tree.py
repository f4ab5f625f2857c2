"""The processes of this machine that belong to a test."""

from collections.abc import Iterator
from pathlib import Path


def descendants(parent: int) -> Iterator[int]:
    """Find the processes below one, at any depth."""
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                above = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            except (FileNotFoundError, ProcessLookupError):
                continue
            if above == parent:
                yield int(folder.name)
                yield from descendants(int(folder.name))
