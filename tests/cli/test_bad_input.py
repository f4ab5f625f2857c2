"""Job files and recipes that cannot be used: the whole stdout, stderr and exit code of a command."""

import copy
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scaler.cli import run
from scaler.job import Job

ANY_SEED = os.environ.get("SCALER_FUZZ_EXAMPLES")  # number of examples, new ones in each run


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


def scaler(*arguments: str | Path) -> Outcome:
    out, err = StringIO(), StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = run([str(argument) for argument in arguments])
    return Outcome(code, out.getvalue(), err.getvalue())


JOB: dict[str, Any] = {
    "name": "bad",
    "recipe": "bad_recipe:build",
    "reference": {"global_batch_size": 4, "lr": 0.1, "optimizer": {"name": "sgd"}},
    "scale": {"per_worker_batch_size": 4},
    "train": {"epochs": 1, "num_samples": 20},
}
GOOD = yaml.safe_dump(JOB)
ONE_PATH = "\n  scaler submit takes the path of a job file.\n"
IS_YAML = "\n  The file is YAML; indent with spaces.\n"
MASKED = "\n  A run's copy of its job has *** for secrets; give them again: --set "
DIGITS_READ = "\n  Write a shorter number, or quote it if it is text.\n"
STAR = '\n  Quote text that begins with *, such as "*.bias".\n'
TWICE = "\n  Remove one of the two.\n"
NO_JOB = "\n  scaler init DIR writes a job file that is ready to run.\n"
LEVELS = "\n  A job file nests three levels.\n"
TOO_DEEP = f"JOB: is nested too deep.{LEVELS}"


def refused(path: Path, *overrides: str) -> str:
    """The error of ``scaler plan`` for a job that it refuses, with JOB for the file's path."""
    code, out, err = scaler("plan", path, *(part for override in overrides for part in ("--set", override)))
    assert (code, out) == (2, "")
    return err.removeprefix("Error: ").replace(str(path), "JOB")


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (
            f"{GOOD}notes: {'9' * 10**4}\n",
            f"JOB: line 13, column 8: {'9' * 57}... has 10,000 digits; the most is 100.{DIGITS_READ}",
        ),
        (
            f"{GOOD}notes: 0x{'f' * 10**4}\n",
            f"JOB: line 13, column 8: 0x{'f' * 55}... has 10,002 digits; the most is 100.{DIGITS_READ}",
        ),
        (
            f"{GOOD}{'k' * 500}: 1\n",
            f'JOB: unknown key "{"k" * 57}...".\n  Known keys: {", ".join(Job.model_fields)}.\n',
        ),
        (f"{GOOD}{'k' * 5000}: 1\n", f"JOB: line 13, column 5001: could not find expected ':'.{IS_YAML}"),
        (
            f"{GOOD}? {'k' * 5000}\n: 1\n? {'k' * 5000}\n: 1\n",
            f'JOB: line 15, column 3: the key "{"k" * 57}..." appears twice.{TWICE}',
        ),
        (f"{GOOD}train: {{}}\n", f'JOB: line 13, column 1: the key "train" appears twice.{TWICE}'),
        # a billion laughs: nine lists of nine of the one before
        (
            "a: &a [x]\n" + "".join(f"{b}: &{b} [*{a}, *{a}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)),
            f"JOB: line 2, column 8: aliases (*name) are not allowed.{STAR}",
        ),
        ("a: &a {<<: *a}", f"JOB: line 1, column 12: aliases (*name) are not allowed.{STAR}"),
        (
            "name: a\0b",
            "JOB: is not YAML: unacceptable character #x0000: special characters are not allowed "
            'in "<byte string>", position 7.\n',
        ),
        ("[" * 90_000, TOO_DEEP),
        (f"{GOOD}recipe_args: {{a: {'[' * 30}{']' * 30}}}\n", TOO_DEEP),
        ("- " * 40_000, TOO_DEEP),
        ("a: 1\n" * 30_000, "JOB: larger than 100,000 bytes.\n  A job file is a page of YAML.\n"),
        (
            "%YAML 9.9\n---\na: 1",
            f"JOB: line 1, column 1: found incompatible YAML document (version 1.* is required).{IS_YAML}",
        ),
        ("<html><body>404</body></html>", f"JOB: is a str, not keys and values.{NO_JOB}"),
    ],
    ids=lambda value: repr(value[:16]),
)
def test_a_hostile_file_is_refused_with_a_short_message(tmp_path: Path, content: str, text: str) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(content)
    assert refused(path) == text


