"""Read and write the YAML of job files: from a file or a text to plain values, and from values to text.

Numbers and booleans are those of YAML 1.2. Tags, aliases and duplicate keys are refused, and size and depth are
limited. ``load.py`` makes a job from the values.
"""

import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from scaler.errors import JobFileError

MAX_JOB_FILE_BYTES = 100_000
MOST_LEVELS = 30
MOST_DIGITS = 100
TOO_DEEP = "A job file nests three levels."

STAR = 'Quote text that begins with *, such as "*.bias".'

_NESTED = "this is nested too deep"


def read_file(path: Path) -> bytes:
    """Return the content of a file, at most one byte more than ``read_values`` allows; pipes and devices are refused.

    Raises:
        JobFileError: it cannot be read.
    """
    remedy = "scaler submit takes the path of a job file."
    try:
        number = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        with open(number, "rb") as file:
            if not stat.S_ISREG(os.fstat(number).st_mode):
                raise JobFileError(f"{path}: is not a file, but a pipe or a device.", remedy)
            return file.read(MAX_JOB_FILE_BYTES + 1)
    except OSError as error:
        raise JobFileError(f"{path}: cannot be read: {error.strerror}.", remedy) from error


def read_values(raw: bytes, *, source: str) -> Mapping[str, Any]:
    """Return the keys and values of a file's content; ``source`` names it in errors.

    Raises:
        JobFileError: it is too large, is not YAML, or is not keys and values.
    """
    if len(raw) > MAX_JOB_FILE_BYTES:
        raise JobFileError(f"{source}: larger than {MAX_JOB_FILE_BYTES:,} bytes.", "A job file is a page of YAML.")
    values = parse_yaml(raw, source=source)
    if not isinstance(values, dict):
        what = "empty" if values is None else f"a {type(values).__name__}, not keys and values"
        raise JobFileError(f"{source}: is {what}.", "scaler init DIR writes a job file that is ready to run.")
    return values


def parse_yaml(raw: bytes | str, *, source: str) -> Any:
    """Return the value that a YAML text describes.

    Raises:
        JobFileError: it is not the YAML of job files; names line and column.
    """
    try:
        return yaml.load(raw, Loader=_JobLoader)  # a SafeLoader
    except yaml.MarkedYAMLError as error:
        if error.problem is _NESTED:
            raise JobFileError(f"{source}: is nested too deep.", TOO_DEEP) from None
        mark = error.problem_mark
        place = f" line {mark.line + 1}, column {mark.column + 1}:" if mark else ""
        raise JobFileError(f"{source}:{place} {error.problem}.", error.note or _remedy(error)) from None
    except (yaml.YAMLError, UnicodeDecodeError, ValueError) as error:
        raise JobFileError(f"{source}: is not YAML: {' '.join(str(error).split())}.", "") from None


def _remedy(error: yaml.MarkedYAMLError) -> str:
    """Return what to write instead of text that PyYAML cannot read; mostly it needs quotes."""
    problem = str(error.problem)
    if str(error.context).endswith("an alias"):
        return STAR
    if problem.startswith("mapping values are not allowed"):
        return 'Quote text with ": " in it; indent with spaces.'
    if problem.startswith("found character") and "\\t" not in problem:
        return "Quote text that begins with this character."
    if problem.startswith(("expected ',' or", "did not find expected ',' or")):
        return "Quote text with { } [ ] or a comma in it; close every bracket."
    if problem == "but found another document":
        return "A job file is one document: remove everything after ---."
    return "The file is YAML; indent with spaces."


def dump_yaml(values: Mapping[str, Any]) -> str:
    """Return values as YAML that ``read_values`` reads back."""
    return yaml.dump(values, Dumper=_JobDumper, sort_keys=False)


def flow_yaml(value: object) -> str:
    """Return a value as YAML on one line.

    Example:
        >>> flow_yaml({"name": "step", "every": {"epochs": 1}, "tail": "1e-3"})
        "{name: step, every: {epochs: 1}, tail: '1e-3'}"
    """
    text = yaml.dump(value, Dumper=_JobDumper, sort_keys=False, default_flow_style=True, width=float("inf"))
    return text.strip()


def shortened(value: object) -> str:
    """Return a value as YAML writes it, shortened for an error message.

    Example:
        >>> [shortened(value) for value in (None, True, 0.5, "cosine")]
        ['null', 'true', '0.5', 'cosine']
    """
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."


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
            raise yaml.MarkedYAMLError(
                problem="aliases (*name) are not allowed",
                problem_mark=mark,
                note=STAR,
            )
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if getattr(event, "tag", None) is not None:
            raise yaml.MarkedYAMLError(
                problem="tags (!name) are not allowed",
                problem_mark=event.start_mark,
                note="Write the value alone; quote text that begins with !.",
            )
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
                    problem=f"the key {shortened(key)} is not text",
                    problem_mark=key_node.start_mark,
                    note=f'Quote it: "{shortened(key_node.value)}": ...'
                    if isinstance(key_node, yaml.ScalarNode)
                    else "A key is text, such as name: value.",
                )
            if key in seen:
                raise yaml.MarkedYAMLError(
                    problem=f'the key "{shortened(key)}" appears twice',
                    problem_mark=key_node.start_mark,
                    note="Remove one of the two.",
                )
            seen.add(key)
        return super().construct_mapping(node, deep=deep)

    def construct_int(self, node: yaml.ScalarNode) -> int:
        if len(node.value) > MOST_DIGITS:
            raise yaml.MarkedYAMLError(
                problem=f"{shortened(node.value)} has {len(node.value):,} digits; the most is {MOST_DIGITS}",
                problem_mark=node.start_mark,
                note="Write a shorter number, or quote it if it is text.",
            )
        return int(node.value, 0 if node.value[:2] in ("0o", "0x") else 10)


# YAML 1.1 reads 1e-3 as text, 010 as 8, 1:30 as 90 and "no" as false. YAML 1.2 reads a number, 10, text and text.
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
