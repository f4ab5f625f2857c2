"""The runtime environment that ``ray.init`` and Ray Jobs get; the tests need no cluster."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from scaler.cluster.runtime_env import merged_runtime_env
from scaler.cluster.shipment import JOB_CONFIG
from scaler.errors import JobFileError
from scaler.job import Job

SENT = {"working_dir": "/job", "excludes": ["/runs"], "py_modules": ["/scaler"], "env_vars": {"PYTHONPATH": "/lib"}}


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(JOB_CONFIG, raising=False)
    monkeypatch.setenv("PYTHONHASHSEED", "0")
    monkeypatch.setenv("MY_TOKEN", "secret-secret")


def test_what_the_job_asks_for_is_added_to_the_files(digits: Callable[..., Job], tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").touch()
    (tmp_path / "pkg").mkdir()
    asked = "{pip: requirements.txt, env_vars: {HF_TOKEN: '${MY_TOKEN}'}, py_modules: [pkg, 's3://bucket/x.zip']}"
    assert merged_runtime_env(SENT, digits(f"runtime_env={asked}"), folder=tmp_path) == {
        "working_dir": "/job",
        "excludes": ["/runs"],
        "py_modules": ["/scaler", str(tmp_path / "pkg"), "s3://bucket/x.zip"],
        "env_vars": {"PYTHONHASHSEED": "0", "PYTHONPATH": "/lib", "HF_TOKEN": "secret-secret"},
        "pip": str(tmp_path / "requirements.txt"),
    }
    assert merged_runtime_env(SENT, digits("runtime_env={uv: [einops]}"), folder=tmp_path)["uv"] == ["einops"]
    with pytest.raises(JobFileError, match=r"^runtime_env.uv: there is no .*/none.txt.\n"):
        merged_runtime_env(SENT, digits("runtime_env={uv: none.txt}"), folder=tmp_path)


def test_no_files_are_sent_into_an_image(digits: Callable[..., Job], tmp_path: Path) -> None:
    merged = merged_runtime_env(SENT, digits("runtime_env={image_uri: me/image}"), folder=tmp_path)
    assert merged == {"image_uri": "me/image", "env_vars": {"PYTHONHASHSEED": "0", "PYTHONPATH": "/lib"}}


def test_what_the_ray_job_has_is_not_given_again(
    digits: Callable[..., Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The driver of a Ray job has HF_TOKEN, and not MY_TOKEN of the machine that submitted it."""
    job = digits("runtime_env={pip: [einops], env_vars: {HF_TOKEN: '${MY_TOKEN}', MODE: fast}}")
    of_ray_job = merged_runtime_env(SENT, job, folder=tmp_path)
    monkeypatch.setenv(JOB_CONFIG, json.dumps({"runtime_env": of_ray_job}))
    monkeypatch.delenv("MY_TOKEN")
    assert merged_runtime_env({"env_vars": {"PYTHONPATH": "/lib"}}, job, folder=tmp_path) == {}
