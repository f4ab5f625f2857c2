"""Large files of a run's folder: written and read in blocks, on this machine and in an object store."""

import os
from collections.abc import Iterator
from pathlib import Path
from secrets import token_hex

import fsspec
import pytest

from scaler.errors import RunError
from scaler.runs import RunFolder, large_files


@pytest.fixture(params=["local", "memory"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RunFolder]:
    if request.param == "local":
        yield RunFolder(str(tmp_path / "run"))
        return
    made = RunFolder(f"memory://{token_hex(8)}/run")
    yield made
    filesystem, root = made.filesystem("")
    if filesystem.exists(root):
        fsspec.filesystem("memory").rm(root, recursive=True)


def test_blocks_are_read_as_they_were_written(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(large_files, "BLOCK_BYTES", 4)
    folder.write_blocks("a/b.bin", [b"0123", memoryview(b"45"), b"", b"6789"])
    assert list(folder.read_blocks("a/b.bin", end=10)) == [b"0123", b"4567", b"89"]
    assert list(folder.read_blocks("a/b.bin", start=3, end=8)) == [b"3456", b"7"]
    assert list(folder.read_blocks("a/b.bin", start=3, end=3)) == []
    folder.write_blocks("a/b.bin", [b"new"])
    assert folder.sizes("a") == {"b.bin": 3}
    assert folder.sizes("nothing") == {}
    with pytest.raises(RunError, match=r"^run run has no a/c\.bin in "):
        list(folder.read_blocks("a/c.bin", end=1))


def test_a_file_that_cannot_be_written_whole_leaves_nothing(folder: RunFolder) -> None:
    def blocks() -> Iterator[bytes]:
        yield b"half"
        raise OSError(28, "No space left on device")

    with pytest.raises(RunError, match=r"a/b\.bin cannot be written in .*: No space left on device\."):
        folder.write_blocks("a/b.bin", blocks())
    assert folder.sizes("a") == {}


def test_a_folder_gets_another_name_and_replaces_one_that_has_it(folder: RunFolder) -> None:
    for name in ("a/1", "a/2", "b/3"):
        folder.write_blocks(name, [b"x"])
    folder.rename_folder("a", "b")
    folder.rename_folder("nothing", "b")
    assert folder.sizes("b") == {"1": 1, "2": 1}
    assert not folder.exists("a")


def test_a_pipe_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(RunError, match="pipe is not a file"):
        list(RunFolder(str(tmp_path)).read_blocks("pipe", end=1))
