"""The blocks of a model: the modules that repeat, or those that a job names."""

from collections.abc import Sequence, Set
from fnmatch import fnmatchcase

from torch import nn

from scaler.core.nearest import did_you_mean
from scaler.errors import RecipeError
from scaler.training.model.names import plain_name


def repeated_modules(model: nn.Module) -> set[nn.Module]:
    """Return modules with parts of their own that stand together with another one of their class.

    They stand together in an ``nn.ModuleList`` or ``nn.Sequential``. The result is empty if there are none.
    """
    found: set[nn.Module] = set()
    for container in model.modules():
        if isinstance(container, nn.ModuleList | nn.Sequential):
            parts = [part for part in container if next(part.children(), None) is not None]
            classes = [type(part) for part in parts]
            found.update(part for part in parts if classes.count(type(part)) > 1)
    return found


def modules_of_classes(model: nn.Module, names: Sequence[str], *, key: str) -> set[nn.Module]:
    """Return the modules of classes with these names.

    Args:
        model: not wrapped.
        names: of classes, each of at least one module.
        key: of the job that has the names.

    Raises:
        RecipeError: no module has one of the classes.
    """
    known = class_names(model)
    for name in names:
        if name not in known:
            raise RecipeError(
                f"{key}: the model has no module of the class {name}.",
                f"{did_you_mean(name, known)}The model's classes: {', '.join(known)}.",
            )
    return {module for module in model.modules() if type(module).__name__ in names}


def modules_that_match(model: nn.Module, wanted: Sequence[str], *, key: str) -> set[nn.Module]:
    """Return the modules of classes with these names, and those whose own name matches a pattern such as ``layers.*``.

    As in a path, ``*`` stands for one part of a name: ``layers.*`` is each layer, and not what is inside of it.

    Args:
        model: not wrapped.
        wanted: names of classes, or patterns of names; each fits at least one module.
        key: of the job that has them.

    Raises:
        RecipeError: no module fits one of them.
    """
    named = {plain_name(name): module for name, module in model.named_modules() if name}
    patterns = [each for each in wanted if any(_matches(name, each) for name in named)]
    by_name = {module for name, module in named.items() if any(_matches(name, pattern) for pattern in patterns)}
    return by_name | modules_of_classes(model, [each for each in wanted if each not in patterns], key=key)


def _matches(name: str, pattern: str) -> bool:
    parts, patterns = name.split("."), pattern.split(".")
    return len(parts) == len(patterns) and all(map(fnmatchcase, parts, patterns))


def class_names(model: nn.Module) -> list[str]:
    """Return the names of the classes of a model's modules, each once."""
    return list(dict.fromkeys(type(module).__name__ for module in model.modules()))


def outermost(model: nn.Module, wanted: Set[nn.Module]) -> dict[str, nn.Module]:
    """Return the wanted modules that are not inside another one, by name; a module in two places has one name."""
    found: dict[str, nn.Module] = {}
    for name, module in model.named_modules():
        if module in wanted and not any(name.startswith(f"{outer}." if outer else "") for outer in found):
            found[name] = module
    return found
