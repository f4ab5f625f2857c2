"""Writes docs/data.md from the classes that define a run's files; a test compares the two. `make docs` runs it.

The meaning of a field is its comment in the source, behind it or directly above it, or its entry under ``Args:`` in the
docstring of its class.
"""

import inspect
import io
import re
import tokenize
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from functools import cache
from pathlib import Path
from textwrap import dedent
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from scaler.api.status import RunStatus
from scaler.cluster.progress_file import ProgressFile
from scaler.core.rules import Rule
from scaler.core.schedules import Schedule
from scaler.metrics.events import KINDS, BaseEvent
from scaler.metrics.record import COLUMNS, Record
from scaler.plan.model import Plan
from scaler.report.compare.model import Comparison
from scaler.report.experiment.model import ExperimentReport
from scaler.report.plan.estimate import PlanEstimate
from scaler.report.run.model import Report
from scaler.runs.control import StopRequest
from scaler.runs.folder import RunState
from scaler.runs.status import StatusKeys, StatusValues

PAGE = Path(__file__).parent / "data.md"

INTRO = """# The data of a run

Made from the classes in `scaler/` by `make docs`. Write your own scripts and dashboards against this page.

A run is a folder, `runs/<run_id>/`, on a disk or at a URI such as `s3://bucket/runs/<run_id>`. Its data files:

| file | written by | holds |
|---|---|---|
| `events.jsonl` | the collector (`--address none`: the training process) | a line for each event |
| `metrics/*.parquet` | the collector, several times a second | one row for each worker and optimizer step |
| `plan.json` | `scaler submit` and `scaler resume`, before training | every number that the training will use |
| `status.json` | the run driver (the process of `scaler submit` or `scaler resume`) | the state of the run |
| `progress.json` | the run driver, every second or two while the run trains | how far the run is |
| `stop.json` | `scaler stop` | the request to stop the run; a resume removes it |
| `report.json` | the run driver at the end; `scaler report --json` prints it | what the run did, from all files above |

`scaler status RUN --json` and `scaler compare RUN RUN... --json` print two more documents, which are in no folder. An
experiment has a folder of its own, `runs/experiments/<name>/`, with `experiment.json`.

A file is complete at any moment: documents are replaced as a whole, Parquet files are never changed, and of
`events.jsonl` only the last line can be cut off. Times are seconds, and moments are seconds since 1970-01-01 UTC.
In JSON `null` means not known or not set; there is no NaN. A reader must ignore fields and kinds of events that it does
not know: a newer scaler may add some.

**Samples and tokens.** A job with `train.unit: tokens` gives its batch sizes in tokens. The files of its run count
samples, as those of every run do: `plan.json`, events, records, `progress.json` and `report.json`. There
`global_batch_size` is a number of samples, and so is every field whose name has `samples`; a number of tokens has
`tokens` in its name. `plan.json` has `unit` and `tokens_per_sample`, and each phase has its own `tokens_per_sample`,
so a batch in tokens is `global_batch_size * tokens_per_sample`. The column `weight` of the records is the real tokens
of a step, without padding, if the loss returns `(sum, number of tokens)`. Comparisons and `experiment.json` are
different, because runs whose samples have other lengths can be compared in tokens only: with `"unit": "tokens"` at
their top, every count and speed in them is in tokens.

## Read it

In Python, `scaler.read_run` returns pandas frames, with the names of this page:

<!-- test: part -->
```python
import scaler

run = scaler.read_run("last")          # or a run id, a folder, a URI
run.records                            # every row of metrics/*.parquet, and whether its work was lost
run.events                             # events.jsonl
run.report.totals.samples_per_s        # report.json
```

With DuckDB, without scaler:

<!-- test: needs DuckDB and a run -->
```sql
SELECT rank, median(step_time_s), sum(samples) FROM 'runs/<run_id>/metrics/*.parquet' GROUP BY rank;
SELECT time, kind, reason FROM read_json('runs/<run_id>/events.jsonl', union_by_name = true) WHERE kind = 'diverged';
```

While a run trains, its writer merges small Parquet files into larger ones: a file can be gone between listing and
reading, and for a moment a merged file lies beside its parts. `scaler.read_run` takes care of both.
"""

EVENTS = """
## Events: `events.jsonl`

Defined in `scaler/metrics/events.py`. Every event has `kind` (string) and these fields:

"""

RECORDS = """
## Records: `metrics/*.parquet`

Defined in `scaler/metrics/record.py`. A row is one worker in one optimizer step, or in several consecutive steps where
`steps` is above 1; `several steps` says how those merge into one value. `per` says what the value is measured for.

An attempt that starts from a checkpoint does the work after that checkpoint again. The rows of both are there: a row is
in the final weights when no later attempt has `start_samples` (event `attempt_started`) at or below its `samples_seen`.
`scaler.read_run(...).records` has this as the column `lost`.

"""

