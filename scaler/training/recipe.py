"""The recipe: what a user writes, in plain torch."""

import importlib
import inspect
import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence, Sized
from dataclasses import dataclass
from importlib.machinery import PathFinder
from itertools import dropwhile
from pathlib import Path
from shlex import quote
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

from scaler.core.nearest import did_you_mean
from scaler.errors import JobFileError, RecipeError
from scaler.training.names import named_parameters
from scaler.training.recipe_module import find_module, own_module

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.utils.data import Dataset

    from scaler.job import Job
    from scaler.plan import Plan

SHOWN_FUNCTIONS = 8
# Modules whose package has another name.
DISTRIBUTIONS: Mapping[str, str] = {
    "PIL": "pillow",
    "bs4": "beautifulsoup4",
    "cv2": "opencv-python",
    "dateutil": "python-dateutil",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
}
_NOT_THE_RECIPE = (str(Path(__file__).parents[1]) + os.sep, "<frozen importlib", importlib.__file__)

Loss = Callable[["nn.Module", Any], "Tensor | tuple[Tensor, Tensor | float]"]
Evaluate = Callable[["nn.Module", Any], Mapping[str, Any]]
LOSS_OVER = ("samples", "global_batch", "micro_batch")
EVALUATE_OVER = ("samples", "batch")


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """Model, data and loss of a job.

    Args:
        model: on the CPU; scaler moves it to the worker's device.
        train_data: a map-style dataset. A ``TensorDataset`` is indexed a batch at a time; a dataset with
            ``__getitems__`` is asked for a batch at a time; any other, sample by sample.
        loss: ``loss(model, batch)``: the mean over the batch's samples, or ``(sum, weight)`` for losses that weigh
            samples differently (by token, say): the step then divides by the weight of the whole global batch.
        loss_over: ``samples``: the loss is one of the two above, which is measured before the first step.
            ``global_batch``: it compares the samples of a step, and gathers them with ``scaler.all_gather``; a step is
            then one forward/backward on each worker, never several micro-batches. ``micro_batch``: it depends on the
            samples of one forward/backward; nothing is measured, and another number of workers or micro-batches
            trains on another objective.
        eval_data: a map-style dataset; None: no evaluation.
        evaluate: ``evaluate(model, batch)``: what one forward pass says, by name. A number is a mean over the batch's
            samples. ``(sum, weight)`` is divided over all the data. An object with torchmetrics' ``update``,
            ``compute`` and ``reset``, made once and updated here, is computed over all the data. None: the loss.
        metrics: a function of all the data's outputs, such as ``metrics(predictions, targets)``: returns further
            values by name. Each parameter gets what ``evaluate`` returned under its name: of a tensor or list with one
            row a sample the rows of all workers, in the data's order, on the CPU; of anything else its value.
        evaluate_over: ``samples``: no value depends on how the data is cut into batches, which is measured before the
            first step. ``batch``: they may; nothing is measured, and values are means over batches.
        collate: makes a batch of a list of samples; None: torch's ``default_collate``.
        groups: parameter groups as the job file writes them (``{"match": "backbone.*", "lr_ratio": 0.1}``), for a job
            with ``groups: recipe``.
        flops_per_sample: floating-point operations of one sample's forward and backward pass; for a transformer about
            6 x parameters x tokens. The report makes the achieved FLOPs of it, and MFU.
    """

    model: "nn.Module"
    train_data: "Dataset[Any]"
    loss: Loss
    loss_over: Literal["samples", "global_batch", "micro_batch"] = "samples"
    eval_data: "Dataset[Any] | None" = None
    evaluate: Evaluate | None = None
    metrics: Callable[..., Mapping[str, Any]] | None = None
    evaluate_over: Literal["samples", "batch"] = "samples"
    collate: Callable[[list[Any]], Any] | None = None
    groups: Sequence[Mapping[str, Any]] = ()
    flops_per_sample: float | None = None


def _of(source: str) -> str:
    return f"{source}: " if source else ""


