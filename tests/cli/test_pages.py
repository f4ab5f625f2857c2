"""The code blocks of the documents run; code_blocks.py has the marks that say how."""

import ast
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from code_blocks import ROOT, Block, blocks, commands, pages

import scaler
from scaler.cli.group import cli
from scaler.experiment.file import parse_experiment
from scaler.job import Job, dump_job, parse_job
from scaler.plan import make_plan

BLOCKS = [block for page in pages() for block in blocks(page)]
MARKS = (
    "run",
    "ray",
    "needs ",
    "tests/",
    "write ",
    "job",
    "keys",
    "more keys",
    "fields",
    "experiment",
    "part",
    "golden ",
    "text",
)


def marked(*starts: str) -> list[Any]:
    found = [block for block in BLOCKS if block.mark.startswith(starts)]
    return [pytest.param(block, id=f"{block.page}:{block.line}") for block in found]


def test_every_block_has_a_mark() -> None:
    assert [f"{block.page}:{block.line}" for block in BLOCKS if not block.mark.startswith(MARKS)] == []


def test_no_block_is_hidden_from_the_tests() -> None:
    for page in pages():
        fences = sum(line.lstrip().startswith("```") for line in (ROOT / page).read_text().splitlines())
        assert fences == 2 * len(blocks(page)), page


RUN = sorted({block.page for block in BLOCKS if block.mark.startswith("run")})


@pytest.mark.parametrize("page", RUN)
def test_the_commands_of_a_page_run(
    page: str, scaler_command: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(ROOT / "jobs/digits", tmp_path / "jobs/digits", ignore=shutil.ignore_patterns("runs"))
    for block in blocks(page):
        if block.mark.startswith("write "):
            file = tmp_path / block.mark.removeprefix("write ")
            file.parent.mkdir(exist_ok=True)
            file.write_text(block.text)
        elif block.mark.startswith("run") and block.language == "python":
            exec(compile(block.text, f"{page}:{block.line}", "exec"), {"__name__": "__main__"})
        elif block.mark.startswith("run"):
            added = block.mark.removeprefix("run").removeprefix(" with ").split()
            for command in commands(block):
                takes = {option for option in added if option.startswith("--")} <= options(command)
                outcome = scaler_command(*command, *(added if takes else []))
                assert outcome.code == 0, f"{page}:{block.line}: scaler {' '.join(command)}\n{outcome.err}"


COMMANDS = [param for param in marked("run", "ray", "needs ", "tests/") if list(commands(param.values[0]))]


@pytest.mark.parametrize("block", COMMANDS)
def test_a_command_and_its_options_exist(block: Block) -> None:
    for command in commands(block):
        known = options(command)
        used = {
            word.partition("=")[0] for word in command if word.startswith("-") and not word.lstrip("-")[:1].isdigit()
        }
        assert used <= known | {"--debug", "--help"}, f"scaler {' '.join(command)}"


def options(command: list[str]) -> set[str]:
    """Return the options of a command, such as those of ``scaler experiment run``."""
    found: click.Command = cli
    for word in command:
        if not isinstance(found, click.Group):
            break
        if word.startswith("-"):
            continue
        inner = found.get_command(click.Context(found), word)
        assert inner is not None, f"there is no command {word!r} in: scaler {' '.join(command)}"
        found = inner
    return {name for parameter in found.params for name in [*parameter.opts, *parameter.secondary_opts]}


@pytest.mark.parametrize("block", marked("job", "keys", "more keys", "fields"))
def test_the_keys_of_a_job_file_are_valid(block: Block, digits: Callable[..., Job]) -> None:
    values = {} if block.mark == "job" else yaml.safe_load(dump_job(digits("scale.grad_accum_steps=null")))
    for part in [*before(block), block]:
        values = merged(values, yaml.safe_load(part.text))
    job = parse_job(values, source=block.page)
    assert block.mark == "fields" or make_plan(job).total_steps > 0


def before(block: Block) -> list[Block]:
    """Return the block of keys that a block of more keys adds to."""
    if block.mark != "more keys":
        return []
    return [other for other in BLOCKS if other.page == block.page and other.line < block.line and other.mark == "keys"][
        -1:
    ]


@pytest.mark.parametrize("block", marked("experiment"))
def test_an_experiment_file_is_valid(block: Block) -> None:
    assert parse_experiment(yaml.safe_load(block.text), source=block.page).name


LENGTHS = {"epochs", "steps", "samples", "tokens", "seconds"}  # a section has one of them


def merged(values: dict[str, Any], keys: dict[str, Any]) -> dict[str, Any]:
    """Return a job with other keys; a section with a name of its own replaces what was there."""
    if LENGTHS & set(keys):
        values = {key: value for key, value in values.items() if key not in LENGTHS}
    for key, value in keys.items():
        kept = isinstance(value, dict) and isinstance(values.get(key), dict) and "name" not in value
        values[key] = merged(dict(values[key]), value) if kept else value
    return values


@pytest.mark.parametrize("block", marked("part"))
def test_a_part_of_a_script_compiles_and_uses_what_exists(block: Block) -> None:
    tree = ast.parse(block.text)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "scaler":
            assert hasattr(scaler, node.attr), f"scaler.{node.attr}"


@pytest.mark.parametrize("block", marked("golden"))
def test_an_output_shown_is_the_output_of_today(block: Block) -> None:
    today = (ROOT / "tests/golden" / block.mark.removeprefix("golden ")).read_text().splitlines()
    assert [line for line in block.text.splitlines() if line.strip() and line not in today] == []


@pytest.mark.parametrize("block", marked("tests/"))
def test_the_test_that_a_mark_names_exists(block: Block) -> None:
    assert (ROOT / block.mark.split()[0]).is_file()
