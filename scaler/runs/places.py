"""Filesystems: how a place is reached, and what one says when it refuses."""

import os
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from scaler.errors import RunError
from scaler.masking import mask_text


def inside(base: str, name: str) -> str:
    """Return the URI or path of something in ``base``, which may be a bare ``memory://``."""
    return base + name if base.endswith("://") else f"{base.rstrip('/')}/{name}"


def located(place: str) -> str:
    """Return a URI as it is, and a path absolute, its ``~`` or ``~user`` replaced by the home folder.

    Raises:
        RunError: there is no such home folder.
    """
    if "://" in place:
        return place
    path = os.path.expanduser(place)
    if path.startswith("~"):
        home = path.split("/", 1)[0]
        raise RunError(f"{place}: there is no home folder {home}.", f"For a folder of that name here: ./{place}")
    return str(Path(path).absolute())


def reach(uri: str) -> tuple[Any, str]:
    """Return the filesystem of a URI or path, and the path on it."""
    if "://" not in uri:  # not for fsspec to read: a "::" in a path would be a chain of filesystems
        return LocalFileSystem(), str(Path(uri).absolute())
    try:
        filesystem, root = fsspec.core.url_to_fs(uri)
    except (ValueError, ImportError) as error:
        raise RunError(
            f"{mask_text(uri)}: cannot be reached: {reason(error)}.",
            "Use a folder or a URI of a kind that fsspec knows, and install what it asks for.",
        ) from None
    return filesystem, root


def reason(error: BaseException) -> str:
    """Why a filesystem or a reader refused, without the path, which the message names itself, or a full stop.

    Example:
        >>> reason(ValueError("this is no  parquet file."))
        'this is no parquet file'
    """
    told = getattr(error, "strerror", None) or mask_text(" ".join(str(error).split()))
    return told.rstrip(".") or type(error).__name__


def not_made(storage: str, reason: str) -> RunError:
    """Return the error of a storage that takes no runs."""
    return RunError(
        f"storage = {mask_text(storage)}: no run can be made there: {reason}.",
        "Set storage to a folder that can be written.",
    )