UNITS = (
    (r"samples_per_s(_|$)", "samples/s"),
    (r"tokens_per_s(_|$)", "tokens/s"),
    (r"mib_per_s(_|$)", "MiB/s"),
    (r"(_s|^seconds|^time)(_max|_mean)?$", "s"),
    (r"_gib(_|$)", "GiB"),
    (r"_pct$", "%"),
    (r"(^|_)samples(_seen)?$|batch_size$|^progress$|^noise_scale$|^twice_at$", "samples"),
    (r"(^|_)tokens(_seen|_per_sample)?$", "tokens"),
    (r"^bytes$", "bytes"),
)
OPAQUE = {Schedule, Rule}
"""Classes whose JSON has other fields than the class; the comment of the field says which."""

PLAIN = {int: "integer", float: "number", str: "string", bool: "boolean", NoneType: "null", Any: "any"}


def page() -> str:
    """Return the page."""
    parts = [INTRO, EVENTS, _table(BaseEvent)]
    parts += [f"\n### `{kind}`\n\n{_text(each)}\n\n{_table(each)}" for kind, each in sorted(KINDS.items())]
    parts += [RECORDS, _columns()]
    for file, whole in (
        ("The plan: `plan.json` and `scaler plan --json`", Plan),
        ("What is known of a plan: the key `estimate` of `scaler plan --json`", PlanEstimate),
        ("The report: `report.json`", Report),
        ("The status: `status.json`", StatusKeys),
        ("The progress: `progress.json`", ProgressFile),
        ("The request to stop: `stop.json`", StopRequest),
        ("The status for scripts: `scaler status --json`", RunStatus),
        ("A comparison: `scaler compare --json`", Comparison),
        ("An experiment: `experiment.json`", ExperimentReport),
    ):
        home = whole.__name__
        parts.append(f"\n## {file}\n\nDefined in `{_source(whole)}`. {_text(whole)}\n\n{_table(whole, home)}")
        parts += [f"\n### {home} {part.__name__}\n\n{_text(part)}\n\n{_table(part, home)}" for part in _parts(whole)]
        if whole is StatusKeys:
            parts.append(f"\n{_text(StatusValues)}\n\n{_table(StatusValues)}")
            parts.append(f"\n### States\n\n{_states()}")
    return "".join(parts)


def _table(whole: type, home: str = "") -> str:
    rows = ["| field | type | unit | meaning |", "|---|---|---|---|"]
    own = _own_fields(whole)
    for name, hint in own.items():
        rows.append(f"| `{name}` | {_type(hint, home)} | {_unit(name, hint)} | {_meanings(whole)[name]} |")
    return "\n".join(rows) + "\n"


def _columns() -> str:
    rows = ["| column | type | unit | per | several steps | meaning |", "|---|---|---|---|---|---|"]
    for column in COLUMNS:
        kind = f"{'float' if column.type is float else 'int'}{column.bits}{' or null' if column.is_nullable else ''}"
        meaning = _meanings(Record)[column.name]
        unit = _unit(column.name, column.type)
        rows.append(f"| `{column.name}` | {kind} | {unit} | {column.per.value} | {column.merge.value} | {meaning} |")
    return "\n".join(rows) + "\n"


def _states() -> str:
    """The states of a run, as a table, and the way from one to the next."""
    head, _, drawing = inspect.cleandoc(RunState.__doc__ or "").partition("\n\n")
    drawing, _, rest = drawing.rpartition("\n\n")
    rows = [
        "| state | meaning |",
        "|---|---|",
        *(f"| `{state}` | {_meanings(RunState)[state.name]} |" for state in RunState),
    ]
    text = rest.replace("``", "`").replace("`PENDING`", "`pending`").replace("`LOST`", "`lost`")
    return f"{head}\n\n<!-- test: text -->\n```\n{dedent(drawing)}\n```\n\n{text}\n\n" + "\n".join(rows) + "\n"


def _own_fields(whole: type) -> dict[str, Any]:
    """The fields that a table lists, with their types: of an event, those that not every event has."""
    hints = get_type_hints(whole, include_extras=True)
    shared = {"kind", "extra"} | (set(BaseEvent.__annotations__) if whole is not BaseEvent else set())
    left_out = shared if issubclass(whole, BaseEvent) else set()
    names = getattr(whole, "__dataclass_fields__", hints)
    return {name: hints[name] for name in names if name not in left_out}


def _parts(whole: type) -> list[type]:
    """The classes that stand in a document, in the order in which they are met, the whole one left out."""
    found: list[type] = []
    for hint in _own_fields(whole).values():
        for part in _classes(hint):
            found += [each for each in (part, *_parts(part)) if each not in found]
    return found