def test_many_problems_are_counted_and_the_first_ten_are_named(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(GOOD + "".join(f"key{index}: 1\n" for index in range(2000)))
    lines = refused(path).splitlines()
    assert lines[:2] == ["JOB: 2,000 problems.", '  unknown key "key0".']
    assert lines[-1] == "  and 1,990 more."
    assert len(lines) == 22


def test_a_file_with_a_byte_order_mark_or_windows_line_ends_is_read(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    for raw in (b"\xef\xbb\xbf" + GOOD.encode(), GOOD.encode("utf-16"), GOOD.replace("\n", "\r\n").encode()):
        path.write_bytes(raw)
        code, out, err = scaler("plan", path)
        assert (code, err) == (0, "")
        assert out.startswith("Plan of bad\n")


@pytest.mark.parametrize("command", ["plan", "submit", "find-lr"])
def test_a_pipe_a_device_or_a_folder_is_refused_and_not_read(tmp_path: Path, command: str) -> None:
    pipe, folder, dangling = tmp_path / "pipe", tmp_path / "folder", tmp_path / "dangling"
    os.mkfifo(pipe)
    folder.mkdir()
    dangling.symlink_to(tmp_path / "gone")
    for path, why in {
        pipe: "is not a file, but a pipe or a device.",
        Path("/dev/zero"): "is not a file, but a pipe or a device.",
        dangling: "cannot be read: No such file or directory.",
        tmp_path / ("n" * 300): "cannot be read: File name too long.",
    }.items():
        assert scaler(command, path) == (2, "", f"Error: {path}: {why}{ONE_PATH}")
    lacking = f"Error: {folder}: is a folder without a job.yaml.\n  "
    offered = f"scaler init {folder} writes a job file that is ready to run.\n"
    assert scaler(command, folder) == (2, "", f"{lacking}{offered}")
    (folder / "other.yaml").touch()
    assert scaler(command, folder) == (2, "", f"{lacking}Give the job file: {folder}/other.yaml.\n")


@pytest.mark.parametrize(
    ("override", "text"),
    [
        (f"recipe_args.{'a.' * 29}a=1", f"--set recipe_args.{'a.' * 22}a...: is nested too deep.{LEVELS}"),
        (f"{'x' * 10**5}", f"--set {'x' * 57}... is not KEY=VALUE.\n  Such as --set train.epochs=3.\n"),
        (
            f"train.seed={'9' * 500}",
            f"--set train.seed={'9' * 46}...: line 1, column 1: {'9' * 57}... "
            f"has 500 digits; the most is 100.{DIGITS_READ}",
        ),
        (f"train.seed={'[' * 5000}", f"--set train.seed={'[' * 46}...: is nested too deep.{LEVELS}"),
        ("recipe_args.key=*x", f"--set recipe_args.key=*x: line 1, column 1: aliases (*name) are not allowed.{STAR}"),
        ("recipe_args={api_key: '***'}", f"JOB: recipe_args.api_key is masked.{MASKED}recipe_args.api_key=...\n"),
        ("storage=s3://me:***@host/x", f"JOB: storage is masked.{MASKED}storage=...\n"),
    ],
    ids=lambda value: repr(value[:24]),
)
def test_a_hostile_override_is_refused_with_a_short_message(tmp_path: Path, override: str, text: str) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(GOOD)
    assert refused(path, override) == text


# Any job file, and any --set: a plan or a refusal.

DIGITS: dict[str, Any] = {
    "schedule": {"name": "cosine", "warmup": {"epochs": 2, "start": "base"}},
    "resources": {"cpus_per_worker": 1, "gpus_per_worker": 0},
    "checkpoint": {"every": {"epochs": 5}, "keep": 2},
    "failures": {"max_restarts": 3},
    "scale": {"num_workers": 2, "per_worker_batch_size": 128, "grad_accum_steps": 1, "rule": "linear"},
    "train": {"epochs": 15, "num_samples": 1437, "seed": 0, "eval_every": {"epochs": 1}},
    "reference": {"global_batch_size": 16, "lr": 0.01, "optimizer": {"name": "sgd", "momentum": 0.9}},
}
SECTIONS: dict[str, list[Any]] = {
    "schedule": [
        {"name": "wsd", "tail": "sqrt"},
        {"name": "multi_step", "at": [{"epochs": 3}, {"fraction": 0.9}]},
        {"name": "one_cycle", "low_momentum": 0.85, "high_momentum": 0.95},
        {"name": "cyclical", "climb": {"epochs": 1}, "low": 0.1, "mode": "exp_range", "decay": 0.9},
        {"name": "cosine_restarts", "first": {"epochs": 1}, "growth": 2},
    ],
    "scale": [
        {"num_workers": {"min": 1, "max": 4}, "global_batch_size": 64, "per_worker_batch_size": "auto"},
        {
            "per_worker_batch_size": 8,
            "batch_schedule": {"name": "points", "points": [{"at": {"epochs": 1}, "factor": 2}]},
        },
        {"per_worker_batch_size": 8, "rule": "adascale"},
    ],
    "groups": ["recipe", [{"match": "*", "lr_ratio": 0.1, "freeze": {"epochs": 1}}]],
    "storage": ["s3://b"],
}  # fmt: skip
numbers = st.integers(-1, 10**16) | st.integers(0, 40) | st.floats() | st.floats(0, 2)
scalars = st.none() | st.booleans() | numbers | st.text(max_size=8) | st.sampled_from(["auto", "base", "recipe", "a:b"])
trees = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2)
)
lengths = st.dictionaries(st.sampled_from(["epochs", "steps", "samples", "fraction", "seconds"]), numbers, max_size=1)


