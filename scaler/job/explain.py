"""From pydantic's validation errors to problems and remedies in the terms of the job file."""

from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from typing import Annotated, Any, get_args, get_origin

from pydantic import BaseModel, Tag, ValidationError
from pydantic_core import ErrorDetails

from scaler.core.nearest import did_you_mean, same_names
from scaler.job.model import Job
from scaler.job.offers import lists_for, mappings_for, number_in
from scaler.job.reading import shortened

_model: ContextVar[type[BaseModel]] = ContextVar("model", default=Job)  # of the file whose problems are explained


def problems(error: ValidationError, model: type[BaseModel] = Job) -> list[tuple[str, str]]:
    """Return each problem of a file with its remedy, without consequences of other problems.

    Args:
        error: of the file's model.
        model: of the whole file.
    """
    before = _model.set(model)
    try:
        return [_explain(details) for details in _causes(error.errors(include_url=False))]
    finally:
        _model.reset(before)


def _causes(errors: Sequence[ErrorDetails]) -> list[ErrorDetails]:
    """Return the errors without consequences of others: a list is "too short" when one of its items is wrong."""

    def is_inside(other: ErrorDetails, details: ErrorDetails) -> bool:
        loc = details["loc"]
        return len(other["loc"]) > len(loc) and other["loc"][: len(loc)] == loc

    return [
        details
        for details in errors
        if details["type"] != "too_short" or not any(is_inside(other, details) for other in errors)
    ]


def _explain(details: ErrorDetails) -> tuple[str, str]:
    """Return one validation error as a problem and its remedy."""
    loc = [str(part) for part in details["loc"]]
    loc = _without_free_keys(loc)
    last = (
        len(loc) - 1 if details["type"] == "extra_forbidden" else -1
    )  # a key of the file, even if it looks like a tag
    keys = [part for index, part in enumerate(loc) if index == last or not part.startswith("<")]
    name, value, context = ".".join(keys), details["input"], details.get("ctx", {})
    section = ".".join(keys[:-1])
    match details["type"]:
        case "scaler":
            return f"{name} {context['problem']}".strip(), context["remedy"]
        case "extra_forbidden":
            known = list(_section(loc[:-1]).model_fields)
            return _unknown_key(keys[-1], section=section, known=known)
        case "string_unicode":
            return f"{name or 'a key'} has characters that UTF-8 cannot encode.", "Leave out \\ud800 to \\udfff."
        case "missing":
            return f'the key "{keys[-1]}" is missing{f" in {section}" if section else ""}.', _describe(loc)
        case "union_tag_invalid":  # a section that comes in several kinds, by its name
            choices = [tag.strip("<>") for tag in _tags(_annotation(loc))]
            if not isinstance(value, dict):
                return _not_keys(name, loc, value)
            return _not_one_of(f"{name}.name", value.get("name"), choices, otherwise=_describe(loc))
        case "literal_error":
            words = _words(_annotation(loc))
            if offers := mappings_for(_kinds(loc), value) if _kinds(loc) else []:
                return f"{name} = {shortened(value)} is neither {' nor '.join(words)} nor keys and values.", _write(
                    loc, offers
                )
            if loc[-1] == "<word>" and "<number>" in _tags(_annotation(loc[:-1])):
                return f"{name} = {shortened(value)} is neither a whole number nor {', '.join(words)}.", _describe(loc)
            return _not_one_of(name, value, words, otherwise=_describe(loc))
        case "greater_than" | "greater_than_equal" | "less_than" | "less_than_equal":
            sign, bound = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}, next(iter(context.items()))
            return f"{name} = {shortened(value)} must be {sign[bound[0]]} {bound[1]:g}.", _describe(loc)
        case "model_type" | "dict_type":
            return _not_keys(name, loc, value)
        case "tuple_type":
            offers = lists_for(_models_in(_annotation(loc)), value)
            return f"{name} = {shortened(value)} is not a list.", _write(loc, offers) if offers else _describe(loc)
        case "int_type" if isinstance(value, float) and value.is_integer():
            return f"{name} = {shortened(value)} is not written as a whole number.", f"Write {int(value)}."
        case "int_type" | "float_type" if isinstance(value, str) and number_in(value) is not None:
            wanted = _wanted(details["type"], "")
            return f'{name} = "{shortened(value)}" is text, not {wanted}.', f"Write {number_in(value)}, without quotes."
        case "too_short" | "string_too_short":
            shown = shortened(value) or '""'
            return f"{name} = {shown} is too short.", _describe(loc)
        case kind:
            shown = f'"{shortened(value)}"' if isinstance(value, str) else shortened(value)
            return f"{name} = {shown} is not {_wanted(kind, details['msg'])}.", _describe(loc)


def _wanted(kind: str, message: str) -> str:
    """Return what a value should be, from the kind of pydantic's error."""
    kinds = {"finite": "a finite number", "int": "a whole number", "float": "a number", "bool": "true or false"}
    kinds |= {"string": "text", "tuple": "a list"}
    return next((text for start, text in kinds.items() if kind.startswith(start)), f"usable: {message}")


