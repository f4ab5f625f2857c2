"""The commands: the whole stdout, stderr and exit code."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import jsonschema
import pytest
import yaml
from in_process import Scaler, command_line
from real_verdicts import codes
from run_folders import write_run
from synthetic import SyntheticRun

import scaler
from scaler.cli import COMMANDS, cli
from scaler.core.rules import RULES
from scaler.job import Job, load_job, parse_job
from scaler.plan import make_plan
from scaler.runs import RunFolder, RunState, find_run, list_runs
from scaler.runs.find import NO_RUNS

Golden = Callable[[str, str], None]


@pytest.fixture
def scaler_command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, digits_path: Path
) -> Iterator[Scaler]:
    """Run a command line at the repository's root, 80 columns wide."""
    monkeypatch.setenv("COLUMNS", "80")
    with command_line(capsys, monkeypatch, digits_path.parents[2]) as command:
        yield command


JOB = "jobs/digits/job.yaml"


def test_help(scaler_command: Scaler, golden: Golden) -> None:
    code, out, err = scaler_command("--help")
    assert (code, err) == (0, "")
    golden("help.txt", out)
    assert scaler_command("-h") == (0, out, "")


@pytest.mark.parametrize("name", COMMANDS)
def test_each_commands_help(scaler_command: Scaler, golden: Golden, name: str) -> None:
    code, out, err = scaler_command(name, "--help")
    assert (code, err) == (0, "")
    golden(f"help-{name}.txt", out)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_list_of_commands_has_the_first_line_of_each_docstring(name: str) -> None:
    command = cli.get_command(None, name)  # type: ignore[arg-type]
    assert command is not None
    assert command.name == name
    assert command.get_short_help_str(limit=200) == COMMANDS[name]


def test_every_command_has_a_file_and_every_file_a_command() -> None:
    files = {path.stem.removesuffix("_command") for path in Path(cli_folder()).glob("*_command.py")}
    assert {name.replace("_", "-") for name in files} == set(COMMANDS)


def cli_folder() -> Path:
    return Path(scaler.__file__).parent / "cli"


def test_the_version(scaler_command: Scaler) -> None:
    assert scaler_command("--version") == (0, f"scaler, version {scaler.__version__}\n", "")


def test_no_command_shows_the_help_as_an_error(scaler_command: Scaler) -> None:
    code, out, err = scaler_command()
    assert (code, out) == (2, "")
    assert err == scaler_command("--help").out


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (
            ["plna", "job.yaml"],
            f'Error: there is no command "plna".\n  Did you mean "plan"? Commands: {", ".join(COMMANDS)}.\n'
            "  scaler --help shows how it is used.\n",
        ),
        (
            ["zzz"],
            f'Error: there is no command "zzz".\n  Commands: {", ".join(COMMANDS)}.\n'
            "  scaler --help shows how it is used.\n",
        ),
        (["plan"], "Error: Missing argument 'JOB'.\n  scaler plan --help shows how it is used.\n"),
        (
            ["plan", JOB, "--bogus"],
            # click's own text, which differs between versions
            f"Error: {click.NoSuchOption('--bogus').format_message()}\n  scaler plan --help shows how it is used.\n",
        ),
        (
            ["plan", JOB, "--learning-rate", "0.1"],
            "Error: no such option: --learning-rate.\n  To set the key of the job: --set reference.lr=VALUE\n"
            "  scaler plan --help shows how it is used.\n",
        ),
        (
            ["list", "--groups", "0.1"],  # it takes no job
            f"Error: {click.NoSuchOption('--groups').format_message()}\n  scaler list --help shows how it is used.\n",
        ),
        (
            ["plan", "nosuch.yaml"],
            "Error: nosuch.yaml: cannot be read: No such file or directory.\n"
            "  scaler submit takes the path of a job file.\n",
        ),
        (
            ["plan", JOB, "--set", "schedule.warmpu=1"],
            'Error: jobs/digits/job.yaml: unknown key "warmpu" in schedule.\n'
            '  Did you mean "warmup"? Known keys: name, warmup, plateau, final_fraction.\n',
        ),
        (
            ["plan", JOB, "--set", "train.epochs"],
            "Error: --set train.epochs is not KEY=VALUE.\n  Such as --set train.epochs=3.\n",
        ),
        (
            ["plan", JOB, "--set", "name='a\x1b[31m'"],  # shown, not obeyed
            "Error: --set name='a\\x1b[31m': is not YAML: unacceptable character #x001b: special characters are not "
            'allowed in "<unicode string>", position 2.\n',
        ),
        (
            ["plan", JOB, "--workers", "0,2"],
            "Error: --workers 0,2 is not a list of whole numbers above 0.\n  Such as --workers 1,2,4,8.\n",
        ),
        (
            ["plan", JOB, "--workers", ""],
            "Error: --workers  is not a list of whole numbers above 0.\n  Such as --workers 1,2,4,8.\n",
        ),
        (
            ["plan", JOB, "--rule", "linear,sqrtt"],
            'Error: --rule linear,sqrtt: "sqrtt" is not a rule.\n'
            f'  Did you mean "sqrt"? Rules: {", ".join(RULES)}; such as --rule linear,sqrt.\n',
        ),
        (
            ["plan", JOB, "--rule", ""],
            f'Error: --rule : "" is not a rule.\n  Rules: {", ".join(RULES)}; such as --rule linear,sqrt.\n',
        ),
        (
            ["plan", JOB, "--rule", "power"],  # one plan that is refused is an error
            "Error: jobs/digits/job.yaml: scale has rule: power and no exponent.\n"
            "  Give exponent: lr_ratio = batch_ratio ** exponent.\n",
        ),
        (
            ["plan", JOB, "--rule", "power,gain"],  # and so are several of which none is left
            "Error: jobs/digits/job.yaml: scale has rule: power and no exponent.\n"
            "  Give exponent: lr_ratio = batch_ratio ** exponent.\n",
        ),
        (
            ["plan", JOB, "--html", "nosuch/plan.html"],
            "Error: nosuch/plan.html: cannot be written: No such file or directory.\n"
            "  Give a file in a folder that exists.\n",
        ),
        (
            ["submit", JOB, "--workers", "0"],
            "Error: Invalid value for '--workers': 0 is not in the range x>=1.\n"
            "  scaler submit --help shows how it is used.\n",
        ),
    ],
)
def test_input_that_cannot_be_used_exits_2(scaler_command: Scaler, arguments: list[str], text: str) -> None:
    assert scaler_command(*arguments) == (2, "", text)


