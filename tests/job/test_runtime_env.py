"""The section ``runtime_env``: what may be in it, and how its values are filled in."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from scaler.errors import JobFileError
from scaler.job import Job, dump_job, read_job
from scaler.job.load import masked_keys
from scaler.job.runtime_env import RuntimeEnv, filled_in, job_environment

MISSING = "  The path is relative to the job file's folder."


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("{pip: [a], uv: [b]}", "runtime_env has pip and uv, and Ray installs with one of them.\n  Keep one:"),
        ("{pip: [a], image_uri: b}", "runtime_env has pip and image_uri, and Ray puts nothing into an image.\n  Put"),
        ("{py_modules: [a], image_uri: b}", "runtime_env has py_modules and image_uri, and Ray puts nothing"),
        ("{pip: [a, 1]}", "runtime_env.pip.1 = 1 is not text.\n"),
        ("{uv: []}", "runtime_env.uv = [] is too short.\n"),
        ("{env_vars: {A: 1}}", 'runtime_env.env_vars has A = 1, which is not text.\n  Write A: "1".'),
        ("{env_vars: {A-B: x}}", "runtime_env.env_vars has 'A-B', which is no name of a variable.\n"),
        ("{env_vars: [A]}", "runtime_env.env_vars = ['A'] must be keys and values.\n"),
        ("{py_modules: a}", "runtime_env.py_modules = a is not a list.\n  Write py_modules: [a]."),
        ("{pips: [a]}", 'unknown key "pips" in runtime_env.\n  Did you mean "pip"?'),
    ],
)
def test_what_may_not_be_in_it(digits: Callable[..., Job], value: str, problem: str) -> None:
    with pytest.raises(JobFileError) as caught:
        digits(f"runtime_env={value}")
    assert problem in str(caught.value)


def test_a_secret_is_masked_in_the_runs_job_and_a_reference_to_one_stays(digits: Callable[..., Job]) -> None:
    secrets = "{HF_TOKEN: '${HF_TOKEN}', API_KEY: hunter2-hunter2, MODE: fast}"
    job = digits(f"runtime_env={{pip: ['--index-url https://me:hunter2@host/simple', einops], env_vars: {secrets}}}")
    text = dump_job(job)
    assert "hunter2" not in text
    again = read_job(text.encode(), source="JOB")
    assert again.runtime_env.env_vars == {"HF_TOKEN": "${HF_TOKEN}", "API_KEY": "***", "MODE": "fast"}
    assert masked_keys(again) == ["runtime_env.pip", "runtime_env.env_vars.API_KEY"]
    assert masked_keys(job) == []


def test_a_variable_that_is_not_set_is_named() -> None:
    assert filled_in({"A": "x-${B}-${C}"}, {"B": "1", "C": ""}) == {"A": "x-1-"}
    with pytest.raises(JobFileError) as caught:
        filled_in({"HF_TOKEN": "${MY_TOKEN}"}, {})
    assert str(caught.value) == (
        "runtime_env.env_vars.HF_TOKEN = ${MY_TOKEN}: the environment variable MY_TOKEN is not set.\n"
        "  export MY_TOKEN=..."
    )


@pytest.mark.parametrize(("value", "environment"), [("$HOME/x", {}), ("${A}", {"A": "pa$$word"}), ("${a b}", {})])
def test_a_value_that_ray_would_change_is_refused_and_not_shown(value: str, environment: dict[str, str]) -> None:
    with pytest.raises(JobFileError) as caught:
        filled_in({"X": value}, environment)
    assert str(caught.value).startswith("runtime_env.env_vars.X: its value has a $ before a name")
    assert "pa$$word" not in str(caught.value)


def test_variables_and_modules_hold_in_this_process_and_are_restored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OLD", "before")
    monkeypatch.delenv("NEW", raising=False)
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    (tmp_path / "lib" / "pkg").mkdir(parents=True)
    (tmp_path / "job").mkdir()
    before = list(sys.path)
    env = RuntimeEnv(env_vars={"OLD": "now", "NEW": "1"}, py_modules=("../lib/pkg", "s3://bucket/x.zip"))
    with job_environment(env, folder=tmp_path / "job"):
        assert (os.environ["OLD"], os.environ["NEW"]) == ("now", "1")
        assert os.environ["PYTHONPATH"] == f"{tmp_path}/lib{os.pathsep}/elsewhere"
        assert str(tmp_path / "lib") in sys.path
    assert (os.environ["OLD"], os.environ.get("NEW"), os.environ["PYTHONPATH"]) == ("before", None, "/elsewhere")
    assert sys.path == before
    missing = RuntimeEnv(py_modules=("lib",))
    with pytest.raises(JobFileError) as caught, job_environment(missing, folder=tmp_path / "job"):
        pass
    assert str(caught.value) == f"runtime_env.py_modules: there is no {tmp_path}/job/lib.\n{MISSING}"
