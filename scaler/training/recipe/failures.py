"""Turn an exception of the recipe's own code into an error of scaler."""

import importlib
import os
import traceback
from collections.abc import Mapping
from importlib.machinery import PathFinder
from itertools import dropwhile
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

from scaler.errors import RecipeError
from scaler.training.recipe.module import own_module

if TYPE_CHECKING:
    pass

# Module -> the package that installs it, where the names differ.
DISTRIBUTIONS: Mapping[str, str] = {
    "PIL": "pillow",
    "bs4": "beautifulsoup4",
    "cv2": "opencv-python",
    "dateutil": "python-dateutil",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
}
_NOT_THE_RECIPE = (str(Path(__file__).parents[2]) + os.sep, "<frozen importlib", importlib.__file__)


def recipe_failure(error: BaseException, who: str, *, folder: Path | None = None) -> RecipeError:
    """Return the error to raise for an exception of the recipe's own code, with its traceback.

    For a module that is not found there is no traceback: the message names its folder, or the package to install.

    Args:
        error: the exception.
        who: names the code that raised it, for the message.
        folder: the job file's folder; the user's own modules are searched for there too.
    """
    if isinstance(error, ModuleNotFoundError) and error.name:
        package = error.name.partition(".")[0]
        if PathFinder.find_spec(package) is None:
            own = own_module(package, error=error, folder=folder)
            if own is not None:
                return RecipeError(
                    f"{who} needs the module {package}, which is in {own}, where Python does not look.",
                    f"export PYTHONPATH={quote(str(own))}",
                )
            return RecipeError(
                f"{who} needs the module {package}, which is not installed.",
                f"pip install {DISTRIBUTIONS.get(package, package)}",
            )
    return RecipeError(f"{who} failed: {error_text(error)}", recipe_traceback(error))


def recipe_traceback(error: BaseException) -> str:
    """Return an exception's traceback without the first lines, which are scaler's or the import machinery's."""
    trace = traceback.TracebackException.from_exception(error)
    inner = list(dropwhile(lambda frame: frame.filename.startswith(_NOT_THE_RECIPE), trace.stack))
    if inner or isinstance(error, SyntaxError):  # its message names the line
        trace.stack[:] = inner
    return "".join(trace.format()).rstrip()


def error_text(error: BaseException) -> str:
    """Return an exception's type and the first line of its message; for ``SystemExit``, the call of ``sys.exit``."""
    if isinstance(error, SystemExit):
        return f"it called sys.exit({'' if error.code is None else repr(error.code)})"
    try:
        first, *more = str(error).splitlines() or [""]
    except Exception:  # str() of it runs the recipe's code too
        first, more = "its message cannot be read", []
    return f"{type(error).__name__}{f': {first}' if first else ''}{' ...' if more else ''}"


def describe_type(value: object) -> str:
    """Return the type of a value with its article, for a message.

    Example:
        >>> [describe_type(value) for value in (None, 3, {})]
        ['None', 'an int', 'a dict']
    """
    name = type(value).__name__
    return "None" if value is None else f"{'an' if name[0] in 'aeioAEIO' else 'a'} {name}"
