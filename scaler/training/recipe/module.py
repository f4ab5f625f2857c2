"""Find a recipe's module: a name that Python imports, or the path of a file, which may be part of a package."""

import ast
import importlib
import os
import sys
import sysconfig
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.machinery import PathFinder
from pathlib import Path

from scaler.core.nearest import did_you_mean
from scaler.errors import JobFileError

FOLDERS_UP = 4  # parent folders that are searched for the user's own packages, to name them in an error


@dataclass(frozen=True, kw_only=True, slots=True)
class RecipeModule:
    """A recipe's module and how to import it.

    Attributes:
        name: dotted name of the module, with its packages.
        function: name of the function in the module.
        root: the first folder of the import path: the one that contains the module's outermost package, or the job
            file's folder.
        file: the module's file, if the recipe names a file; None: Python finds it.
    """

    name: str
    function: str
    root: Path
    file: Path | None = None


def find_module(path: str, *, folder: Path, source: str = "") -> RecipeModule:
    """Return where a recipe's module is, without importing it.

    A file is imported as ``python -m`` would import it. Its parent folders with an ``__init__.py`` are its packages,
    and so are the parent folders that its relative imports need. The job file's folder is a package only if a relative
    import needs it: on a cluster this folder has another name.

    Args:
        path: ``module:function`` or ``path/to/file.py:function``, the path relative to the job file's folder.
        folder: the job file's folder.
        source: the job file's path, for error messages; empty: messages do not name it.

    Raises:
        JobFileError: the file or module does not exist; the message offers a similar name.
    """
    where, _, function = path.rpartition(":")
    key = f"{source}: recipe = {path}" if source else f"recipe = {path}"
    if where.endswith(".py"):
        file = Path(os.path.normpath(folder / os.path.expanduser(where)))
        if not os.path.isfile(file):
            near = did_you_mean(file.name, sorted(other.name for other in file.parent.glob("*.py")))
            raise JobFileError(
                f"{key}: there is no file {file}.", f"{near}The path is relative to the job file's folder."
            )
        return _of_file(file, function, folder=folder, key=key)
    beside = folder / f"{where}.py"
    if os.path.isfile(beside) and _relative_levels(beside):
        return _of_file(beside, function, folder=folder, key=key)
    importlib.invalidate_caches()
    first = where.partition(".")[0]
    if PathFinder.find_spec(first, [str(folder), *sys.path]) is None:
        raise JobFileError(
            f"{key}: there is no module {first}.",
            f"{_offer(where, function, folder)}Python searches {folder}, PYTHONPATH and the installed packages.",
        )
    return RecipeModule(name=where, function=function, root=folder)


def shipped_recipe(path: str, *, folder: Path) -> tuple[str, list[Path]]:
    """Return a recipe as the nodes of a cluster import it, and the files that must be sent to them.

    Args:
        path: as in ``find_module``.
        folder: the job file's folder; it is the working directory of the nodes.

    Returns:
        The recipe, and the files or folders to make importable beside the job file's folder: the recipe's package, if
        it is outside this folder and not installed.
    """
    module = find_module(path, folder=folder)
    first = module.name.partition(".")[0]
    outer = module.root / first
    if module.file is None:
        spec = PathFinder.find_spec(first, [str(folder), *sys.path])
        places = [*(spec.submodule_search_locations or ()), spec.origin] if spec is not None else []
        outer = Path(next(filter(None, places), outer))
    elif not outer.is_dir():
        outer = outer.with_suffix(".py")
    if outer.is_relative_to(folder) or _is_installed(outer) or not outer.exists():
        return path, []
    return f"{module.name}:{module.function}", [outer]


def own_module(name: str, *, error: BaseException, folder: Path | None) -> Path | None:
    """Return the folder near the recipe with a module that Python did not find; None: the module is not the user's own.

    Args:
        name: of the outermost package or module.
        error: the import error; its traceback names the files that import the module.
        folder: the job file's folder.
    """
    files = [Path(frame.filename) for frame in traceback.extract_tb(error.__traceback__)]
    starts = [file.parent for file in reversed(files) if os.path.isfile(file) and not _is_installed(file)]
    starts += [place for place in (folder, Path.cwd()) if place is not None]
    for place in _around(starts):
        if os.path.isfile(place / f"{name}.py") or ((place / name).is_dir() and any((place / name).glob("*.py"))):
            return place
    return None


def _of_file(file: Path, function: str, *, folder: Path, key: str) -> RecipeModule:
    """Return the module of a file, with its packages."""
    levels, folder = _relative_levels(file), Path(os.path.normpath(folder))
    names, root = ([] if file.stem == "__init__" else [file.stem]), file.parent
    while root != root.parent and (levels > 0 or ((root / "__init__.py").exists() and root != folder)):
        names.insert(0, root.name)
        root, levels = root.parent, levels - 1
    dotted = next((name for name in names if "." in name), None)
    if dotted is not None or not names:
        raise JobFileError(
            f"{key}: Python cannot import a module or package that is called {dotted or root.name}.",
            "Give it a name of letters, digits and _.",
        )
    return RecipeModule(name=".".join(names), function=function, root=root, file=file)


def _relative_levels(file: Path) -> int:
    """Return how many packages a file's relative imports need around it; 0 if there are none, or it is not Python."""
    try:
        tree = ast.parse(file.read_bytes())
    except (OSError, ValueError, SyntaxError):  # the import raises it with its message
        return 0
    return max((node.level for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)), default=0)


def _offer(module: str, function: str, folder: Path) -> str:
    """Return a sentence with the path of a module's file near the job file, or of a module with a similar name."""
    parts = module.split(".")
    for place in _around([folder, Path.cwd(), *_children(folder)]):
        for file in (place.joinpath(*parts).with_suffix(".py"), place.joinpath(*parts, "__init__.py")):
            if os.path.isfile(file):
                return f'Did you mean "{os.path.relpath(file, folder)}:{function}"? '
    return did_you_mean(f"{module}:{function}", [f"{file.stem}:{function}" for file in sorted(folder.glob("*.py"))])


def _around(starts: list[Path]) -> Iterator[Path]:
    """Yield these folders and some of their parents, each with its folder ``src``."""
    seen = set()
    for start in starts:
        for place in [start, *start.parents][:FOLDERS_UP]:
            for near in (place, place / "src"):
                if near not in seen:
                    seen.add(near)
                    yield near


def _children(folder: Path) -> list[Path]:
    return [child for child in sorted(folder.iterdir()) if child.is_dir() and not child.name.startswith(".")]


def _is_installed(path: Path) -> bool:
    """Return whether a file belongs to Python or to an installed package."""
    places = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    return any(path.is_relative_to(place) for place in places) or "site-packages" in path.parts