def test_a_run_that_is_not_there_exits_5(scaler_command: Scaler, tmp_path: Path) -> None:
    assert scaler_command("report", "nosuchrun", "--storage", tmp_path) == (
        5,
        "",
        f"Error: there is no run nosuchrun, neither at this path nor in {tmp_path}.\n  {NO_RUNS}\n",
    )


def test_a_bug_exits_1_and_debug_shows_where(scaler_command: Scaler, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise AssertionError("two\x1b[31m")

    monkeypatch.setattr("scaler.cli.schema_command.json.dumps", broken)
    code, out, err = scaler_command("schema")
    assert (code, out) == (1, "")
    assert err.startswith("Error: a bug in scaler: AssertionError: two\\x1b[31m\n")
    with pytest.raises(AssertionError):
        scaler_command("--debug", "schema")


def test_ctrl_c_exits_130(scaler_command: Scaler, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("scaler.cli.schema_command.json.dumps", interrupted)
    assert scaler_command("schema") == (130, "", "\nInterrupted.\n")  # after the ^C


# plan


def test_the_plan_of_the_digits_job(scaler_command: Scaler, golden: Golden) -> None:
    code, out, err = scaler_command("plan", JOB, "--no-estimate")
    assert (code, err) == (0, "")
    golden("plan.txt", out)


@pytest.mark.parametrize("folder", ["jobs/digits", "jobs/digits/", "./jobs/digits"])
def test_a_jobs_folder_stands_for_its_job(scaler_command: Scaler, folder: str) -> None:
    assert scaler_command("plan", folder) == scaler_command("plan", JOB)


def test_a_tilde_that_the_shell_does_not_replace_is_the_home_folder(
    scaler_command: Scaler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, digits_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert scaler_command("init", "~/mine").code == 0
    written = f"Written: {tmp_path / 'plan.html'}\n"
    assert scaler_command("plan", "~/mine", "--html=~/plan.html") == (0, "", written)
    assert {path.name for path in tmp_path.iterdir()} == {"mine", "plan.html"}
    assert scaler_command("list", "--storage=~/runs") == (0, "", f"There are no runs in ~/runs.\n  {NO_RUNS}\n")
    assert scaler_command("plan", "~nosuchuser/job.yaml") == (
        2,
        "",
        "Error: Invalid value for 'JOB': ~nosuchuser/job.yaml: there is no home folder ~nosuchuser.\n"
        "  scaler plan --help shows how it is used.\n",
    )


def test_plans_of_several_sizes_are_a_table(scaler_command: Scaler, golden: Golden) -> None:
    code, out, err = scaler_command("plan", JOB, "--workers", "1,2,4,8,16", "--no-estimate")
    assert (code, err) == (0, "")
    golden("plans.txt", out)


def test_the_plan_in_json_is_the_plan(scaler_command: Scaler) -> None:
    options = ("--json", "--no-estimate", "--set", "train.epochs=3", "--workers", "4")
    code, out, err = scaler_command("plan", JOB, *options)
    assert (code, err) == (0, "")
    planned = make_plan(load_job(Path(JOB), overrides=["train.epochs=3"], workers=4))
    assert json.loads(out) == json.loads(json.dumps(planned.to_dict()))


def test_plans_in_json_are_a_list(scaler_command: Scaler) -> None:
    code, out, err = scaler_command("plan", JOB, "--json", "--workers", "1, 2,4")
    assert (code, err) == (0, "")
    assert [plan["world_size"] for plan in json.loads(out)["plans"]] == [1, 2, 4]


ADAMW = ("--set", "reference.optimizer={name: adamw}")


def test_rules_are_compared_and_a_refused_one_is_a_row(scaler_command: Scaler, golden: Golden) -> None:
    code, out, err = scaler_command("plan", JOB, *ADAMW, "--rule", "sqrt,adam_sde,power", "--workers", "1,2")
    assert (code, err) == (0, "")
    golden("plans-refused.txt", out)


def test_refused_plans_in_json_are_a_list_of_their_own(scaler_command: Scaler) -> None:
    code, out, err = scaler_command("plan", JOB, *ADAMW, "--rule", "sqrt,adam_sde,power", "--workers", "1,2", "--json")
    assert (code, err) == (0, "")
    values = json.loads(out)
    assert list(values) == ["plans", "refused"]
    assert [(plan["rule"], plan["world_size"]) for plan in values["plans"]] == [
        ("sqrt", 1),
        ("sqrt", 2),
        ("adam_sde", 1),
    ]
    assert [(case["rule"], case["workers"]) for case in values["refused"]] == [
        ("adam_sde", 2),
        ("power", 1),
        ("power", 2),
    ]
    assert values["refused"][1] == {
        "workers": 1,
        "rule": "power",
        "problem": "jobs/digits/job.yaml: scale has rule: power and no exponent.",
        "remedy": "Give exponent: lr_ratio = batch_ratio ** exponent.",
    }


def test_options_of_one_rule_are_left_out_for_the_others(scaler_command: Scaler) -> None:
    options = ("--set", "scale.exponent=0.75", "--set", "scale.noise_scale=240")
    code, out, err = scaler_command("plan", JOB, *options, "--rule", "linear,power,gain", "--json")
    assert (code, err) == (0, "")
    values = json.loads(out)
    assert [round(plan["lr_ratio"], 3) for plan in values["plans"]] == [16.0, 8.0, 8.258]
    assert values["refused"] == []


def test_a_job_that_is_wrong_whatever_the_rule_is_an_error(scaler_command: Scaler) -> None:
    outcome = scaler_command("plan", JOB, "--rule", "linear,sqrt", "--set", "schedule.warmpu=1", "--json")
    assert outcome == scaler_command("plan", JOB, "--set", "schedule.warmpu=1")
    assert outcome.code == 2


def test_the_page_of_plans_is_written_and_named(scaler_command: Scaler, tmp_path: Path) -> None:
    page = tmp_path / "plan.html"
    assert scaler_command("plan", JOB, "--html", page) == (0, "", f"Written: {page}\n")
    assert page.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    code, out, err = scaler_command("plan", JOB, "--html", page, "--json", "--rule", "linear,power")
    assert (code, err, len(json.loads(out)["plans"])) == (0, f"Written: {page}\n", 1)
    assert "Give exponent: lr_ratio" in page.read_text(encoding="utf-8")


ELASTIC = ("--set", "scale.num_workers={min: 1, max: 2}")


def test_an_elastic_job_is_planned_as_it_will_run_at_each_size(scaler_command: Scaler) -> None:
    held = (*ELASTIC, "--set", "scale.on_resize=hold_global_batch")
    code, out, err = scaler_command("plan", JOB, *held, "--workers", "1,2,4", "--json")
    assert (code, err) == (0, "")
    found = [(plan["world_size"], plan["global_batch_size"]) for plan in json.loads(out)["plans"]]
    assert found == [(1, 256), (2, 256), (4, 256)]  # 4 are more than it may get: the batch is held for them too
    _, out, _ = scaler_command("plan", JOB, *ELASTIC, "--workers", "1,2", "--json")
    assert [plan["global_batch_size"] for plan in json.loads(out)["plans"]] == [128, 256]


def test_the_plan_of_an_elastic_job_says_so(scaler_command: Scaler) -> None:
    code, out, err = scaler_command("plan", JOB, *ELASTIC)
    assert (code, err) == (0, "")
    assert (
        out.splitlines()[1]
        == "  workers       2         elastic, 1 to 2; scale_with_batch: batch and learning rate are planned"
    )


def test_an_elastic_job_that_has_no_plan_at_a_smaller_size_is_refused(scaler_command: Scaler) -> None:
    only_large = ("--set", "scale.rule=none", "--set", "scale.co_scale.momentum=true")
    large_reference = ("--set", "reference.global_batch_size=2560")  # 128 / 2560 is below 1 - momentum
    arguments = ("plan", JOB, *ELASTIC, *only_large, *large_reference)
    text = (
        "Error: on 1 worker: scale.co_scale.momentum: 1 - (1 - 0.9) / 0.05 is below 0.\n"
        "  Use a global batch of at least 256 (reference 2560).\n"
    )
    assert scaler_command(*arguments) == (2, "", text)
    assert scaler_command("submit", *arguments[1:], "--quiet") == (2, "", text)
    code, out, _ = scaler_command(*arguments, "--workers", "1,2", "--json")
    assert (code, len(json.loads(out)["plans"]), len(json.loads(out)["refused"])) == (0, 1, 1)


def test_a_plan_prints_to_a_stream_that_takes_ascii_only(digits_path: Path) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    line = f'from scaler.cli import run; raise SystemExit(run(["plan", {str(digits_path)!r}]))'
    done = subprocess.run([sys.executable, "-c", line], capture_output=True, env=environment)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"\n0.16 +" in done.stdout


# The recipe gives what the plan needs of the model


GROUPS = """[
    {"match": "bias", "lr_ratio": 2.0},
    {"match": "weight", "freeze": {"epochs": 1}},
]"""


def test_a_job_with_groups_is_planned_with_its_recipes_parameters(
    scaler_command: Scaler, make_job: Callable[..., Path]
) -> None:
    path = make_job("grouped")
    code, out, err = scaler_command("plan", path, "--set", "groups=[{match: bias, lr_ratio: 0.5}]", "--json")
    assert (code, err) == (0, "")
    groups = json.loads(out)["groups"]
    assert [(group["name"], group["tensors"]) for group in groups] == [
        ("everything else", {"weight": 2}),
        ("bias", {"bias": 1}),
    ]


def test_the_job_that_runs_has_the_groups_of_the_recipe(scaler_command: Scaler, make_job: Callable[..., Path]) -> None:
    path = make_job("own", groups=GROUPS)
    code, out, err = scaler_command("plan", path, "--set", "groups=recipe", "--json")
    assert (code, err) == (0, "")
    planned = json.loads(out)
    assert [(group["name"], group["lr_ratio"], group["unfreeze_at"]) for group in planned["groups"]] == [
        ("weight", 1.0, 20),
        ("bias", 2.0, None),
    ]
    code, _, err = scaler_command("submit", path, *HERE, "--quiet", "--set", "groups=recipe")
    assert code == 0, err
    (folder,) = list_runs(str(path.parent / "runs"))
    assert folder.read_json("plan.json") == planned
    job = yaml.safe_load(folder.read("job.yaml"))
    assert [(group["match"], group["lr_ratio"]) for group in job["groups"]] == [("bias", 2.0), ("weight", None)]


def test_a_recipe_is_built_once_for_many_plans(scaler_command: Scaler, make_job: Callable[..., Path]) -> None:
    path = make_job("once", first="print('built')")
    code, out, err = scaler_command(
        "plan", path, "--set", "groups=[{match: bias, lr_ratio: 0.5}]", "--workers", "1,2,4", "--rule", "linear,sqrt"
    )
    assert (code, err) == (0, "built\n")
    assert out.startswith("Plans of once\n")


@pytest.mark.parametrize(
    ("groups", "text"),
    [
        (
            '[{"match": "bias", "lr": 0.1}]',
            'recipe_wrong:build: unknown key "lr" in groups.0.\n'
            '  Did you mean "lr_ratio"? Known keys: match, lr_ratio, weight_decay, freeze.\n',
        ),
        (
            '["bias"]',
            "recipe_wrong:build: groups.0 = bias must be keys and values.\n"
            "  groups: Parameters with a learning rate, weight decay or freezing of their own. recipe: the "
            "recipe has the list.\n",
        ),
        (
            '{"bias": 0.1}',
            "recipe_wrong:build: groups is a dict, not a list.\n"
            '  Such as scaler.Recipe(groups=[{"match": "backbone.*", "lr_ratio": 0.1}], ...).\n',
        ),
        (
            "()",
            "PATH: groups = recipe, and recipe_wrong:build gives none.\n"
            '  Return scaler.Recipe(groups=[{"match": "backbone.*", "lr_ratio": 0.1}], ...), or leave the key out.\n',
        ),
        (
            '[{"match": "head.*", "lr_ratio": 0.1}]',
            "groups: match = head.* matches none of the model's 2 parameters.\n  They are named weight, bias.\n",
        ),
    ],
)
@pytest.mark.parametrize("command", ["plan", "submit"])
def test_groups_of_a_recipe_that_cannot_be_used_exit_2(
    scaler_command: Scaler, make_job: Callable[..., Path], command: str, groups: str, text: str
) -> None:
    path = make_job("wrong", groups=groups)
    outcome = scaler_command(command, path, "--set", "groups=recipe")
    assert outcome == (2, "", f"Error: {text.replace('PATH', str(path))}")


# init, schema, list


def test_init_makes_a_job_that_plan_takes(scaler_command: Scaler, tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "mine"
    assert scaler_command("init", folder) == (
        0,
        f"{folder}/job.yaml\n{folder}/recipe.py\n",
        "Next:\n"
        f"  scaler plan {folder}/job.yaml    every number of the training, with its reason\n"
        f"  scaler submit {folder}/job.yaml  train on 2 workers, and show the report\n",
    )
    assert sorted(path.name for path in folder.iterdir()) == ["job.yaml", "recipe.py"]
    code, out, err = scaler_command("plan", folder / "job.yaml")
    assert (code, err) == (0, "")
    assert out.startswith("Plan of mine\n"), "the folder's name"
    assert "Warning" not in out


@pytest.mark.parametrize("name", ["job.yaml", "recipe.py"])
def test_init_overwrites_nothing(scaler_command: Scaler, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    assert scaler_command("init", tmp_path) == (
        2,
        "",
        f"Error: {tmp_path}/{name} exists already.\n  Give a new folder; nothing was written.\n",
    )
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "mine"


def test_init_below_a_file_is_refused(scaler_command: Scaler, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    code, out, err = scaler_command("init", tmp_path / "file" / "mine")
    assert (code, out) == (2, "")
    assert (
        err
        == f"Error: {tmp_path}/file/mine: cannot be written: Not a directory.\n  Give a folder that can be written.\n"
    )


def test_the_schema_takes_jobs_and_refuses_others(scaler_command: Scaler, tmp_path: Path) -> None:
    code, out, err = scaler_command("schema")
    assert (code, err) == (0, "")
    schema = json.loads(out)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    jsonschema.Draft202012Validator.check_schema(schema)
    scaler_command("init", tmp_path)
    for path in (Path(JOB), tmp_path / "job.yaml"):
        jsonschema.validate(yaml.safe_load(path.read_text()), schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"name": "digits"}, schema)


def made_run(storage: Path, job: Job, *, state: str = "succeeded") -> RunFolder:
    """A run without any record."""
    from datetime import datetime

    folder = RunFolder.create(str(storage), name=job.name, now=datetime(2026, 1, 2, 12, 0, 0))
    folder.write("job.yaml", yaml.safe_dump(job.model_dump(mode="json")))
    folder.write_json("plan.json", make_plan(job).to_dict())
    folder.set_state(RunState(state))
    return folder


def test_runs_are_listed(scaler_command: Scaler, tmp_path: Path, digits: Callable[..., Job]) -> None:
    assert scaler_command("list", "--storage", tmp_path) == (0, "", f"There are no runs in {tmp_path}.\n  {NO_RUNS}\n")
    folder = made_run(tmp_path, digits())
    assert scaler_command("list", "--storage", tmp_path) == (0, f"{folder.run_id}  succeeded\n", "")


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("plan.json", "{}", "plan.json is not a plan: 'schema_version'."),
        ("plan.json", "{", "plan.json is not JSON: "),
        ("status.json", '{"state": "asleep"}', "status.json has the state asleep, "),
        ("job.yaml", "a: [", "job.yaml"),
        ("job.yaml", "a: 1", "job.yaml"),
        ("job.yaml", "", "job.yaml"),
    ],
)
def test_a_run_that_was_altered_exits_5(
    scaler_command: Scaler, tmp_path: Path, digits: Callable[..., Job], name: str, content: str, text: str
) -> None:
    folder = made_run(tmp_path, digits())
    folder.write(name, content)
    code, out, err = scaler_command("report", folder.run_id, "--storage", tmp_path)
    assert (code, out) == (5, "")
    assert err.startswith("Error: ")
    assert text in err


def test_a_report_leaves_out_records_that_cannot_be_read(
    scaler_command: Scaler, tmp_path: Path, digits: Callable[..., Job]
) -> None:
    folder = made_run(tmp_path, digits())
    folder.write("metrics/00000000-00000000.parquet", "not parquet")
    code, out, err = scaler_command("report", folder.run_id, "--storage", tmp_path, "--json")
    assert (code, err) == (0, "")
    assert "records_unreadable" in [verdict["code"] for verdict in json.loads(out)["verdicts"]]


# submit, in this process


RECIPE = """
import torch, scaler
from torch import nn
from torch.utils.data import TensorDataset

def build(depth=None, word="x"):
    {first}
    data = TensorDataset(torch.zeros(20, 2), torch.zeros(20, 1))
    return scaler.Recipe(
        model=nn.Linear(2, 1), train_data=data, eval_data=data,
        loss=lambda model, batch: {loss}, groups={groups},
        evaluate=lambda model, batch: {{{metric!r}: torch.tensor(0.5)}},
    )
"""


@pytest.fixture
def make_job(tmp_path: Path) -> Callable[..., Path]:
    """Write a job of 20 samples and its recipe; returns the job file."""

    def make(
        name: str,
        *,
        first: str = "pass",
        loss: str = "((model(batch[0]) - batch[1]) ** 2).mean()",
        metric: str = "mse",
        groups: str = "()",
    ) -> Path:
        recipe = RECIPE.format(first=first, loss=loss, metric=metric, groups=groups)
        (tmp_path / f"recipe_{name}.py").write_text(recipe)
        job = {
            "name": name,
            "recipe": f"recipe_{name}:build",
            "reference": {"global_batch_size": 4, "lr": 0.1, "optimizer": {"name": "sgd"}},
            "scale": {"per_worker_batch_size": 4},
            "train": {"epochs": 2, "num_samples": 20},
            "storage": str(tmp_path / "runs"),
        }
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(job))
        return path

    return make


HERE = ("--address", "none", "--workers", "1")


def test_a_run_from_end_to_end(scaler_command: Scaler, tmp_path: Path) -> None:
    overrides = ["--set", "train.epochs=1", "--set", f"storage={tmp_path}"]
    code, out, err = scaler_command("submit", JOB, *HERE, *overrides)
    assert code == 0, err
    (folder,) = list_runs(str(tmp_path))
    assert out.startswith(f"{folder.run_id}  succeeded\n\n")
    assert codes(folder.read_json("report.json")) == []
    assert err.startswith("Plan of digits\n")
    assert f"\nRun {folder.run_id}: in this process\n" in err
    assert err.endswith(f"\nReport: {tmp_path}/{folder.run_id}/report.html\n")
    assert {"job.yaml", "plan.json", "status.json", "events.jsonl", "metrics", "report.json", "report.md"} <= set(
        folder.names("")
    )
    assert folder.read("report.html").lower().startswith(b"<!doctype html>")
    report = folder.read_json("report.json")
    assert (report["state"], report["totals"]["samples_seen"], report["totals"]["steps"]) == ("succeeded", 1437, 12)
    assert report["lr_audit"] == {"checked_steps": 12, "max_abs_error": 0.0, "as_planned": True}
    assert report["final"]["eval"]["accuracy"] > 0.1
    # What the plan command prints is what ran.
    planned = scaler_command("plan", JOB, "--workers", "1", *overrides, "--json", "--no-estimate")
    assert json.loads(planned.out) == folder.read_json("plan.json")
    # The report can be made again from the folder alone.
    again = scaler_command("report", folder.run_id, "--storage", tmp_path, "--json")
    assert (again.code, json.loads(again.out), again.err) == (0, report, "")
    assert scaler_command("report", "last", "--storage", tmp_path).out == out
    markdown = scaler_command("report", folder.uri, "--markdown")
    assert (markdown.code, markdown.out.encode()) == (0, folder.read("report.md"))
    page = tmp_path / "page.html"
    assert scaler_command("report", folder.uri, "--html", page) == (0, "", f"Written: {page}\n")
    assert page.read_bytes() == folder.read("report.html")


def test_submit_json_is_the_report_and_nothing_else(scaler_command: Scaler, make_job: Callable[..., Path]) -> None:
    code, out, err = scaler_command("submit", make_job("json"), *HERE, "--json", "--quiet")
    assert code == 0
    assert json.loads(out)["state"] == "succeeded"
    assert re.fullmatch(r"Report: .*/report\.html\n", err)


def test_the_job_in_the_folder_is_the_job_that_ran(scaler_command: Scaler, make_job: Callable[..., Path]) -> None:
    path = make_job("same")
    overrides = ["recipe_args={depth: null, word: '1e-3'}", "reference.optimizer.weight_decay=1e-5"]
    options = [part for override in overrides for part in ("--set", override)]
    code, _, err = scaler_command("submit", path, *HERE, *options)
    assert code == 0, err
    folder = find_run("last", storage=str(path.parent / "runs"))
    job = load_job(path, overrides=overrides, workers=1)
    assert parse_job(yaml.safe_load(folder.read("job.yaml")), source="job.yaml") == job
    assert folder.local_path is not None
    assert load_job(folder.local_path / "job.yaml") == job


def test_a_recipe_that_raises_exits_4_with_its_own_traceback(
    scaler_command: Scaler, make_job: Callable[..., Path]
) -> None:
    path = make_job("raises", first='raise KeyError("boom")')
    code, out, err = scaler_command("submit", path, *HERE)
    (folder,) = list_runs(str(path.parent / "runs"))
    assert code == 4
    assert out.startswith(f"{folder.run_id}  failed\n\nnot_finished  The run failed after 0% of the training.\n")
    assert "\nError: rank 0 failed: KeyError: 'boom'\n  Traceback (most recent call last):\n" in err
    assert f'    File "{path.parent}/recipe_raises.py", line 7, in build\n      raise KeyError("boom")\n' in err
    assert err.endswith("\n  KeyError: 'boom'\n")
    assert folder.state() is RunState.FAILED
    assert "boom" in folder.read_json("report.json")["failure"]


def test_a_recipe_whose_module_is_not_installed_says_what_to_install(
    scaler_command: Scaler, make_job: Callable[..., Path]
) -> None:
    path = make_job("lacks", first="import nosuchvision.transforms")
    text = " needs the module nosuchvision, which is not installed.\n  pip install nosuchvision\n"
    outcome = scaler_command("plan", path, "--set", "train.num_samples=null")
    assert outcome == (4, "", f"Error: recipe_lacks:build{text}")
    code, _, err = scaler_command("submit", path, *HERE, "--quiet")
    assert code == 4
    assert err.startswith("Report: ")
    assert err.partition("\n")[2] == f"Error: rank 0{text}"
    path = make_job("partly", first="import json.nosuch")  # pip would not help
    code, _, err = scaler_command("plan", path, "--set", "train.num_samples=null")
    assert code == 4
    assert err.startswith("Error: recipe_partly:build failed: ModuleNotFoundError: No module named 'json.nosuch'")


@pytest.mark.parametrize("command", ["plan", "submit"])
def test_a_recipe_that_raises_when_its_data_is_counted_exits_4_too(
    scaler_command: Scaler, make_job: Callable[..., Path], command: str
) -> None:
    path = make_job("counted", first='raise KeyError("boom")')
    options = HERE if command == "submit" else ()
    code, out, err = scaler_command(command, path, *options, "--set", "train.num_samples=null")
    assert (code, out) == (4, "")
    assert f'    File "{path.parent}/recipe_counted.py", line 7, in build\n      raise KeyError("boom")\n' in err
    assert err.endswith("\n  KeyError: 'boom'\n")


def test_the_samples_are_counted_where_the_job_does_not_have_the_number(
    scaler_command: Scaler, make_job: Callable[..., Path]
) -> None:
    code, out, err = scaler_command("plan", make_job("count"), "--set", "train.num_samples=null", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["num_samples"] == 20


def test_a_recipe_that_is_not_there_exits_2_and_makes_no_run(
    scaler_command: Scaler, make_job: Callable[..., Path]
) -> None:
    path = make_job("gone")
    code, out, err = scaler_command("submit", path, *HERE, "--quiet", "--set", "recipe=recipe_nosuch:build")
    assert (code, out, err) == (
        2,
        "",
        "Error: recipe = recipe_nosuch:build: there is no module recipe_nosuch.\n"
        '  Did you mean "recipe_gone:build"? '
        f"Python searches {path.parent}, PYTHONPATH and the installed packages.\n",
    )
    assert list_runs(str(path.parent / "runs")) == []


def test_two_workers_without_ray_exit_2_and_make_no_run(scaler_command: Scaler, make_job: Callable[..., Path]) -> None:
    path = make_job("two")
    outcome = scaler_command("submit", path, "--address", "none", "--workers", "2", "--quiet")
    assert outcome == (2, "", "Error: --address none runs one worker, and the job asks for 2.\n  Add --workers 1.\n")
    assert list_runs(str(path.parent / "runs")) == []


@pytest.mark.parametrize("metric", ["a\x1b[31mb", "acc[top]", "acc[/x]", "[bold]", "a\nb"])
def test_the_name_of_a_metric_is_shown_and_not_interpreted(
    scaler_command: Scaler, make_job: Callable[..., Path], metric: str
) -> None:
    code, out, err = scaler_command("submit", make_job("named", metric=metric), *HERE)
    assert code == 0, err
    shown = metric.replace("\x1b", "\\x1b").splitlines()[0]
    assert f"eval {shown}" in out
    assert f"  {shown}" in err
    assert "\x1b" not in out + err


def test_a_storage_with_brackets_is_shown_unchanged(
    scaler_command: Scaler, make_job: Callable[..., Path], tmp_path: Path
) -> None:
    code, _, err = scaler_command("submit", make_job("where"), *HERE, "--quiet", "--set", f"storage={tmp_path}/a[b]c")
    (folder,) = list_runs(f"{tmp_path}/a[b]c")
    assert (code, err) == (0, f"Report: {tmp_path}/a[b]c/{folder.run_id}/report.html\n")


def test_a_loss_that_becomes_nan_is_reported(scaler_command: Scaler, make_job: Callable[..., Path]) -> None:
    path = make_job("nan", loss="(model(batch[0]) * float('nan')).mean()")
    unguarded = ["--set", "failures.divergence=null"]
    code, out, err = scaler_command("submit", path, *HERE, "--quiet", "--json", *unguarded)
    assert code == 0, err
    values: dict[str, Any] = json.loads(out)
    assert values["final"]["train_loss_mean"] is None
    assert codes(values) == ["loss_not_finite"]


def test_a_loss_that_becomes_nan_stops_the_run(scaler_command: Scaler, make_job: Callable[..., Path]) -> None:
    path = make_job("nan", loss="(model(batch[0]) * float('nan')).mean()")
    code, out, err = scaler_command("submit", path, *HERE, "--quiet", "--json")
    assert code == 4
    assert "Error: the training diverged: loss is nan.\n  Lower reference.lr, warm up longer" in err
    values: dict[str, Any] = json.loads(out)
    assert values["state"] == "failed"
    assert codes(values) == ["not_finished", "diverged"]


def test_a_hostile_run_hides_no_other_run(scaler_command: Scaler, tmp_path: Path) -> None:
    storage = tmp_path / "runs"
    for name in (
        "a-20260101-120000-aaaa",
        "b-20260101-120001-aaaa",
        "c-20260101-120002-aaaa",
        "d-20260101-120003-aaaa",
    ):
        (storage / name).mkdir(parents=True)
    good, nested, pipe, link = sorted(storage.iterdir())
    (good / "status.json").write_text('{"state": "succeeded"}')
    (nested / "status.json").write_text("[" * 200_000)
    os.mkfifo(pipe / "status.json")
    (link / "status.json").symlink_to("/dev/zero")
    code, out, err = scaler_command("list", "--storage", storage)
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        f"{good.name}  succeeded",
        f"{nested.name}  unreadable  run {nested.name}: status.json is not JSON: it is nested too deep.",
        f"{pipe.name}  unreadable  run {pipe.name}: status.json is not a file, but a folder, a pipe or a device.",
        f"{link.name}  unreadable  run {link.name}: status.json is a link that leads out of the run's folder.",
    ]
    for bad in (nested, pipe, link):
        code, out, err = scaler_command("report", bad.name, "--storage", storage)
        assert (code, out) == (5, "")
        assert err.startswith("Error: run ")


@pytest.mark.parametrize("name", ["plan.json", "status.json", "events.jsonl"])
@pytest.mark.parametrize("kind", ["nested", "pipe"])
def test_no_file_of_a_run_makes_its_report_hang_or_fail_with_a_bug(
    scaler_command: Scaler, tmp_path: Path, synthetic_run: SyntheticRun, name: str, kind: str
) -> None:
    folder = write_run(str(tmp_path / "runs"), "a-20260101-120000-aaaa", synthetic_run.attempt(0))
    path = Path(folder.uri) / name
    path.unlink()
    if kind == "nested":
        path.write_text("[" * 200_000 + "\n")
    else:
        os.mkfifo(path)
    code, _, err = scaler_command("report", folder.run_id, "--storage", tmp_path / "runs")
    assert code == (0 if (name, kind) == ("events.jsonl", "nested") else 5), err
    assert "a bug in scaler" not in err


def test_missing_gpus_are_refused_before_anything_is_started(
    scaler_command: Scaler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scaler.training.device.gpus_here", lambda: 0)
    wants = ["--quiet", "--set", "resources.gpus_per_worker=1", "--set", f"storage={tmp_path}/runs", "--workers", "1"]
    for address, needs in (
        ([], "1 CPU, 1 GPU, and this machine has"),
        (["--address", "none"], "1 GPU, and this machine"),
    ):
        code, out, err = scaler_command("submit", JOB, *wants, *address)
        assert (code, out) == (3, "")
        assert err.startswith(f"Error: 1 worker needs {needs}")
        assert err.endswith("0 GPU.\n  To train on CPUs: --set resources.gpus_per_worker=0.\n")
    assert not (tmp_path / "runs").exists()
