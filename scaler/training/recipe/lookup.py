"""Look a recipe's function up without importing anything, so that a wrong name ends a command at once."""

import ast
import sys
from collections.abc import Iterator, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path

from scaler.core.nearest import did_you_mean
from scaler.errors import JobFileError
from scaler.training.recipe.load import SHOWN_FUNCTIONS
from scaler.training.recipe.module import find_module


def require_function(path: str, *, folder: Path, source: str = "") -> None:
    """Refuse a recipe whose module or function is not there, by its source alone.

    What only importing can tell (a module without source, names that it makes as it is imported) is left to the import.

    Args:
        path: ``module:function``, or ``path/to/file.py:function``.
        folder: where the job file lies; looked in first.
        source: the job file's path, for errors; empty where they need none.

    Raises:
        JobFileError: there is no such module or function.
    """
    found = find_module(path, folder=folder, source=source)
    module, function = path.rpartition(":")[0], found.function
    who = f"{source}: " if source else ""
    file = found.file
    if file is None:
        spec, missing = _spec(found.name, [str(folder), *sys.path])
        if missing is not None:
            raise JobFileError(
                f"{who}recipe = {path}: there is no module {missing}.", "Its package is there without it."
            )
        file = Path(spec.origin) if spec is not None and spec.origin is not None else None
    tree = _parsed(file)
    if tree is None:
        return
    names = {*_names(tree.body)}
    names |= {name for node in ast.walk(tree) if isinstance(node, ast.Global) for name in node.names}
    if names & {function, "*", "__getattr__"}:
        return
    functions = sorted(
        node.name
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith("_")
    )
    hint = did_you_mean(function, functions)
    raise JobFileError(
        f"{who}recipe = {path}: {module} has no function {function}.",
        f"{hint}Functions there: {', '.join(functions[:SHOWN_FUNCTIONS])}." if functions else "It defines none.",
    )


def _spec(module: str, places: Sequence[str]) -> tuple[ModuleSpec | None, str | None]:
    """Where a module's source is, and the name of the first part that is not there; packages are not imported."""
    spec: ModuleSpec | None = None
    search: Sequence[str] | None = places
    parts = module.split(".")
    for count in range(1, len(parts) + 1):
        name = ".".join(parts[:count])
        if search is None:
            return None, name
        spec = PathFinder.find_spec(name, search)
        if spec is None:
            # Nothing is known of a package that makes its parts itself when it is imported.
            return (None, name) if count > 1 and not _makes_its_parts(search) else (None, None)
        search = spec.submodule_search_locations
    return spec, None


def _makes_its_parts(locations: Sequence[str]) -> bool:
    """Whether a package's own source changes where its parts are looked for."""
    sources = [Path(location, "__init__.py") for location in locations]
    return any(
        "__path__" in source.read_text(encoding="utf-8", errors="replace") for source in sources if source.exists()
    )


def _parsed(file: Path | None) -> ast.Module | None:
    """A module's source, parsed; None where it has none that can be."""
    if file is None or file.suffix != ".py":
        return None
    try:
        return ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError):  # importing it says what is wrong
        return None


def _names(body: Sequence[ast.stmt]) -> Iterator[str]:
    """The names that statements bind in the module, in blocks as well; ``*`` for what they may bind."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
            continue
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from (alias.asname or alias.name for alias in node.names)
        for inner in ast.walk(node):
            if isinstance(inner, ast.Name) and isinstance(inner.ctx, ast.Store):
                yield inner.id
            elif isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                yield inner.name
            elif isinstance(inner, ast.alias):
                yield inner.asname or inner.name
            elif isinstance(inner, ast.Name) and inner.id in ("globals", "vars", "exec", "setattr"):
                yield "*"
