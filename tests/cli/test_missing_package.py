"""A Python without the packages that scaler needs is named, and is no bug of scaler."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from scaler.cli.missing_package import EXIT_CODE, PACKAGES, missing_package_text
from scaler.errors import ClusterError

REPOSITORY = Path(__file__).parents[2]


def test_each_dependency_of_the_package_is_known() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert set(PACKAGES.values()) == {re.split("[<>=]", each)[0] for each in project["dependencies"]}
    assert ClusterError.exit_code == EXIT_CODE


def test_only_a_dependency_that_is_missing_is_a_missing_package() -> None:
    assert missing_package_text(ModuleNotFoundError("No module named 'json5'", name="json5")) is None
    assert missing_package_text(ModuleNotFoundError("No module named 'scaler.x'", name="scaler.x")) is None
    assert missing_package_text(ImportError("cannot import name 'x' from 'rich'", name="rich")) is None


@pytest.mark.parametrize("missing", ["click", "yaml", "rich"])
def test_a_python_without_a_package_is_named_with_what_to_type(missing: str, tmp_path: Path) -> None:
    program = f"""
import importlib.abc, runpy, sys


class Without(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == {missing!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)


sys.meta_path.insert(0, Without())
sys.argv = ["scaler", "plan", "job.yaml"]
runpy.run_module("scaler", run_name="__main__")
"""
    (tmp_path / "job.yaml").write_bytes((REPOSITORY / "jobs/digits/job.yaml").read_bytes())
    (tmp_path / "recipe.py").write_bytes((REPOSITORY / "jobs/digits/recipe.py").read_bytes())
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=60,
    )
    package = PACKAGES[missing]
    assert (done.returncode, done.stderr) == (
        3,
        f"Error: the Python at {sys.executable} has no package {package}, which scaler needs.\n"
        f"  Install it there: {sys.executable} -m pip install '{package}'\n"
        "  Or start scaler, or the cluster, with a Python that has it.\n",
    )
