"""Choose what Ray sends to the nodes of a running cluster: the job's folder, and scaler itself.

Ray packs the whole folder, except the files that ``.gitignore`` and ``.rayignore`` name. scaler also leaves out the
runs below it; otherwise every submit would send all checkpoints of earlier runs to every node.
"""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote
from typing import Any

from scaler.errors import ClusterError
from scaler.runs import list_runs
from scaler.runs.filesystems import located

JOB_CONFIG = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # ``ray job submit`` sets it for the program that it starts
SHOWN = 3
LARGEST = 10  # paths that the error of a folder that is too large names

_Rule = Callable[[Path], bool]


@dataclass(frozen=True, kw_only=True, slots=True)
class Shipment:
    """What Ray sends, and where the workers find it.

    Args:
        runtime_env: what Ray sends, as a runtime environment of Ray Core.
        recipe_folder: the job file's folder, as the workers see it.
        left_out: files and folders that ``.gitignore`` leaves out, relative to the job's folder.
    """

    runtime_env: Mapping[str, Any] = field(default_factory=dict)
    recipe_folder: str
    left_out: Sequence[str] = ()


def pack(recipe_folder: Path, *, storage: str, packages: Sequence[Path]) -> Shipment:
    """Return what Ray is to send, and the folder in which the workers find the recipe.

    Args:
        recipe_folder: the job file's folder.
        storage: of the job; its runs are left out if they are below ``recipe_folder``.
        packages: files or folders that the nodes must be able to import: scaler's, and the recipe's if it is
            outside ``recipe_folder``.

    Raises:
        ClusterError: the folder is larger than Ray sends, or this process belongs to a Ray job with another folder.
    """
    of_ray_job = runtime_env_of_ray_job()
    # In a Ray job, PYTHONPATH has the folders of its packages, which each node sets for itself.
    modules: dict[str, Any] = {} if of_ray_job.get("py_modules") else _python_path()
    if not of_ray_job.get("py_modules"):
        modules["py_modules"] = [str(package) for package in packages]
    if of_ray_job.get("working_dir"):
        return Shipment(runtime_env=modules, recipe_folder=_within_ray_job(recipe_folder))
    excludes = _storage_patterns(recipe_folder, storage, packages)
    sizes, left_out = find_files(recipe_folder, excludes)
    _require_sendable(recipe_folder, sizes)
    working_dir: dict[str, Any] = {"working_dir": str(recipe_folder)}
    if excludes:
        working_dir["excludes"] = excludes
    return Shipment(runtime_env={**working_dir, **modules}, recipe_folder=".", left_out=left_out)


def left_out_text(left_out: Sequence[str]) -> str:
    """Return a sentence that says which files the nodes do not get.

    Example:
        >>> left_out_text(["a.txt", "b.txt", "c", "d", "e"])
        'Not sent to the nodes, because .gitignore names them: a.txt, b.txt, c and 2 more.'
    """
    more = f" and {len(left_out) - SHOWN} more" if len(left_out) > SHOWN else ""
    return f"Not sent to the nodes, because .gitignore names them: {', '.join(left_out[:SHOWN])}{more}."


def runtime_env_of_ray_job() -> Mapping[str, Any]:
    """Return the runtime environment of the Ray job that started this process; empty if none did."""
    try:
        found = json.loads(os.environ.get(JOB_CONFIG, "{}")).get("runtime_env", {})
    except (ValueError, AttributeError):
        return {}
    return found if isinstance(found, dict) else {}


def _python_path() -> dict[str, Any]:
    """Return the part of a runtime environment that sets ``PYTHONPATH`` on the nodes; its folders must exist there."""
    folders = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    path = os.pathsep.join(os.path.abspath(folder) for folder in folders if folder)
    return {"env_vars": {"PYTHONPATH": path}} if path else {}


def _within_ray_job(recipe_folder: Path) -> str:
    """Return the recipe's folder as workers see it: they start in the Ray job's working directory."""
    working_dir = Path.cwd().resolve()
    if not recipe_folder.resolve().is_relative_to(working_dir):
        raise ClusterError(
            f"this Ray job has the working directory {working_dir}, and the job file is in {recipe_folder}.",
            f"Submit with the job file's folder: ray job submit --working-dir {recipe_folder} -- scaler submit JOB",
        )
    return str(recipe_folder.resolve().relative_to(working_dir))


