"""The folder of an embedded cluster's files: made for it, and removed with it, or by a later driver.

A driver that is killed removes nothing. So each folder says whose it is, and the next driver removes those whose driver
is gone.
"""

import json
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

from scaler.errors import ClusterError
from scaler.runs.parsing import parse_json
from scaler.runs.processes import is_there, this_process

PREFIX = "ray-"
OWNER = "scaler-driver.json"
_MOST_BYTES = 10_000


def private_folder() -> str:
    """Make a folder for Ray's files, where Ray's own would be: paths of its sockets must be short; TMPDIR may be long.

    Raises:
        ClusterError: it cannot be made.
    """
    place = _place()
    try:
        remove_folders_of_the_dead(place)
        folder = tempfile.mkdtemp(prefix=PREFIX, dir=place)  # mode 0700
        Path(folder, OWNER).write_text(json.dumps(this_process()))
    except OSError as error:
        raise ClusterError(
            f"no Ray cluster on this machine: no folder can be made in {place}: {error.strerror}.",
            "RAY_TMPDIR names another place for Ray's files, with a short path.",
        ) from error
    return folder


def remove_folders_of_the_dead(place: str) -> None:
    """Remove the folders that drivers of this user made, and that are gone; whatever tells less stays."""
    with suppress(OSError):
        for entry in os.scandir(place):
            with suppress(OSError):
                if entry.name.startswith(PREFIX) and entry.is_dir(follow_symlinks=False) and _is_of_the_dead(entry):
                    shutil.rmtree(entry.path, ignore_errors=True)


def _is_of_the_dead(folder: "os.DirEntry[str]") -> bool:
    if hasattr(os, "getuid") and folder.stat(follow_symlinks=False).st_uid != os.getuid():
        return False
    owner = Path(folder.path, OWNER)
    if owner.is_symlink() or not owner.is_file() or owner.stat().st_size > _MOST_BYTES:
        return False
    try:
        driver = parse_json(owner.read_bytes())
    except ValueError:
        return False
    known = isinstance(driver, dict) and isinstance(driver.get("host"), str) and isinstance(driver.get("pid"), int)
    return known and driver["pid"] > 0 and is_there(driver) is False


def _place() -> str:
    return os.environ.get("RAY_TMPDIR", "/tmp" if os.path.isdir("/tmp") else tempfile.gettempdir())