def paths(values: Any, above: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    return [path for key, value in items for path in [(*above, key), *paths(value, (*above, key))]]


@st.composite
def job_files(draw: st.DrawFn) -> str:
    """A good job with a few sections of other kinds, and a few keys replaced, renamed, removed, joined or doubled."""
    values = copy.deepcopy(JOB | DIGITS)
    for section in draw(st.lists(st.sampled_from(list(SECTIONS)), max_size=2)):
        values[section] = copy.deepcopy(draw(st.sampled_from(SECTIONS[section])))
    for path in draw(st.lists(st.sampled_from(paths(values)), max_size=2)):
        inner: Any = values
        for key in path[:-1]:
            inner = inner.get(key) if isinstance(inner, dict) else None
        if not isinstance(inner, dict):
            continue
        match draw(st.sampled_from(["number", "number", "length", "tree", "rename", "remove", "join"])):
            case "number":
                inner[path[-1]] = draw(numbers)
            case "length":
                inner[path[-1]] = draw(lengths)
            case "tree":
                inner[path[-1]] = draw(trees)
            case "rename":
                inner[f"{path[-1]}{draw(st.text(max_size=2))}"] = inner.pop(path[-1], None)
            case "remove":
                inner.pop(path[-1], None)
            case "join":
                inner[draw(st.text(max_size=6))] = draw(trees)
    lines = yaml.safe_dump(values, allow_unicode=True).splitlines(keepends=True)
    for at in draw(st.lists(st.integers(0, len(lines) - 1), max_size=1)) if draw(st.booleans()) else []:
        lines.insert(at, lines[at])
    return "".join(lines)


keys = st.sampled_from([".".join(map(str, path)) for path in paths(JOB | DIGITS)] + ["layer_decay", "train.ema"])
flow = (trees | lengths).map(lambda value: yaml.safe_dump(value, default_flow_style=True).strip())
sets = st.builds(lambda key, text: f"{key}={text}", keys | st.text(max_size=8), flow | st.text(max_size=12))
options = st.sampled_from([[], ["--json"], ["--workers", "1,2,8"], ["--rule", "linear,adascale"]])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a recipe that takes any argument."""
    folder, before = tmp_path_factory.mktemp("jobs"), list(sys.path)
    (folder / "bad_recipe.py").write_text(RECIPE.format(top="", first="pass", parts=""))
    yield folder
    sys.path[:] = before
    sys.modules.pop("bad_recipe", None)


@settings(
    max_examples=int(ANY_SEED or 120),
    derandomize=ANY_SEED is None,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(
    content=job_files() | st.text(max_size=60),
    overrides=st.just([]) | st.lists(sets | st.text(max_size=20), max_size=2),
    options=options,
)
def test_any_job_is_planned_or_refused(folder: Path, content: str, overrides: list[str], options: list[str]) -> None:
    path = folder / "job.yaml"
    path.write_bytes(content.encode("utf-8", "surrogatepass"))
    code, out, err = scaler("plan", path, *options, *(part for text in overrides for part in ("--set", text)))
    assert code in (0, 2), err
    if code == 0:
        assert out
        assert not re.search(r"\bnan\b", out, re.IGNORECASE)
    else:
        assert (out, err[:7]) == ("", "Error: ")
        assert not any("Traceback" in line or "pydantic" in line for line in err.splitlines())


# Recipes, in one worker without Ray.

RECIPE = """
import sys, torch, scaler
from torch import nn
from torch.utils.data import Dataset, IterableDataset, TensorDataset
{top}

def build(**arguments):
    data = TensorDataset(torch.zeros(20, 2), torch.zeros(20, 1))
    parts = dict(model=nn.Linear(2, 1), train_data=data, eval_data=data, loss=lambda m, b: m(b[0]).square().mean())
    {first}
    parts.update({parts})
    return scaler.Recipe(**parts)
"""
NO_LENGTH = """
class Data(Dataset):
    def __len__(self): raise RuntimeError("no length")
    def __getitem__(self, index): return torch.zeros(2), torch.zeros(1)
"""


@pytest.fixture
def submit_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Outcome]]:
    """Submit a job with the recipe that is to be written; the report is left out, the recipe's folder called HERE."""
    monkeypatch.setattr(sys, "path", list(sys.path))

    def submit(top: str = "", first: str = "pass", parts: str = "", recipe: str = "bad_recipe:build") -> Outcome:
        (tmp_path / "bad_recipe.py").write_text(RECIPE.format(top=top, first=first, parts=parts))
        path = tmp_path / "job.yaml"
        path.write_text(yaml.safe_dump(JOB | {"recipe": recipe, "storage": str(tmp_path / "runs")}))
        code, out, err = scaler("submit", path, "--address", "none", "--workers", "1", "--quiet")
        err = re.sub(r"\n +~+\^+$", "", err, flags=re.MULTILINE)  # below a line that is one call, from Python 3.13 on
        return Outcome(code, out, err[err.index("Error: ") :].replace(str(tmp_path), "HERE"))

    yield submit
    sys.modules.pop("bad_recipe", None)


@pytest.mark.parametrize(
    ("recipe", "code", "text"),
    [
        ({"recipe": "nosuch:build"}, 2,
         "recipe = nosuch:build: there is no module nosuch.\n"
         "  Python searches HERE, PYTHONPATH and the installed packages.\n"),
        ({"recipe": "bad_recpie:build"}, 2,
         "recipe = bad_recpie:build: there is no module bad_recpie.\n"
         '  Did you mean "bad_recipe:build"? '
         "Python searches HERE, PYTHONPATH and the installed packages.\n"),
        ({"recipe": "bad_recpie.py:build"}, 2,
         "recipe = bad_recpie.py:build: there is no file HERE/bad_recpie.py.\n"
         '  Did you mean "bad_recipe.py"? The path is relative to the job file\'s folder.\n'),
        ({"recipe": "json.nosuch:build"}, 2,
         "recipe = json.nosuch:build: there is no module json.nosuch.\n"
         "  Its package exists, but has no such module.\n"),
        ({"recipe": "bad_recipe:biuld"}, 2,
         "recipe = bad_recipe:biuld: bad_recipe has no function biuld.\n"
         '  Did you mean "build"? Functions there: build.\n'),
        ({"first": "raise KeyError('boom')"}, 4,
         "rank 0 failed: KeyError: 'boom'\n"
         "  Traceback (most recent call last):\n"
         '    File "HERE/bad_recipe.py", line 10, in build\n'
         "      raise KeyError('boom')\n"
         "  KeyError: 'boom'\n"),
        ({"first": "raise ValueError('one\\ntwo\\x1b[31m')"}, 4,
         "rank 0 failed: ValueError: one ...\n"
         "  Traceback (most recent call last):\n"
         '    File "HERE/bad_recipe.py", line 10, in build\n'
         "      raise ValueError('one\\ntwo\\x1b[31m')\n"
         "  ValueError: one\n"
         "  two\\x1b[31m\n"),
        ({"first": "sys.exit(3)"}, 4,
         "rank 0 failed: it called sys.exit(3)\n"
         "  Traceback (most recent call last):\n"
         '    File "HERE/bad_recipe.py", line 10, in build\n'
         "      sys.exit(3)\n"
         "  SystemExit: 3\n"),
        ({"top": "sys.exit()"}, 4,
         "rank 0 failed: it called sys.exit()\n"
         "  Traceback (most recent call last):\n"
         '    File "HERE/bad_recipe.py", line 5, in <module>\n'
         "      sys.exit()\n"
         "  SystemExit\n"),
        ({"top": "def ("}, 4,
         "bad_recipe:build failed: SyntaxError: invalid syntax (bad_recipe.py, line 5)\n"
         '    File "HERE/bad_recipe.py", line 5\n'
         "      def (\n"
         "          ^\n"
         "  SyntaxError: invalid syntax\n"),
        ({"top": "class Mute(Exception):\n    def __str__(self): raise ValueError", "first": "raise Mute"}, 4,
         "rank 0 failed: Mute: its message cannot be read\n"
         "  Traceback (most recent call last):\n"
         '    File "HERE/bad_recipe.py", line 11, in build\n'
         "      raise Mute\n"
         "  bad_recipe.Mute: <exception str() failed>\n"),
        ({"first": "return None"}, 4,
         "bad_recipe:build returned None, not a scaler.Recipe.\n  return scaler.Recipe(model=..., ...)\n"),
        ({"parts": "train_data=TensorDataset(torch.zeros(0, 2))"}, 4,
         "bad_recipe:build: train_data is empty.\n  There is nothing to train on.\n"),
        ({"parts": "eval_data=TensorDataset(torch.zeros(0, 2))"}, 4,
         "bad_recipe:build: eval_data is empty.\n  Leave eval_data out for no evaluation.\n"),
        ({"parts": "train_data=TensorDataset(torch.zeros(21, 2))"}, 4,
         "train.num_samples = 20, but the recipe's train_data has 21 samples.\n"
         "  Set train.num_samples to 21, or leave it out.\n"),
        ({"top": NO_LENGTH, "parts": "train_data=Data()"}, 4,
         "bad_recipe:build: len(train_data) failed: RuntimeError: no length\n"
         "  Traceback (most recent call last):\n"
         '    File "HERE/bad_recipe.py", line 7, in __len__\n'
         "      def __len__(self): raise RuntimeError(\"no length\")\n"
         "                         ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^\n"
         "  RuntimeError: no length\n"),
        ({"parts": "train_data=iter([1])"}, 4,
         "bad_recipe:build: train_data is a list_iterator, which can be read only once.\n"
         "  Give an object whose __iter__ starts a new epoch, such as a class with a generator as its __iter__.\n"),
        ({"parts": "model=nn.ReLU()"}, 4,
         "bad_recipe:build: the model has no parameter to train.\n  At least one must require a gradient.\n"),
        ({"parts": "model={}"}, 4,
         "bad_recipe:build: model is a dict.\n  It must be a torch.nn.Module.\n"),
        ({"parts": "loss=0.5"}, 4, "bad_recipe:build: loss is a float.\n  loss must be a function.\n"),
        ({"parts": "evaluate=[]"}, 4, "bad_recipe:build: evaluate is a list.\n  evaluate must be a function.\n"),
        ({"parts": "loss=lambda m, b: m(b[0])"}, 4,
         "loss(model, batch) returned a tensor of shape (2, 1).\n"
         "  Return a scalar tensor, (sum, weight), or a dict of these.\n"),
        ({"parts": "loss=lambda m, b: 0.5"}, 4,
         "loss(model, batch) returned a float.\n  Return a scalar tensor, (sum, weight), or a dict of these.\n"),
        ({"parts": "loss=lambda m, b: m(b[0]).mean().detach()"}, 4,
         "loss(model, batch) returned a tensor without a gradient.\n  Compute it from the model's output.\n"),
        ({"parts": "evaluate=lambda m, b: [1]"}, 4,
         "evaluate(model, batch) returned a list.\n  Return a dict of named values.\n"),
        ({"parts": "evaluate=lambda m, b: {'accuracy': '0.9'}"}, 4,
         "evaluate(model, batch) returned accuracy = '0.9', not a number.\n"
         "  Return the mean over the batch's samples: a float, or a tensor of one number; or (sum, weight).\n"),
        ({"parts": "evaluate=lambda m, b: {'accuracy': torch.zeros(3)}"}, 4,
         "evaluate(model, batch) returned accuracy = a tensor of shape (3,), not a number.\n"
         "  Return the mean over the batch's samples: a float, or a tensor of one number; or (sum, weight).\n"
         "  For a value with one row a sample, use scaler.Recipe(metrics=...).\n"),
        ({"parts": "evaluate=lambda m, b: {1: 0.5}"}, 4,
         "evaluate(model, batch) named a value 1.\n  Names are strings, such as accuracy.\n"),
    ],
    ids=lambda value: " ".join(value.values())[:40] if isinstance(value, dict) else None,
)  # fmt: skip
def test_a_recipe_that_cannot_be_used(
    submit_recipe: Callable[..., Outcome], recipe: dict[str, str], code: int, text: str
) -> None:
    outcome = submit_recipe(**recipe)
    assert outcome.code == code
    assert outcome.err == f"Error: {text}"


def test_a_wrong_function_is_refused_before_ray_starts_and_a_run_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is imported either: the module would raise."""
    (tmp_path / "raising_recipe.py").write_text("def build(): pass\nraise SystemExit('imported')\n")
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(JOB | {"recipe": "raising_recipe:built", "storage": str(tmp_path / "runs")}))
    monkeypatch.setattr("scaler.cluster.embedded.embedded_cluster", lambda *_, **__: pytest.fail("Ray was started"))
    assert scaler("submit", path, "--quiet") == (
        2,
        "",
        "Error: recipe = raising_recipe:built: raising_recipe has no function built.\n"
        '  Did you mean "build"? Functions there: build.\n',
    )
    assert not (tmp_path / "runs").exists()
