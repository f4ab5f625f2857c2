"""From a YAML file to a ``Job``, with every error in the words of the file."""

import os
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import yaml
from pydantic import BaseModel, Tag, ValidationError
from pydantic_core import ErrorDetails

from scaler.errors import JobFileError
from scaler.job.model import Job
from scaler.masking import MASK, mask_text, mask_values

MAX_JOB_FILE_BYTES = 100_000
MOST_LEVELS = 30
MOST_DIGITS = 100
MOST_PROBLEMS = 10  # said at once; who has more has another file than a job
TOO_DEEP = "A job file nests three levels."


_NESTED = "this is nested too deep"


class _JobLoader(yaml.SafeLoader):
    """PyYAML's safe loader without duplicate keys and aliases, and with YAML 1.2's numbers and booleans."""

    yaml_implicit_resolvers = {  # noqa: RUF012 (PyYAML's own attribute)
        first: [(tag, regexp) for tag, regexp in resolvers if tag.endswith(":null")]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    _level = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.MarkedYAMLError(problem="aliases (*name) are not read", problem_mark=mark)
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if getattr(event, "tag", None) is not None:
            raise yaml.MarkedYAMLError(problem="tags (!name) are not read", problem_mark=event.start_mark)
        if self._level > MOST_LEVELS:
            raise yaml.MarkedYAMLError(problem=_NESTED, problem_mark=event.start_mark)
        self._level += 1
        node = super().compose_node(parent, index)
        self._level -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[object] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise yaml.MarkedYAMLError(
                    problem=f"the key {_shown(key)} is not text", problem_mark=key_node.start_mark
                )
            if key in seen:
                raise yaml.MarkedYAMLError(
                    problem=f'the key "{_shown(key)}" appears twice', problem_mark=key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep=deep)

    def construct_int(self, node: yaml.ScalarNode) -> int:
        if len(node.value) > MOST_DIGITS:
            raise yaml.MarkedYAMLError(
                problem=f"{_shown(node.value)} has {len(node.value):,} digits, and {MOST_DIGITS} are read",
                problem_mark=node.start_mark,
            )
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
    """Return a job as the YAML that ``read_job`` reads back; secrets in it are ``***`` (``scaler.masking``)."""
    values = job.model_dump(mode="json")
    values |= {"recipe_args": mask_values(values["recipe_args"]), "storage": mask_text(values["storage"])}
    return yaml.dump(values, Dumper=_JobDumper, sort_keys=False)


def masked_keys(job: Job) -> list[str]:
    """Return the keys of ``recipe_args`` whose secrets ``dump_job`` left out: they must be given again to run the job.

    Example: ``["recipe_args.api_key"]``.
    """

    def found(value: object, key: str) -> Iterator[str]:
        if isinstance(value, Mapping):
            for name, part in value.items():
                yield from found(part, f"{key}.{name}")
        elif isinstance(value, str | list) and any(MASK in text for text in _texts_in(value)):
            yield key  # --set takes a list as a whole

    return list(found(job.recipe_args, "recipe_args"))


def _texts_in(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from _texts_in(part)


def read_job(raw: bytes, *, source: str) -> Job:
    """Return the job that a file's content describes; ``source`` names it in errors.

    Raises:
        JobFileError: it is not a job; names the key and the remedy.
    """
    return parse_job(_read_yaml(raw, source=source), source=source)


def load_job(path: Path, *, overrides: Sequence[str] = (), workers: int | None = None) -> Job:
    """Read a job file.

    Args:
        path: the YAML file.
        overrides: ``key.key=value`` texts, the value in YAML; later ones win.
        workers: instead of ``scale.num_workers``.

    Raises:
        JobFileError: the file cannot be read, is not a job, or is a run's copy of one with its secrets left out; names
            the file, the key and the remedy.
    """
    if workers is not None:
        overrides = [*overrides, f"scale.num_workers={workers}"]
    values = _read_yaml(_content(path), source=str(path))
    job = parse_job(apply_overrides(values, overrides), source=str(path))
    masked = [*masked_keys(job), *(["storage"] if MASK in job.storage else [])]
    if masked:
        raise JobFileError(
            f"{path}: {', '.join(masked)} {'is' if len(masked) == 1 else 'are'} masked.",
            f"A run's copy of its job has {MASK} for secrets; give them again: --set {masked[0]}=...",
        )
    return job


def _content(path: Path) -> bytes:
    """What a file holds, up to a byte more than is read; a pipe or a device is not waited for."""
    remedy = "scaler submit takes the path of a job file."
    try:
        number = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        with open(number, "rb") as file:
            if not stat.S_ISREG(os.fstat(number).st_mode):
                raise JobFileError(f"{path}: is no file, but a pipe or a device.", remedy)
            return file.read(MAX_JOB_FILE_BYTES + 1)
    except OSError as error:
        raise JobFileError(f"{path}: cannot be read: {error.strerror}.", remedy) from error


def parse_job(values: Mapping[str, Any], *, source: str) -> Job:
    """Return the job that ``values`` describe; ``source`` names them in errors."""
    try:
        return Job.model_validate(values)
    except ValidationError as error:
        texts = [_explain(details) for details in _causes(error.errors(include_url=False))]
        if len(texts) == 1:
            raise JobFileError(f"{source}: {texts[0][0]}", texts[0][1]) from None
        shown = texts[:MOST_PROBLEMS]
        lines = [line for text, remedy in shown for line in (text, *(f"  {row}" for row in remedy.splitlines()))]
        lines += [f"and {len(texts) - len(shown):,} more."] if len(texts) > len(shown) else []
        raise JobFileError(f"{source}: {len(texts):,} problems.", "\n".join(lines)) from None


def apply_overrides(values: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Return ``values`` with each ``key.key=value`` put in, making sections that are not there.

    Example:
        >>> apply_overrides({"train": {"seed": 0}}, ["train.seed=1", "resources.cpus_per_worker=2"])
        {'train': {'seed': 1}, 'resources': {'cpus_per_worker': 2}}
    """
    result = _copied(values)
    for override in overrides:
        key, equals, text = override.partition("=")
        shown = f"--set {_shown(override)}"
        if not equals or not all(key.split(".")):
            raise JobFileError(f"{shown} is not KEY=VALUE.", "Such as --set train.epochs=3.")
        if key.count(".") >= MOST_LEVELS:
            raise JobFileError(f"{shown}: is nested too deep.", TOO_DEEP)
        *sections, last = key.split(".")
        section = result
        for name in sections:
            inner = section.setdefault(name, {})
            if not isinstance(inner, dict):
                raise JobFileError(f"{shown}: {name} holds {_shown(inner)}, no keys.", "Set it as a whole.")
            section = inner
        section[last] = _parse(text, source=shown)
    return result


def _copied(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _copied(value) if isinstance(value, Mapping) else value for key, value in values.items()}


def _read_yaml(raw: bytes, *, source: str) -> Mapping[str, Any]:
    if len(raw) > MAX_JOB_FILE_BYTES:
        raise JobFileError(f"{source}: larger than {MAX_JOB_FILE_BYTES:,} bytes.", "A job file is a page of YAML.")
    values = _parse(raw, source=source)
    if not isinstance(values, dict):
        what = "empty" if values is None else f"a {type(values).__name__}, not keys and values"
        raise JobFileError(f"{source}: is {what}.", "scaler init DIR writes a job file that runs as it is.")
    return values


def _parse(raw: bytes | str, *, source: str) -> Any:
    try:
        return yaml.load(raw, Loader=_JobLoader)  # a SafeLoader
    except yaml.MarkedYAMLError as error:
        if error.problem is _NESTED:
            raise JobFileError(f"{source}: is nested too deep.", TOO_DEEP) from None
        mark = error.problem_mark
        place = f" line {mark.line + 1}, column {mark.column + 1}:" if mark else ""
        raise JobFileError(f"{source}:{place} {error.problem}.", "The file is YAML; indent with blanks.") from None
    except (yaml.YAMLError, UnicodeDecodeError, ValueError) as error:
        raise JobFileError(f"{source}: is not YAML: {' '.join(str(error).split())}.", "") from None


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
            words = _words(_annotation(loc))
            if loc[-1] == "<word>" and "<number>" in _tags(_annotation(loc[:-1])):
                return f"{name} = {_shown(value)} is neither a whole number nor {', '.join(words)}.", _describe(loc)
            return _not_one_of(name, value, words, otherwise=_describe(loc))
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
    return f'unknown key "{_shown(key)}"{where}.', remedy


def _nearest(word: str, known: Sequence[str]) -> str:
    near = get_close_matches(word[:60], known, n=1, cutoff=0.6)
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
