"""Make the folder of an embedded cluster's files, and remove the folders that killed drivers left behind.

A driver that is killed removes nothing. So each folder names its driver, and the next driver removes the folders whose
driver no longer runs.
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
    """Make a folder that only this user can enter, and return its path.

    The folder is in RAY_TMPDIR or /tmp, as Ray's own would be. It is not in TMPDIR, whose path may be long, because the
    paths of Ray's sockets must be short.

    Raises:
        ClusterError: the folder cannot be made.
    """
    place = _place()
    try:
        remove_folders_of_ended_drivers(place)
        folder = tempfile.mkdtemp(prefix=PREFIX, dir=place)  # mode 0700
        Path(folder, OWNER).write_text(json.dumps(this_process()))
    except OSError as error:
        raise ClusterError(
            f"no Ray cluster on this machine: no folder can be made in {place}: {error.strerror}.",
            "Set RAY_TMPDIR to another folder for Ray's files, with a short path.",
        ) from error
    return folder


def remove_folders_of_ended_drivers(place: str) -> None:
    """Remove the folders of this user's drivers that no longer run; a folder that does not name its driver stays."""
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
