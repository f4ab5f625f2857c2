"""From a YAML file to a ``Job``, with every error in the words of the file."""

import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import yaml
from pydantic import BaseModel, Tag, ValidationError
from pydantic_core import ErrorDetails

from scaler.errors import JobFileError
from scaler.job.model import Job

MAX_JOB_FILE_BYTES = 1_000_000


class _JobLoader(yaml.SafeLoader):
    """PyYAML's safe loader without duplicate keys and aliases, and with YAML 1.2's numbers and booleans."""

    yaml_implicit_resolvers = {  # noqa: RUF012 (PyYAML's own attribute)
        first: [(tag, regexp) for tag, regexp in resolvers if tag.endswith(":null")]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.MarkedYAMLError(problem="aliases (*name) are not read", problem_mark=mark)
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if getattr(event, "tag", None) is not None:
            raise yaml.MarkedYAMLError(problem="tags (!name) are not read", problem_mark=event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[object] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise yaml.MarkedYAMLError(problem=f"the key {key!r} is not text", problem_mark=key_node.start_mark)
            if key in seen:
                raise yaml.MarkedYAMLError(problem=f'the key "{key}" appears twice', problem_mark=key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep=deep)

    def construct_int(self, node: yaml.ScalarNode) -> int:
        return int(node.value, 0 if node.value[:2] in ("0o", "0x") else 10)


# YAML 1.1 reads 1e-3 as text, 010 as 8, 1:30 as 90 and "no" as false; YAML 1.2 reads them as people mean them.
_JobLoader.add_constructor("tag:yaml.org,2002:int", _JobLoader.construct_int)
_JobLoader.add_implicit_resolver(
    "tag:yaml.org,2002:int", re.compile(r"([-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)$"), list("-+0123456789")
)
_JobLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$|[-+]?\.(inf|Inf|INF)$|\.(nan|NaN|NAN)$"),
    list("-+0123456789."),
)
_JobLoader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"(true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)


class _JobDumper(yaml.SafeDumper):
    """PyYAML's safe dumper; quotes text that ``_JobLoader`` would read as something else."""


for _first, _resolvers in _JobLoader.yaml_implicit_resolvers.items():
    for _tag, _regexp in _resolvers:
        _JobDumper.add_implicit_resolver(_tag, _regexp, [_first])


def dump_job(job: Job) -> str:
    """Return a job as the YAML that ``read_job`` reads back."""
    return yaml.dump(job.model_dump(mode="json"), Dumper=_JobDumper, sort_keys=False)


def read_job(raw: bytes, *, source: str) -> Job:
    """Return the job that a file's content describes; ``source`` names it in errors."""
    return parse_job(_read_yaml(raw, source=source), source=source)


def load_job(path: Path, *, overrides: Sequence[str] = (), workers: int | None = None) -> Job:
    """Read a job file.

    Args:
        path: the YAML file.
        overrides: ``key.key=value`` texts, the value in YAML; later ones win.
        workers: instead of ``scale.num_workers``.

    Raises:
        JobFileError: the file cannot be read, or is not a job; names the file, the key and the remedy.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_JOB_FILE_BYTES + 1)
    except OSError as error:
        raise JobFileError(
            f"{path}: cannot be read: {error.strerror}.", "scaler submit takes the path of a job file."
        ) from error
    if len(raw) > MAX_JOB_FILE_BYTES:
        raise JobFileError(f"{path}: larger than {MAX_JOB_FILE_BYTES:,} bytes.", "A job file is a page of YAML.")
    if workers is not None:
        overrides = [*overrides, f"scale.num_workers={workers}"]
    return parse_job(apply_overrides(_read_yaml(raw, source=str(path)), overrides), source=str(path))


def parse_job(values: Mapping[str, Any], *, source: str) -> Job:
    """Return the job that ``values`` describe; ``source`` names them in errors."""
    try:
        return Job.model_validate(values)
    except ValidationError as error:
        texts = [_explain(details) for details in _causes(error.errors(include_url=False))]
        if len(texts) == 1:
            raise JobFileError(f"{source}: {texts[0][0]}", texts[0][1]) from None
        lines = [line for text, remedy in texts for line in (text, *(f"  {row}" for row in remedy.splitlines()))]
        raise JobFileError(f"{source}: {len(texts)} problems.", "\n".join(lines)) from None


def apply_overrides(values: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Return ``values`` with each ``key.key=value`` put in, making sections that are not there.

    Example:
        >>> apply_overrides({"train": {"seed": 0}}, ["train.seed=1", "resources.cpus_per_worker=2"])
        {'train': {'seed': 1}, 'resources': {'cpus_per_worker': 2}}
    """
    result = _copied(values)
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not all(key.split(".")):
            raise JobFileError(f"--set {override} is not KEY=VALUE.", "Such as --set train.epochs=3.")
        *sections, last = key.split(".")
        section = result
        for name in sections:
            inner = section.setdefault(name, {})
            if not isinstance(inner, dict):
                raise JobFileError(f"--set {override}: {name} holds {_shown(inner)}, no keys.", "Set it as a whole.")
            section = inner
        section[last] = _parse(text, source=f"--set {override}")
    return result


def _copied(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _copied(value) if isinstance(value, Mapping) else value for key, value in values.items()}


def _read_yaml(raw: bytes, *, source: str) -> Mapping[str, Any]:
    values = _parse(raw, source=source)
    if not isinstance(values, dict):
        what = "empty" if values is None else f"a {type(values).__name__}, not keys and values"
        raise JobFileError(f"{source}: is {what}.", "scaler init DIR writes a job file that runs as it is.")
    return values


def _parse(raw: bytes | str, *, source: str) -> Any:
    try:
        return yaml.load(raw, Loader=_JobLoader)  # a SafeLoader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f" line {mark.line + 1}, column {mark.column + 1}:" if mark else ""
        raise JobFileError(f"{source}:{place} {error.problem}.", "The file is YAML; indent with blanks.") from None
    except (yaml.YAMLError, UnicodeDecodeError, ValueError) as error:
        raise JobFileError(f"{source}: is not YAML: {' '.join(str(error).split())}.", "") from None
    except RecursionError:
        raise JobFileError(f"{source}: is nested too deep.", "A job file nests three levels.") from None


def _causes(errors: Sequence[ErrorDetails]) -> list[ErrorDetails]:
    """Errors without those that others bring about: a list is "too short" when one of its items is wrong."""

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
    if loc[:1] == ["recipe_args"]:  # its keys are the user's own
        loc = loc[:1]
    last = len(loc) - 1 if details["type"] == "extra_forbidden" else -1  # a key of the file, however it looks
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
            return f"{name or 'a key'} is not text that can be written.", "Leave out \\ud800 to \\udfff."
        case "missing":
            return f'the key "{keys[-1]}" is missing{f" in {section}" if section else ""}.', _describe(loc)
        case "union_tag_invalid":  # a section that comes in several kinds, by its name
            choices = [tag.strip("<>") for tag in _tags(_annotation(loc))]
            if not isinstance(value, dict):
                return f"{name} = {_shown(value)} must hold keys and values.", _describe(loc)
            return _not_one_of(f"{name}.name", value.get("name"), choices, otherwise=_describe(loc))
        case "literal_error":
            return _not_one_of(name, value, _words(_annotation(loc)), otherwise=_describe(loc))
        case "greater_than" | "greater_than_equal" | "less_than" | "less_than_equal":
            sign, bound = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}, next(iter(context.items()))
            return f"{name} = {_shown(value)} must be {sign[bound[0]]} {bound[1]:g}.", _describe(loc)
        case "model_type" | "dict_type":
            return f"{name} = {_shown(value)} must hold keys and values.", _describe(loc)
        case "too_short" | "string_too_short":
            shown = _shown(value) or '""'
            return f"{name} = {shown} is too short.", _describe(loc)
        case kind:
            shown = f'"{_shown(value)}"' if isinstance(value, str) else _shown(value)
            return f"{name} = {shown} is not {_wanted(kind, details['msg'])}.", _describe(loc)