def recipe_failure(error: BaseException, who: str, *, folder: Path | None = None) -> RecipeError:
    """Return an exception of the recipe's own code as an error of ours, with its traceback.

    For a module that is not found there is no traceback: where it is, or what to install, says it all.

    Args:
        error: what it raised.
        who: raised it, for the message.
        folder: where the job file lies: modules of the user's own are looked for there too.
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
    """Import a recipe's module, from ``folder`` first, and return the recipe that its function builds.

    Args:
        path: ``module:function`` or ``path/to/file.py:function``, the path from ``folder``.
        folder: where the job file lies; it and the folder of a file's outermost package go in front of the import path
            and stay there.
        arguments: keyword arguments of the function.
        source: the job file's path, for errors; empty where they need none.

    Raises:
        JobFileError: there is no such module or function, or it does not take ``arguments``.
        RecipeError: it returned something that is not a usable recipe.
        Exception: whatever the recipe's own code raises, with its own traceback.
    """
    found = find_module(path, folder=folder, source=source)
    module_name, function_name = found.name, found.function
    first = dict.fromkeys((str(found.root), str(folder)))
    sys.path[:] = [*first, *(path for path in sys.path if path not in first)]
    _forget_namesake(module_name, found.root)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise
        raise JobFileError(
            f"{_of(source)}recipe = {path}: there is no module {error.name}.", "Its package is there without it."
        ) from None
    _require_file(module, found.file, path=path, source=source)
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
    return (
        f"{did_you_mean(wanted, functions)}Functions there: {', '.join(functions[:SHOWN_FUNCTIONS])}."
        if functions
        else "It defines none."
    )


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
    found = {name: parameter.numel() for name, parameter in named_parameters(recipe.model).items()}
    if planned and planned != found:
        other = min(set(planned.items()) ^ set(found.items()))[0]
        raise RecipeError(
            f"the model's parameters are not those that the plan was made for: {other} differs.",
            "The recipe must build the same model each time.",
        )


def _forget_namesake(module_name: str, root: Path) -> None:
    """Two jobs may each have a ``recipe.py``: forget the other's, or this process would train it again."""
    first = module_name.partition(".")[0]
    known = [_place(sys.modules[name]) for name in (first, module_name) if name in sys.modules]
    is_here = (root / f"{first}.py").exists() or (root / first).is_dir()
    if is_here and any(place is not None and not Path(place).is_relative_to(root) for place in known):
        for name in [name for name in sys.modules if name == first or name.startswith(f"{first}.")]:
            del sys.modules[name]
        importlib.invalidate_caches()


def _place(module: ModuleType) -> str | None:
    """A module's file, or a package's first folder."""
    return module.__file__ or next(iter(getattr(module, "__path__", ())), None)


def _require_file(module: ModuleType, file: Path | None, *, path: str, source: str) -> None:
    """Refuse a module that is another than the file that the recipe names: one of its name comes before it."""
    imported = getattr(module, "__file__", None)
    if file is not None and imported is not None and not file.samefile(imported):
        raise JobFileError(
            f"{_of(source)}recipe = {path}: Python imports {module.__name__} from {imported} instead.",
            f"Give {file.name} or its folder another name, or add {file.parent / '__init__.py'}.",
        )


def _checked(recipe: object, path: str) -> Recipe:
    if not isinstance(recipe, Recipe):
        raise RecipeError(
            f"{path} returned {kind(recipe)}, not a scaler.Recipe.", "return scaler.Recipe(model=..., ...)"
        )
    if not hasattr(recipe.model, "named_parameters"):  # the room's one file that is imported without torch
        raise RecipeError(f"{path}: model is {kind(recipe.model)}.", "It must be a torch.nn.Module.")
    functions = ("loss", recipe.loss), ("evaluate", recipe.evaluate), ("metrics", recipe.metrics)
    for name, part in (*functions, ("collate", recipe.collate)):
        if not callable(part) and (part is not None or name == "loss"):
            raise RecipeError(f"{path}: {name} is {kind(part)}.", f"{name} must be a function.")
    if recipe.metrics is not None and recipe.evaluate is None:
        raise RecipeError(
            f"{path}: metrics is given without evaluate.", "evaluate returns what metrics is a function of."
        )
    choices = ("loss_over", recipe.loss_over, LOSS_OVER), ("evaluate_over", recipe.evaluate_over, EVALUATE_OVER)
    for name, choice, known in choices:
        if choice not in known:
            hint = did_you_mean(str(choice), known)
            raise RecipeError(f"{path}: {name} = {choice!r} is not known.", f"{hint}Known: {', '.join(known)}.")
    for name, data in (("train_data", recipe.train_data), ("eval_data", recipe.eval_data)):
        if data is None and name == "eval_data":
            continue
        lacking = [part for part, is_there in (("len()", isinstance(data, Sized)), ("[index]", _has_items(data)))
                   if not is_there]  # fmt: skip
        if not isinstance(data, Sized) or lacking:
            raise RecipeError(
                f"{path}: {name} is {kind(data)} without {' and '.join(lacking)}.",
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
    for parameter_name, parameter in named_parameters(recipe.model).items():
        if unusable := _unusable(parameter):
            raise RecipeError(f"{path}: the model's parameter {parameter_name} {unusable[0]}.", unusable[1])
    if not any(parameter.requires_grad for parameter in recipe.model.parameters()):
        raise RecipeError(f"{path}: the model has no parameter to train.", "At least one must require a gradient.")
    return recipe


def _has_items(data: object) -> bool:
    """Whether data can be asked for a sample by its number; the ``__getitem__`` of torch's base class only raises."""
    from torch.utils.data import Dataset, IterableDataset

    if isinstance(data, IterableDataset):
        return False
    own = getattr(type(data), "__getitem__", None)
    return hasattr(data, "__getitems__") or (own is not None and own is not Dataset.__getitem__)


def _unusable(parameter: "nn.Parameter") -> tuple[str, str] | None:
    """Why a parameter cannot be trained by anyone, and what to do; None: it can."""
    from torch import strided
    from torch.nn.parameter import is_lazy

    if is_lazy(parameter):
        return "has no shape yet", "Run the model once on a sample in build(): lazy layers get their shapes then."
    if parameter.is_meta:
        return "is on the meta device and has no values", "Build the model on the CPU."
    if parameter.layout != strided:
        return f"is a sparse tensor ({str(parameter.layout).removeprefix('torch.')})", "Make it dense, or a buffer."
    return None
