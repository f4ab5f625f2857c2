"""Check a recipe and an optimizer's class by their source, without importing it, so that a mistake fails at once."""

import ast
import importlib.util
import inspect
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Any

from scaler.core.nearest import did_you_mean, nearest
from scaler.core.optimizers import NAMED_OPTIMIZERS, optimizer_facts
from scaler.errors import JobFileError
from scaler.training.recipe.failures import recipe_failure
from scaler.training.recipe.load import SHOWN_FUNCTIONS
from scaler.training.recipe.module import RecipeModule, find_module


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
    file, missing = _source(found, folder)
    if missing is not None:
        raise JobFileError(
            f"{who}recipe = {path}: there is no module {missing}.", "Its package exists, but has no such module."
        )
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


def require_importable(path: str, *, folder: Path, arguments: Mapping[str, Any]) -> None:
    """Raise an error if the source of a recipe's module shows that its import, or the call of its function, fails.

    For workers on this machine: on another one, other packages may be installed.

    Args:
        path: as in ``require_function``, which has found it.
        folder: the job file's folder, which is searched first.
        arguments: of the function.

    Raises:
        RecipeError: the source is not Python, or imports a package that is not installed.
        JobFileError: the function does not take the arguments.
    """
    found = find_module(path, folder=folder)
    file, _ = _source(found, folder)
    if file is None or file.suffix != ".py":
        return
    try:
        data = file.read_bytes()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compile(data, str(file), "exec", dont_inherit=True)
    except SyntaxError as error:
        raise recipe_failure(error, path, folder=folder) from error
    except (OSError, ValueError, RecursionError):  # the import raises it with its message
        return
    tree = ast.parse(data)
    for name in _imported(tree):
        if not _is_found(name, [str(found.root), str(folder)]):
            raise recipe_failure(ModuleNotFoundError(name=name), path, folder=folder)
    _require_call(tree, path, arguments)


def require_optimizer(name: str, *, folder: Path) -> None:
    """Raise an error if the source of an optimizer's module shows that its class does not exist.

    Args:
        name: of the optimizer in the job.
        folder: the job file's folder, which is searched first.

    Raises:
        JobFileError: the module is not installed, or has no such name.
    """
    module, _, class_name = optimizer_facts(name).path.partition(":")
    package = module.partition(".")[0]
    if not _is_found(package, [str(folder)]):
        raise JobFileError(
            f"reference.optimizer: {name} needs the module {package}, which is not installed.",
            "pip install 'scaler[optimizers]'" if name in NAMED_OPTIMIZERS else "Install it, or correct the name.",
        )
    spec, _ = _spec(module, [str(folder), *sys.path])
    tree = _parsed(Path(spec.origin) if spec is not None and spec.origin is not None else None)
    if tree is None:
        return
    names = {*_names(tree.body)}
    if not names & {class_name, "*", "__getattr__"}:
        near = nearest(class_name, sorted(each for each in names if each[:1].isupper()))
        hint = f'Did you mean "{module}:{near}"? ' if near is not None else ""
        raise JobFileError(
            f"reference.optimizer: {module} has no class {class_name}.",
            f"{hint}A path is module:Class, such as torch.optim:NAdam.",
        )


def _source(found: RecipeModule, folder: Path) -> tuple[Path | None, str | None]:
    """Return the file of a recipe's module, if it is known, and the name of the first part that does not exist."""
    if found.file is not None:
        return found.file, None
    spec, missing = _spec(found.name, [str(folder), *sys.path])
    return (Path(spec.origin) if spec is not None and spec.origin is not None else None), missing


def _imported(tree: ast.Module) -> Iterator[str]:
    """Yield the packages that a module's import needs: those of statements that are in no block."""
    for node in tree.body:
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]


def _is_found(package: str, folders: Sequence[str]) -> bool:
    if package in sys.modules or PathFinder.find_spec(package, folders) is not None:
        return True
    return importlib.util.find_spec(package) is not None


def _require_call(tree: ast.Module, path: str, arguments: Mapping[str, Any]) -> None:
    """Raise an error if a function that the module defines once, without decorators, does not take the arguments."""
    function = path.rpartition(":")[2]
    made = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == function]
    if [*_names(tree.body)].count(function) != 1 or not made or made[0].decorator_list:
        return
    given = made[0].args
    text = ast.unparse(given)
    for each in ast.walk(given):
        if isinstance(each, ast.arg):
            each.annotation = None
    given.defaults = [ast.Constant(None) for _ in given.defaults]
    given.kw_defaults = [None if default is None else ast.Constant(None) for default in given.kw_defaults]
    stub = ast.fix_missing_locations(ast.Expression(ast.Lambda(given, ast.Constant(None))))
    try:  # the stub has the names of the arguments only, and nothing of the recipe's code
        inspect.signature(eval(compile(stub, "<signature>", "eval"))).bind(**arguments)
    except TypeError as error:
        raise JobFileError(
            f"recipe_args do not fit {path}: {error}.", f"Its signature is {function}({text})."
        ) from None


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
