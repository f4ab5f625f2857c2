"""The recipe: what a user writes, in plain torch."""

import importlib
import inspect
import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence, Sized
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.machinery import PathFinder
from itertools import dropwhile
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from scaler.errors import JobFileError, RecipeError

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.utils.data import Dataset

    from scaler.job import Job
    from scaler.plan import Plan

SHOWN_FUNCTIONS = 8
_NOT_THE_RECIPE = (str(Path(__file__).parents[1]) + os.sep, "<frozen importlib", importlib.__file__)

Loss = Callable[["nn.Module", Any], "Tensor | tuple[Tensor, Tensor | float]"]
Evaluate = Callable[["nn.Module", Any], Mapping[str, "Tensor | float"]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """Model, data and loss of a job.

    Args:
        model: on the CPU; scaler moves it to the worker's device.
        train_data: a map-style dataset. A ``TensorDataset`` is indexed a batch at a time; a dataset with
            ``__getitems__`` is asked for a batch at a time; any other, sample by sample.
        loss: ``loss(model, batch)``: the mean over the batch's samples, or ``(sum, weight)`` for losses that weigh
            samples differently (by token, say): the step then divides by the weight of the whole global batch.
        eval_data: a map-style dataset; None: no evaluation.
        evaluate: ``evaluate(model, batch)``: name -> mean over the batch's samples, from one forward pass.
            None: the loss.
        collate: makes a batch of a list of samples; None: torch's ``default_collate``.
        groups: parameter groups as the job file writes them (``{"match": "backbone.*", "lr_ratio": 0.1}``), for a job
            with ``groups: recipe``.
        flops_per_sample: floating-point operations of one sample's forward and backward pass; for a transformer about
            6 x parameters x tokens. The report makes the achieved FLOPs of it, and MFU.
    """

    model: "nn.Module"
    train_data: "Dataset[Any]"
    loss: Loss
    eval_data: "Dataset[Any] | None" = None
    evaluate: Evaluate | None = None
    collate: Callable[[list[Any]], Any] | None = None
    groups: Sequence[Mapping[str, Any]] = ()
    flops_per_sample: float | None = None


def require_module(path: str, *, folder: Path, source: str = "") -> None:
    """Refuse a recipe whose module is not there, without importing anything.

    Raises:
        JobFileError: it is neither in ``folder`` nor installed.
    """
    first = path.partition(":")[0].partition(".")[0]
    importlib.invalidate_caches()
    if PathFinder.find_spec(first, [str(folder), *sys.path]) is None:
        raise JobFileError(
            f"{_of(source)}recipe = {path}: there is no module {first}.",
            f"It is looked for in {folder} and among the installed packages.",
        )


def _of(source: str) -> str:
    return f"{source}: " if source else ""


def recipe_failure(error: BaseException, who: str) -> RecipeError:
    """Return an exception of the recipe's own code as an error of ours, with its traceback.

    For a module that is not installed there is no traceback: what to install says it all.
    """
    if isinstance(error, ModuleNotFoundError) and error.name:
        package = error.name.partition(".")[0]
        if PathFinder.find_spec(package) is None:
            return RecipeError(f"{who} needs the module {package}, which is not installed.", f"pip install {package}")
    return RecipeError(f"{who} failed: {said(error)}", recipe_traceback(error))


def recipe_traceback(error: BaseException) -> str:
    """Return an exception's traceback from the first line that is not scaler's or the import machinery's."""
    trace = traceback.TracebackException.from_exception(error)
    inner = list(dropwhile(lambda frame: frame.filename.startswith(_NOT_THE_RECIPE), trace.stack))
    if inner or isinstance(error, SyntaxError):  # which names its own place
        trace.stack[:] = inner
    return "".join(trace.format()).rstrip()


def said(error: BaseException) -> str:
    """Return an exception's type and the first line of its text; an exit as the call that it was."""
    if isinstance(error, SystemExit):
        return f"it called sys.exit({'' if error.code is None else repr(error.code)})"
    try:
        first, *more = str(error).splitlines() or [""]
    except Exception:  # its text is the recipe's code, too
        first, more = "its text cannot be made", []
    return f"{type(error).__name__}{f': {first}' if first else ''}{' ...' if more else ''}"


def kind(value: object) -> str:
    """Return what a value is, in a few words.

    Example:
        >>> [kind(value) for value in (None, 3, {})]
        ['None', 'an int', 'a dict']
    """
    name = type(value).__name__
    return "None" if value is None else f"{'an' if name[0] in 'aeioAEIO' else 'a'} {name}"


def load_recipe(path: str, *, folder: Path, arguments: Mapping[str, Any], source: str = "") -> Recipe:
    """Import ``module:function``, from ``folder`` first, and return the recipe that it builds.

    Args:
        path: ``module:function``.
        folder: where the job file lies; goes in front of the import path and stays there.
        arguments: keyword arguments of the function.
        source: the job file's path, for errors; empty where they need none.

    Raises:
        JobFileError: there is no such module or function, or it does not take ``arguments``.
        RecipeError: it returned something that is not a usable recipe.
        Exception: whatever the recipe's own code raises, with its own traceback.
    """
    module_name, _, function_name = path.partition(":")
    require_module(path, folder=folder, source=source)
    sys.path[:] = [str(folder), *(path for path in sys.path if path != str(folder))]
    _forget_namesake(module_name, folder)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise
        raise JobFileError(
            f"{_of(source)}recipe = {path}: there is no module {error.name}.", "Its package is there without it."
        ) from None
    build = getattr(module, function_name, None)
    if not callable(build):
        raise JobFileError(
            f"{_of(source)}recipe = {path}: {module_name} has no function {function_name}.",
            _functions_of(module, function_name),
        )
    _require_arguments(build, arguments, path=path, source=source)
    return _checked(build(**arguments), path)


def _functions_of(module: ModuleType, wanted: str) -> str:
    """What a module has instead of a function that it lacks."""
    own = [name for name, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__]
    functions = sorted(name for name in own if inspect.isfunction(vars(module)[name]) and not name.startswith("_"))
    near = get_close_matches(wanted, functions, n=1)
    hint = f'Did you mean "{near[0]}"? ' if near else ""
    return f"{hint}Functions there: {', '.join(functions[:SHOWN_FUNCTIONS])}." if functions else "It defines none."


def _require_arguments(build: Callable[..., Any], arguments: Mapping[str, Any], *, path: str, source: str) -> None:
    try:
        signature = inspect.signature(build)
    except ValueError:  # of code that is not Python's
        return
    try:
        signature.bind(**arguments)
    except TypeError as error:
        raise JobFileError(
            f"{_of(source)}recipe_args do not fit {path}: {error}.", f"It is {path.partition(':')[2]}{signature}."
        ) from None


def require_planned(recipe: Recipe, job: "Job", plan: "Plan") -> None:
    """Refuse a recipe that is not what the plan was made for.

    Raises:
        RecipeError: its training set's size, its groups or its model's parameters are others.
    """
    if (size := len(recipe.train_data)) != plan.num_samples:  # type: ignore[arg-type]
        raise RecipeError(
            f"train.num_samples = {plan.num_samples}, but the recipe's train_data has {size} samples.",
            f"Set train.num_samples to {size}, or leave it out.",
        )
    if recipe.groups and not job.groups:
        raise RecipeError("the recipe gives parameter groups, and the job does not use them.", "Add groups: recipe.")
    planned = plan.parameters
    found = {name: parameter.numel() for name, parameter in recipe.model.named_parameters()}
    if planned and planned != found:
        other = min(set(planned.items()) ^ set(found.items()))[0]
        raise RecipeError(
            f"the model's parameters are not those that the plan was made for: {other} differs.",
            "The recipe must build the same model each time.",
        )


def _forget_namesake(module_name: str, folder: Path) -> None:
    """Two jobs may each have a ``recipe.py``: forget the other's, or this process would train it again."""
    first = module_name.partition(".")[0]
    known = getattr(sys.modules.get(first), "__file__", None)
    is_here = (folder / f"{first}.py").exists() or (folder / first).is_dir()
    if known is not None and is_here and not Path(known).is_relative_to(folder):
        for name in [name for name in sys.modules if name == first or name.startswith(f"{first}.")]:
            del sys.modules[name]
        importlib.invalidate_caches()


def _checked(recipe: object, path: str) -> Recipe:
    if not isinstance(recipe, Recipe):
        raise RecipeError(
            f"{path} returned {kind(recipe)}, not a scaler.Recipe.", "return scaler.Recipe(model=..., ...)"
        )
    if not hasattr(recipe.model, "named_parameters"):  # the room's one file that is imported without torch
        raise RecipeError(f"{path}: model is {kind(recipe.model)}.", "It must be a torch.nn.Module.")
    for name, part in (("loss", recipe.loss), ("evaluate", recipe.evaluate), ("collate", recipe.collate)):
        if not callable(part) and (part is not None or name == "loss"):
            raise RecipeError(f"{path}: {name} is {kind(part)}.", f"{name} must be a function.")
    for name, data in (("train_data", recipe.train_data), ("eval_data", recipe.eval_data)):
        if data is None and name == "eval_data":
            continue
        if not isinstance(data, Sized) or not hasattr(data, "__getitem__"):
            raise RecipeError(
                f"{path}: {name} is {kind(data)} without len() and [index].",
                "scaler needs a map-style dataset: it orders the samples itself.",
            )
        try:
            size = len(data)
        except Exception as error:
            raise RecipeError(f"{path}: len({name}) failed: {said(error)}", recipe_traceback(error)) from error
        if size == 0:
            remedy = (
                "Leave eval_data out for no evaluation." if name == "eval_data" else "There is nothing to train on."
            )
            raise RecipeError(f"{path}: {name} is empty.", remedy)
    if not any(parameter.requires_grad for parameter in recipe.model.parameters()):
        raise RecipeError(f"{path}: the model has no parameter to train.", "At least one must require a gradient.")
    return recipe