def _classes(hint: Any) -> Iterator[type]:
    if is_dataclass(hint) and isinstance(hint, type) and hint not in OPAQUE:
        yield hint
    for part in get_args(hint):
        yield from _classes(part)


def _type(hint: Any, home: str) -> str:
    """A type, as JSON has it; ``home`` is the document, whose name the headings of its parts begin with."""
    origin, parts = get_origin(hint), get_args(hint)
    if hint in PLAIN:
        return PLAIN[hint]
    if hint in OPAQUE:
        return "object"
    if origin is Annotated:
        return _type(parts[0], home)
    if origin in (Union, UnionType):
        return " or ".join(_type(part, home) for part in parts)
    if origin is Literal:
        return " or ".join(f'"{part}"' for part in parts)
    if origin is not None and issubclass(origin, Mapping):
        return f"object {{name: {_type(parts[1], home)}}}"
    if origin is tuple and parts[-1] is not Ellipsis:
        return f"[{', '.join(_type(part, home) for part in parts)}]"
    if origin is not None and issubclass(origin, Sequence):
        inner = _type(parts[0], home)
        return f"list of ({inner})" if " or " in inner else f"list of {inner}"
    if is_dataclass(hint):
        return f"[{hint.__name__}](#{home.lower()}-{hint.__name__.lower()})"
    raise ValueError(f"{hint} has no name in JSON")


def _unit(name: str, hint: Any) -> str:
    """The unit that a name ends in; DESIGN: units are suffixes."""
    is_number = any(each in (int, float) for each in (hint, *get_args(hint), *sum(map(get_args, get_args(hint)), ())))
    return next((unit for pattern, unit in UNITS if is_number and re.search(pattern, name)), "")


def _text(whole: type) -> str:
    """A class's docstring up to its arguments, as Markdown."""
    text = inspect.cleandoc(whole.__doc__ or "").split("\n\nArgs:")[0].split("\n\nExample:")[0]
    return text.replace("``", "`")


def _source(whole: type) -> str:
    return whole.__module__.replace(".", "/") + ".py"


@cache
def _meanings(whole: type) -> dict[str, str]:
    """The meaning of each field of a class and of those above it.

    Raises:
        ValueError: a field has none.
    """
    found: dict[str, str] = {}
    for each in reversed(whole.__mro__):
        if each.__module__.startswith("scaler."):
            found |= _arguments(each.__doc__ or "") | _comments(inspect.getsource(each))
    found = {name: _as_markdown(text) for name, text in found.items()}
    if lacking := [name for name in _own_fields(whole) if name not in found]:
        raise ValueError(f"{_source(whole)}: {whole.__name__} has fields without a comment: {', '.join(lacking)}")
    return found


def _as_markdown(text: str) -> str:
    """A meaning as a cell of a table, with the words of JSON for Python's."""
    for python, json in (("None", "null"), ("True", "true"), ("False", "false")):
        text = re.sub(rf"\b{python}\b", json, text)
    return text.replace("|", "\\|").replace("<", "&lt;").replace("``", "`")


def _comments(source: str) -> dict[str, str]:
    """The comment of each field in a class's source: the one behind it, or else the lines directly above it."""
    found: dict[str, str] = {}
    above: list[str] = []
    for line in _lines(source):
        field = re.match(r"(\w+)(: | = \")", line.code)
        if field and line.comment:
            found[field[1]] = line.comment
        elif field and above:
            found[field[1]] = " ".join(above)
        above = [*above, line.comment] if line.comment and not line.code else []
    return found


def _arguments(docstring: str) -> dict[str, str]:
    """The entries under ``Args:`` of a docstring."""
    _, _, section = inspect.cleandoc(docstring).partition("\nArgs:\n")
    section = re.split(r"\n\n", section)[0]
    entries = re.split(r"\n    (?=\w+: )", "\n" + section)[1:]
    return {name: " ".join(text.split()) for name, _, text in (entry.partition(": ") for entry in entries)}


class _Line:
    def __init__(self, code: str, comment: str) -> None:
        self.code, self.comment = code, comment


def _lines(source: str) -> Iterator[_Line]:
    """Each line of a source, its code and its comment apart."""
    comments = {
        token.start[0]: (token.start[1], token.string.removeprefix("#").strip())
        for token in tokenize.generate_tokens(io.StringIO(inspect.cleandoc("\n" + source)).readline)
        if token.type == tokenize.COMMENT
    }
    for number, line in enumerate(inspect.cleandoc("\n" + source).splitlines(), 1):
        at, comment = comments.get(number, (len(line), ""))
        yield _Line(line[:at].strip(), comment)


if __name__ == "__main__":
    PAGE.write_text(page())
