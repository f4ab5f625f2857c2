"""Check that a recipe's function exists without importing its module, so that a wrong name fails at once."""

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
    """Raise an error if the source of a recipe's module shows that the module or the function does not exist.

    Cases that only an import can decide are left to the import: a module without source, names made while importing.

    Args:
        path: ``module:function``, or ``path/to/file.py:function``.
        folder: the job file's folder, which is searched first.
        source: the job file's path, for error messages; empty: messages do not name it.

    Raises:
        JobFileError: the module or function does not exist.
    """
    found = find_module(path, folder=folder, source=source)
    module, function = path.rpartition(":")[0], found.function
    who = f"{source}: " if source else ""
    file = found.file
    if file is None:
        spec, missing = _spec(found.name, [str(folder), *sys.path])
        if missing is not None:
            raise JobFileError(
                f"{who}recipe = {path}: there is no module {missing}.", "Its package exists, but has no such module."
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
        f"{hint}Functions there: {', '.join(functions[:SHOWN_FUNCTIONS])}." if functions else "It defines no function.",
    )


def _spec(module: str, places: Sequence[str]) -> tuple[ModuleSpec | None, str | None]:
    """Return where a module's source is, and the name of the first part that does not exist; nothing is imported."""
    spec: ModuleSpec | None = None
    search: Sequence[str] | None = places
    parts = module.split(".")
    for count in range(1, len(parts) + 1):
        name = ".".join(parts[:count])
        if search is None:
            return None, name
        spec = PathFinder.find_spec(name, search)
        if spec is None:
            # A package that sets __path__ when it is imported may have any submodule.
            return (None, name) if count > 1 and not _makes_its_parts(search) else (None, None)
        search = spec.submodule_search_locations
    return spec, None


def _makes_its_parts(locations: Sequence[str]) -> bool:
    """Return whether a package's own source changes where Python searches for its submodules."""
    sources = [Path(location, "__init__.py") for location in locations]
    return any(
        "__path__" in source.read_text(encoding="utf-8", errors="replace") for source in sources if source.exists()
    )


def _parsed(file: Path | None) -> ast.Module | None:
    """Return a module's parsed source; None if it has no source that can be parsed."""
    if file is None or file.suffix != ".py":
        return None
    try:
        return ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError):  # the import raises it with its message
        return None


def _names(body: Sequence[ast.stmt]) -> Iterator[str]:
    """Yield the names that statements bind in the module, inside blocks too; ``*`` if they may bind any name."""
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