def _wanted(kind: str, message: str) -> str:
    """What a value should have been, from the kind of pydantic's error."""
    kinds = {"finite": "a finite number", "int": "a whole number", "float": "a number", "bool": "true or false"}
    kinds |= {"string": "text", "tuple": "a list"}
    return next((text for start, text in kinds.items() if kind.startswith(start)), f"usable: {message}")


def _shown(value: object) -> str:
    """A value as the file has it, cut to a width that an error line bears."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _not_one_of(name: str, value: object, choices: Sequence[str], *, otherwise: str) -> tuple[str, str]:
    nearest = _nearest(str(value), choices)
    return f"{name} = {_shown(value)} is not one of {', '.join(choices)}.", nearest or otherwise


def _unknown_key(key: str, *, section: str, known: Sequence[str]) -> tuple[str, str]:
    where = f" in {section}" if section else ""
    remedy = " ".join(filter(None, [_nearest(key, known), f"Known keys: {', '.join(known)}."]))
    return f'unknown key "{key}"{where}.', remedy


def _nearest(word: str, known: Sequence[str]) -> str:
    near = get_close_matches(word, known, n=1, cutoff=0.6)
    return f'Did you mean "{near[0]}"?' if near else ""


# The place of an error in the models: keys, positions in lists, and the tags of sections that come in several kinds.


def _annotation(loc: Sequence[str]) -> Any:
    """The annotation at a place."""
    found: Any = Job
    for part in loc:
        if part.startswith("<"):
            found = _tags(found)[part]
        elif not part.isdigit():
            found = _models_in(found)[0].model_fields[part].annotation
    return found


def _section(loc: Sequence[str]) -> type[BaseModel]:
    return _models_in(_annotation(loc))[0]


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    """The models that an annotation names, through unions and ``Annotated``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in get_args(annotation) for model in _models_in(argument)]


def _tags(annotation: Any) -> dict[str, Any]:
    """The kinds of a union, by tag."""
    inner, *notes = get_args(annotation) if get_origin(annotation) is Annotated else (annotation,)
    tags = [note.tag for note in notes if isinstance(note, Tag)]
    if tags:
        return {tags[0]: inner}
    return {tag: kind for part in get_args(inner) for tag, kind in _tags(part).items()}


def _words(annotation: Any) -> list[str]:
    """The words that an annotation takes."""
    if isinstance(annotation, bool):
        return [_shown(annotation)]
    if isinstance(annotation, str):
        return [annotation]
    return [] if isinstance(annotation, type) else [word for part in get_args(annotation) for word in _words(part)]


def _describe(loc: Sequence[str]) -> str:
    """What the key at a place is for."""
    keys = [part for part in loc if not part.startswith("<") and not part.isdigit()]
    last = len(loc) - 1 - loc[::-1].index(keys[-1])
    field = _section(loc[:last]).model_fields.get(keys[-1])
    return f"{'.'.join(keys)}: {field.description}" if field is not None and field.description else ""
