"""Writes docs/job-file.md from the models of the job file; a test compares the two. `make docs` runs it."""

from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from scaler.job import Job

PAGE = Path(__file__).parent / "job-file.md"

INTRO = """# The job file

Made from the models in `scaler/job/model.py` by `make docs`. `scaler schema` prints the same as JSON Schema, for
editors: `scaler schema > job.schema.json`, then a first line `# yaml-language-server: $schema=job.schema.json` in the
job.

Unknown keys are refused. Lengths (`warmup`, `eval_every`, `every`) take exactly one unit, such as `{epochs: 2}`.
"""


def page() -> str:
    """Return the page."""
    return INTRO + "".join(_sections("", Job))


def _sections(prefix: str, model: type[BaseModel]) -> list[str]:
    """A table for a section, then those of the sections in it."""
    title = f"`{prefix}`" if prefix else "Top level"
    rows = ["| key | meaning | range | default |", "|---|---|---|---|"]
    properties = model.model_json_schema()["properties"]
    inner: list[str] = []
    for name, field in model.model_fields.items():
        rows.append(
            f"| `{name}` | {_cell(field.description)} | {_cell(_range(properties[name]))} | {_default(field)} |"
        )
        for nested in _models(field.annotation):
            inner += _sections(f"{prefix}.{name}" if prefix else name, nested)
    doc = (model.__doc__ or "").strip()
    return [f"\n## {title}\n\n{doc}\n\n" + "\n".join(rows) + "\n", *inner]


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in get_args(annotation) for model in _models(argument)]


def _range(schema: Any) -> str:
    """What a key takes, from its JSON Schema."""
    if "anyOf" in schema:
        return " or ".join(_range(part) for part in schema["anyOf"] if part.get("type") != "null")
    if "oneOf" in schema:
        return " or ".join(_range(part) for part in schema["oneOf"])
    if "$ref" in schema or schema.get("type") == "object":
        return "keys"
    if "enum" in schema or "const" in schema:
        return ", ".join(f"`{word}`" for word in schema.get("enum", [schema.get("const")]))
    signs = {"exclusiveMinimum": ">", "minimum": ">=", "exclusiveMaximum": "<", "maximum": "<="}
    bounds = [f"{sign} {schema[key]:g}" for key, sign in signs.items() if key in schema]
    return " ".join([{"integer": "whole", "number": "number", "string": "text"}[schema["type"]], *bounds])


def _default(field: Any) -> str:
    if field.is_required():
        return "required"
    value = field.default_factory() if field.default is PydanticUndefined else field.default
    if isinstance(value, BaseModel):
        given = value.model_dump(exclude_defaults=True)
        return f"`{_yaml(given)}`" if given else "the defaults below"
    return f"`{_yaml(value)}`"


def _yaml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_yaml(inner)}" for key, inner in value.items()) + "}"
    return "null" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _cell(text: str | None) -> str:
    return (text or "").replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(page())
