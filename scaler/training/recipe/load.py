"""Import a recipe's module and build the recipe."""

import importlib
import inspect
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from scaler.core.nearest import did_you_mean
from scaler.errors import JobFileError
from scaler.training.own_loop.around import Around, RecipeOnly, inside
from scaler.training.recipe.check import checked_recipe
from scaler.training.recipe.module import find_module
from scaler.training.recipe.recipe import Recipe

SHOWN_FUNCTIONS = 8


def _of(source: str) -> str:
    return f"{source}: " if source else ""


def load_recipe(path: str, *, folder: Path, arguments: Mapping[str, Any], source: str = "") -> Recipe:
    """Import a recipe's module, from ``folder`` first, and return the recipe that its function builds.

    Raises:
        JobFileError: as ``call_recipe``; or the function has a loop of its own.
        RecipeError: the function returned something that is not a usable recipe.
        Exception: any exception of the recipe's own code, unchanged.
    """
    built = call_recipe(path, folder=folder, arguments=arguments, source=source, around=RecipeOnly(path))
    return checked_recipe(built, path)


def call_recipe(path: str, *, folder: Path, arguments: Mapping[str, Any], source: str = "", around: Around) -> object:
    """Import a recipe's module, from ``folder`` first, and return what its function returns.

    Args:
        path: as in ``import_recipe``.
        folder: the job file's folder.
        arguments: keyword arguments of the function.
        source: the job file's path, for error messages; empty: messages do not name it.
        around: answers ``scaler.start``, if the function calls it.

    Raises:
        JobFileError: the module or function does not exist, or the function does not take ``arguments``.
        Exception: any exception of the recipe's own code, unchanged.
    """
    from scaler.training.process_group import init_finds_the_group  # loads torch

    with inside(around), init_finds_the_group():
        build = import_recipe(path, folder=folder, source=source)
        require_arguments(build, arguments, path=path, source=source)
        return build(**arguments)


def import_recipe(path: str, *, folder: Path, source: str = "") -> Callable[..., Any]:
    """Import a recipe's module, from ``folder`` first, and return its function.

    Args:
        path: ``module:function`` or ``path/to/file.py:function``, the path relative to ``folder``.
        folder: the job file's folder. It and the folder that contains the module's outermost package become the first
            entries of the import path, and stay there.
        source: the job file's path, for error messages; empty: messages do not name it.

    Raises:
        JobFileError: the module or function does not exist.
        Exception: any exception of the module's own code, unchanged.
    """
    found = find_module(path, folder=folder, source=source)
    module_name, function_name = found.name, found.function
    first = dict.fromkeys((str(found.root), str(folder)))
    sys.path[:] = [*first, *(path for path in sys.path if path not in first)]
    _forget_namesake(module_name, found.root)
    from scaler.training.randomness import DrawnByImport  # loads torch

    drawn = DrawnByImport.begin()
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise
        raise JobFileError(
            f"{_of(source)}recipe = {path}: there is no module {error.name}.",
            "Its package exists, but has no such module.",
        ) from None
    _require_file(module, found.file, path=path, source=source)
    drawn.end(module)
    build: Callable[..., Any] | None = getattr(module, function_name, None)
    if not callable(build):
        raise JobFileError(
            f"{_of(source)}recipe = {path}: {module_name} has no function {function_name}.",
            _functions_of(module, function_name),
        )
    return build


def _functions_of(module: ModuleType, wanted: str) -> str:
    """Return a sentence that lists the functions of a module that lacks the wanted one."""
    own = [name for name, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__]
    functions = sorted(name for name in own if inspect.isfunction(vars(module)[name]) and not name.startswith("_"))
    return (
        f"{did_you_mean(wanted, functions)}Functions there: {', '.join(functions[:SHOWN_FUNCTIONS])}."
        if functions
        else "It defines no function."
    )


def require_arguments(build: Callable[..., Any], arguments: Mapping[str, Any], *, path: str, source: str) -> None:
    """Raise an error if a recipe's function does not take these arguments.

    Raises:
        JobFileError: says the function's signature.
    """
    try:
        signature = inspect.signature(build)
    except ValueError:  # a function that is not written in Python
        return
    try:
        signature.bind(**arguments)
    except TypeError as error:
        raise JobFileError(
            f"{_of(source)}recipe_args do not fit {path}: {error}.",
            f"Its signature is {path.partition(':')[2]}{signature}.",
        ) from None


def _forget_namesake(module_name: str, root: Path) -> None:
    """Forget an imported module with the same name as the recipe's that comes from another folder.

    Two jobs may each have a ``recipe.py``; without this, this process would train the first one again.
    """
    first = module_name.partition(".")[0]
    known = [_place(sys.modules[name]) for name in (first, module_name) if name in sys.modules]
    is_here = (root / f"{first}.py").exists() or (root / first).is_dir()
    if is_here and any(place is not None and not Path(place).is_relative_to(root) for place in known):
        for name in [name for name in sys.modules if name == first or name.startswith(f"{first}.")]:
            del sys.modules[name]
        importlib.invalidate_caches()


def _place(module: ModuleType) -> str | None:
    """Return a module's file, or a package's first folder."""
    return module.__file__ or next(iter(getattr(module, "__path__", ())), None)


def _require_file(module: ModuleType, file: Path | None, *, path: str, source: str) -> None:
    """Raise an error if Python imported another file than the one that the recipe names."""
    imported = getattr(module, "__file__", None)
    if file is not None and imported is not None and not file.samefile(imported):
        raise JobFileError(
            f"{_of(source)}recipe = {path}: Python imports {module.__name__} from {imported} instead.",
            f"Give {file.name} or its folder another name, or add {file.parent / '__init__.py'}.",
        )