def _not_keys(name: str, loc: Sequence[str], value: object) -> tuple[str, str]:
    """Return the problem of a value in the place of a section, and the section to write."""
    models = _kinds(loc) if loc else []
    offers = mappings_for(models, value) if models else []
    return f"{name} = {shortened(value)} must be keys and values.", _write(loc, offers) if offers else _describe(loc)


def _kinds(loc: Sequence[str]) -> list[type[BaseModel]]:
    """Return all models that are allowed at a place, also when the error is about one of them."""
    return _models_in(_annotation(loc[:-1] if loc[-1].startswith("<") else loc))


def _write(loc: Sequence[str], offers: Sequence[str]) -> str:
    """Return what to write at a place."""
    key = next(part for part in reversed(loc) if not part.startswith("<"))
    either = " or ".join(filter(None, [", ".join(offers[:-1]), offers[-1]]))
    return f"Write {either}." if key.isdigit() else f"Write {key}: {either}."


def _not_one_of(name: str, value: object, choices: Sequence[str], *, otherwise: str) -> tuple[str, str]:
    hint = did_you_mean(str(value), choices).rstrip()
    return f"{name} = {shortened(value)} is not one of {', '.join(choices)}.", hint or otherwise


def _unknown_key(key: str, *, section: str, known: Sequence[str]) -> tuple[str, str]:
    where = f" in {section}" if section else ""
    hint = did_you_mean(key, known) or _of_another_section(key)
    return f'unknown key "{shortened(key)}"{where}.', f"{hint}Known keys: {', '.join(known)}."


def places(word: str) -> list[str]:
    """Return the keys of a job, with their sections, that have a name, also in another spelling or another library's.

    Example:
        >>> [places(word) for word in ("storage", "learning-rate", "epochs", "nodes")]
        [['storage'], ['reference.lr'], ['reference.epochs', 'train.epochs'], []]
    """
    found = list(_places())
    names = same_names(word, dict.fromkeys(key for _, key in found))
    return [f"{section}.{key}".lstrip(".") for section, key in found if key in names]


def _places() -> Iterator[tuple[str, str]]:
    """Yield each key of the file and each key of its sections, with the section's name, or an empty one."""
    sections = _model.get().model_fields.items()
    yield from (("", name) for name, _ in sections)
    for section, field in sections:
        for model in _models_in(field.annotation)[:1]:
            yield from ((section, key) for key in model.model_fields if key != "name")


def _of_another_section(key: str) -> str:
    """Return the place of a key with this name, if exactly one section has it."""
    places = [f"{section}.{name}" for section, name in _places() if section and name == key]
    return f"It is a key of another section: {places[0]}. " if len(places) == 1 else ""


# The place of an error in the models: keys, positions in lists, and the tags of sections of several kinds.


def _without_free_keys(loc: Sequence[str]) -> list[str]:
    """Return a place up to the mapping whose keys the user chooses, such as ``recipe_args``."""
    for length in range(1, len(loc)):
        inside = loc[length]
        models = _models_in(_annotation(loc[:length])) if not inside.startswith("<") else []
        if not models and not inside.isdigit() and not inside.startswith("<"):
            return list(loc[:length])
    return list(loc)


def _annotation(loc: Sequence[str]) -> Any:
    """Return the annotation at a place."""
    found: Any = _model.get()
    for part in loc:
        if part.startswith("<"):
            found = _tags(found)[part]
        elif get_origin(found) is dict:  # the user chooses its keys
            found = get_args(found)[1]
        elif not part.isdigit():
            found = _models_in(found)[0].model_fields[part].annotation
    return found


def _section(loc: Sequence[str]) -> type[BaseModel]:
    return _models_in(_annotation(loc))[0]


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    """Return the models that an annotation names, through unions and ``Annotated``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in get_args(annotation) for model in _models_in(argument)]


def _tags(annotation: Any) -> dict[str, Any]:
    """Return the kinds of a union, by tag."""
    inner, *notes = get_args(annotation) if get_origin(annotation) is Annotated else (annotation,)
    tags = [note.tag for note in notes if isinstance(note, Tag)]
    if tags:
        return {tags[0]: inner}
    return {tag: kind for part in get_args(inner) for tag, kind in _tags(part).items()}


def _words(annotation: Any) -> list[str]:
    """Return the words that an annotation allows."""
    if isinstance(annotation, bool):
        return [shortened(annotation)]
    if isinstance(annotation, str):
        return [annotation]
    return [] if isinstance(annotation, type) else [word for part in get_args(annotation) for word in _words(part)]


def _describe(loc: Sequence[str]) -> str:
    """Return the key at a place and its description."""
    keys = [part for part in loc if not part.startswith("<") and not part.isdigit()]
    last = len(loc) - 1 - loc[::-1].index(keys[-1])
    field = _section(loc[:last]).model_fields.get(keys[-1])
    return f"{'.'.join(keys)}: {field.description}" if field is not None and field.description else ""