def _storage_patterns(recipe_folder: Path, storage: str, packages: Sequence[Path]) -> list[str]:
    """Return the patterns that leave the runs out, if they are in the job's folder or below it."""
    if "://" in storage:
        return []
    base, runs = recipe_folder.resolve(), Path(located(storage)).resolve()
    if not runs.is_relative_to(base):
        return []
    if runs == base:
        names = [folder.run_id for folder in list_runs(storage)]
    else:
        within = runs.relative_to(base)
        names = [str(within / path.name) for path in sorted(runs.iterdir())] if runs.is_dir() else []
    # Ray applies the patterns to the packages, too.
    names = [name for name in names if not any((package / name).exists() for package in packages)]
    return ["/" + "".join(f"\\{sign}" if sign in "*?[]!# \\" else sign for sign in name) for name in names]


def find_files(
    folder: Path, excludes: Sequence[str], *, unsent: Sequence[str] = ()
) -> tuple[dict[Path, int], list[str]]:
    """Return the sizes in bytes of the files that are sent, and what ``.gitignore`` or ``unsent`` alone leaves out.

    Args:
        folder: the folder to send.
        excludes: patterns beside those of ``.rayignore``, as Ray takes them.
        unsent: names of entries of the folder that are left out, too.
    """
    from scaler.cluster.ray_packaging import (
        RAY_RUNTIME_ENV_IGNORE_GITIGNORE,
        _get_excludes,
        _get_ignore_file,
        get_runtime_env_default_excludes,
    )

    follows_gitignore = os.environ.get(RAY_RUNTIME_ENV_IGNORE_GITIGNORE, "0") != "1"
    sizes: dict[Path, int] = {}
    left_out: list[str] = []

    def walk(path: Path, always: list[_Rule], git: list[_Rule]) -> None:
        if path.is_dir():
            always = [*always, *filter(None, [_get_ignore_file(path, ".rayignore")])]
            git = [*git, *filter(None, [_get_ignore_file(path, ".gitignore") if follows_gitignore else None])]
        if any(rule(path) for rule in always):
            return
        if any(rule(path) for rule in git) or str(path.relative_to(folder)) in unsent:
            left_out.append(f"{path.relative_to(folder)}{'/' if path.is_dir() else ''}")
        elif path.is_dir():
            for inner in sorted(path.iterdir()):
                walk(inner, always, git)
        elif path.is_file():
            sizes[path] = path.stat().st_size

    first = _get_excludes(folder, [*get_runtime_env_default_excludes(), *excludes])
    walk(folder.absolute(), [first], [])
    return sizes, left_out


def _require_sendable(folder: Path, sizes: Mapping[Path, int]) -> None:
    from scaler.cluster.ray_packaging import GCS_STORAGE_MAX_SIZE

    require_size(folder, sizes, limit=GCS_STORAGE_MAX_SIZE, sent="Ray sends its nodes")


def require_size(folder: Path, sizes: Mapping[Path, int], *, limit: int, sent: str) -> None:
    """Refuse a folder that is too large to be sent.

    Args:
        folder: the folder.
        sizes: of the files that would be sent, in bytes.
        limit: what is too large, in bytes.
        sent: who sends, for the message.

    Raises:
        ClusterError: names the largest paths in the folder.
    """
    whole = sum(sizes.values())
    if whole < limit:
        return
    by_path: dict[str, int] = {}
    for path, size in sizes.items():
        name = "/".join(path.relative_to(folder.absolute()).parts[:2])
        by_path[name] = by_path.get(name, 0) + size
    largest = sorted(by_path, key=lambda name: -by_path[name])[:LARGEST]
    shown = ", ".join(f"{name} ({_mib(by_path[name])})" for name in largest)
    raise ClusterError(
        f"the job's folder {folder} has {_mib(whole)}, and {sent} less than {_mib(limit)}. The largest in it: {shown}.",
        f"Leave out what the workers do not need: echo {quote(largest[0])} >> {quote(str(folder / '.rayignore'))}\n"
        "Put data where every node can read it.",
    )


def _mib(size: float) -> str:
    return f"{size / 2**20:,.0f} MiB"
