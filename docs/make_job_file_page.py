"""Writes docs/job-file.md from the models of the job file; a test compares the two. `make docs` runs it.

Each section of the file is a table. A section of several kinds, chosen by its ``name``, is a table of the keys that all
kinds have, and a table for each kind. Lengths (``Length``, ``Point``) are explained once.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from scaler.core.optimizers import NAMED_OPTIMIZERS
from scaler.core.rules import choose_rule
from scaler.errors import PlanError
from scaler.job import Job
from scaler.job.optimizer import Optimizer
from scaler.job.section import MOST, MOST_EPOCHS, Length, Point

PAGE = Path(__file__).parent / "job-file.md"

INTRO = """# The job file

A job file describes one training: the reference that was tuned, the number of workers, and the length. It is YAML.

`make docs` writes this page from the models in `scaler/job/`. `scaler schema` prints the same as JSON Schema, for
completion in editors: `scaler schema > job.schema.json`, and `# yaml-language-server: $schema=job.schema.json` as the
first line of the job file.

An unknown key is an error that names the nearest known key.
"""

LENGTHS = """
## Lengths

A length or a point of training has exactly one unit, such as `{epochs: 2}`. scaler converts it to samples: an epoch is
the training set once, a step is the global batch at the start of training. `fraction` is allowed only where a table
lists it.

"""

Fields = Mapping[str, FieldInfo]


def page() -> str:
    """Return the page."""
    lengths = [f"| `{name}` | {_cell(field.description)} | {_takes(Point, name, 'x')} |" for name, field in _of(Point)]
    table = "\n".join(["| key | meaning | takes |", "|---|---|---|", *lengths])
    return INTRO + LENGTHS + table + "\n" + "".join(_section("", Job))


def _of(model: type[BaseModel]) -> list[tuple[str, FieldInfo]]:
    return list(model.model_fields.items())


def _section(path: str, model: type[BaseModel]) -> Iterator[str]:
    """Yield a section's table, then the tables of the sections in it."""
    yield _heading(path) + _doc(model) + _table(path, model, model.model_fields)
    if model is Optimizer:
        yield _optimizers()
    yield from _inner(path, model.model_fields)


def _inner(path: str, fields: Fields) -> Iterator[str]:
    for name, field in fields.items():
        models = [model for model in _models(field.annotation) if model not in (Length, Point)]
        there = f"{path}.{name}" if path else name
        if models == [Optimizer] and there != "reference.optimizer":
            continue  # explained there
        if len(models) > 1:
            yield from _kinds(there, models, field)
        elif models:
            yield from _section(there, models[0])


def _kinds(path: str, kinds: list[type[BaseModel]], field: FieldInfo) -> Iterator[str]:
    """Yield the keys that all kinds have, then each kind, then the sections in them."""
    first = kinds[0]
    shared = {
        name: of_first
        for name, of_first in _of(first)
        if name != "name" and all(_same(kind.model_fields.get(name), of_first) for kind in kinds)
    }
    names = ", ".join(f"`{_name(kind)}`" for kind in kinds)
    default = "required" if field.default is None else _default(first.model_fields["name"])
    head = [f"| `name` | One of the kinds below. | {names} | {default} |"]
    yield _heading(path) + f"{field.description}\n\n" + _table(path, first, shared, head)
    own: dict[str, FieldInfo] = {}
    for kind in kinds:
        mine = {name: value for name, value in _of(kind) if name != "name" and name not in shared}
        of_its_own = [name for name in mine if name in kind.__annotations__]  # before what it shares with some
        mine = {name: mine[name] for name in dict.fromkeys((*of_its_own, *mine))}
        own |= mine
        text = f"\n### `name: {_name(kind)}`\n\n{_doc(kind)}" + (_table(path, kind, mine) if mine else "")
        yield text.rstrip() + "\n"
    yield from _inner(path, {**shared, **own})


def _same(one: FieldInfo | None, other: FieldInfo) -> bool:
    return one is not None and (one.description, one.default) == (other.description, other.default)


def _name(kind: type[BaseModel]) -> str:
    return str(get_args(kind.model_fields["name"].annotation)[0])


def _heading(path: str) -> str:
    return f"\n## `{path}`\n\n" if path else "\n## Top level\n\n"


def _doc(model: type[BaseModel]) -> str:
    return f"{(model.__doc__ or '').strip().replace('``', '`')}\n\n"


