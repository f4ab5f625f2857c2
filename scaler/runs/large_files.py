"""Large files of a run's folder, such as the tensors of a checkpoint: written and read in blocks.

A large file is not replaced as a whole, as a document is. Whoever writes one writes a document afterwards that says
that the file is complete.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any

from scaler.errors import RunError
from scaler.runs.files import RunFiles
from scaler.runs.filesystems import CHECK_STORAGE, has_folders

BLOCK_BYTES = 2**24  # read at a time: one request to an object store


class LargeFiles(RunFiles):
    """The large files of one run's folder.

    Args:
        uri: of the folder: a path, or a URI that fsspec knows.
    """

    def write_blocks(self, name: str, blocks: Iterable[bytes | memoryview]) -> None:
        """Write a file, block after block; an existing one is overwritten.

        Args:
            name: path in the folder.
            blocks: the content; each block is needed only until the next one is asked for.

        Raises:
            RunError: it cannot be written; nothing of it is left then, if the storage still answers.
        """
        target = self._at(name)
        with self._errors(name, "written"):
            if has_folders(self._fs):
                self._fs.makedirs(target.rpartition("/")[0], exist_ok=True)
            try:
                with self._fs.open(target, "wb") as file:
                    for block in blocks:
                        file.write(block)
            except Exception:
                with suppress(Exception):  # an incomplete file takes space that a full disk needs
                    self._fs.rm_file(target)
                raise

    def read_blocks(self, name: str, *, start: int = 0, end: int) -> Iterator[bytes]:
        """Yield a part of a file in blocks of at most ``BLOCK_BYTES``.

        Args:
            name: path in the folder.
            start: position of the first byte.
            end: position after the last byte; a file that is shorter ends earlier, or cannot be read.

        Raises:
            RunError: there is no such file, or it cannot be read.
        """
        path = self._at(name)
        try:
            with self._errors(name, "read"):
                if self._require_file(name, path) is None:
                    for first in range(start, end, BLOCK_BYTES):
                        yield self._fs.cat_file(path, start=first, end=min(first + BLOCK_BYTES, end))
                    return
                with open(path, "rb", buffering=0) as file:
                    file.seek(start)
                    while start < end and (block := file.read(min(BLOCK_BYTES, end - start))):
                        yield block
                        start += len(block)
        except FileNotFoundError:
            raise RunError(f"run {self.run_id} has no {name} in {self.path('')}.", CHECK_STORAGE) from None

    def sizes(self, folder: str) -> dict[str, int]:
        """Return the sizes of the files in one of the run's folders, in bytes by name; empty if there is no folder."""
        path = self._at(folder)
        try:
            with self._errors(folder, "read"):
                found: list[dict[str, Any]] = self._fs.ls(path, detail=True)
        except FileNotFoundError:
            return {}
        return {about["name"].rpartition("/")[2]: int(about["size"]) for about in found if about["type"] == "file"}

    def rename_folder(self, name: str, to: str) -> None:
        """Give one of the run's folders another name, with the files in it; one that has the name is replaced.

        Raises:
            RunError: it cannot be renamed.
        """
        if not self.exists(name):
            return
        self.remove_folder(to)
        if self.local_path is None:  # object stores have no folders
            for file in self.names(name):
                self.rename(f"{name}/{file}", f"{to}/{file}")
            self.remove_folder(name)
            return
        with self._errors(name, "renamed"):
            os.rename(self._at(name), self._at(to))