def _table(path: str, model: type[BaseModel], fields: Fields, head: list[str] | None = None) -> str:
    rows = [
        f"| `{name}` | {_cell(field.description)} | {_cell(_takes(model, name, path))} | {_default(field)} |"
        for name, field in fields.items()
    ]
    return "\n".join(["| key | meaning | takes | default |", "|---|---|---|---|", *(head or []), *rows]) + "\n"


def _optimizers() -> str:
    rows = []
    for name, facts in NAMED_OPTIMIZERS.items():
        keys = ", ".join(f"`{key}: {_yaml(value)}`" for key, value in facts.defaults.items())
        rows.append(f"| `{name}` | `{facts.path}` | {_auto(name)} | {keys} |")
    table = "\n".join(["| name | class | `rule: auto` | keys and their defaults |", "|---|---|---|---|", *rows])
    extra = "Classes of `pytorch_optimizer` need `pip install scaler[optimizers]`."
    return f"\nOptimizers with a name of one word. {extra}\n\n{table}\n"


def _auto(optimizer: str) -> str:
    try:
        return f"`{choose_rule('auto', optimizer=optimizer)[0]}`"
    except PlanError:
        return "unknown: give a rule"


def _models(annotation: Any) -> list[type[BaseModel]]:
    """Return the models that an annotation names, each once."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return list(dict.fromkeys(model for argument in get_args(annotation) for model in _models(argument)))


def _takes(model: type[BaseModel], name: str, path: str) -> str:
    """Return what a key takes, from its JSON Schema; sections link to their tables."""
    path = "reference" if name == "optimizer" else path
    anchor = "".join(letter for letter in f"{path}.{name}" if letter.isalnum() or letter == "_")
    return _kind_of(model.model_json_schema()["properties"][name], anchor)


def _kind_of(schema: Any, anchor: str) -> str:
    for several in ("anyOf", "oneOf"):
        if several in schema:
            parts = (_kind_of(part, anchor) for part in schema[several] if part.get("type") != "null")
            return " or ".join(dict.fromkeys(parts))
    if "$ref" in schema:
        kinds = {"Length": "[a length](#lengths)", "Point": "[a length](#lengths) or fraction"}
        return kinds.get(schema["$ref"].rpartition("/")[2], f"[keys](#{anchor})")
    if "enum" in schema or "const" in schema:
        return ", ".join(f"`{_yaml(word)}`" for word in schema.get("enum", [schema.get("const")]))
    match schema["type"]:
        case "array":
            return "list of " + _kind_of(schema["items"], anchor).replace("[a length]", "[lengths]")
        case "integer" | "number" as kind:
            signs = {"exclusiveMinimum": ">", "minimum": ">=", "exclusiveMaximum": "<", "maximum": "<="}
            bounds = [f"{sign} {_yaml(schema[key])}" for key, sign in signs.items() if _is_shown(schema, key)]
            return " ".join(["whole number" if kind == "integer" else "number", " and ".join(bounds)]).strip()
        case kind:
            return {"string": "text", "boolean": "`true` or `false`", "object": "keys"}[kind]


def _is_shown(schema: Any, bound: str) -> bool:
    """Return whether the page shows a bound; the largest numbers of samples and epochs are left out."""
    return bound in schema and not (bound == "maximum" and schema[bound] in (MOST, MOST_EPOCHS))


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True) if field.default is PydanticUndefined else field.default
    if isinstance(value, BaseModel):
        given = value.model_dump(exclude_defaults=True)
        named = {"name": value.name} if "name" in type(value).model_fields else {}  # type: ignore[attr-defined]
        return f"`{_yaml(named | given)}`" if named or given else "its defaults"
    return f"`{_yaml(value)}`"


def _yaml(value: Any) -> str:
    match value:
        case dict():
            return "{" + ", ".join(f"{key}: {_yaml(inner)}" for key, inner in value.items()) + "}"
        case tuple() | list():
            return "[" + ", ".join(map(_yaml, value)) + "]"
        case bool():
            return str(value).lower()
        case float():
            return f"{value:.0f}" if value.is_integer() and abs(value) < 1e15 else f"{value:g}"
        case _:
            return "null" if value is None else str(value)


def _cell(text: str | None) -> str:
    return (text or "").replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(page())
