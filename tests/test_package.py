"""What is published: the contents of the sdist and the wheel, their metadata, and the licences of what scaler needs."""

import email
import importlib.util
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType

import pytest

import scaler

ROOT = Path(__file__).parents[1]
NAME = f"scaler-{scaler.__version__}"
BESIDE = {"CHANGELOG.md", "LICENSE", "MANIFEST.in", "README.md", "SECURITY.md", "docs/licences.md", "pyproject.toml"}
MADE = {"PKG-INFO", "setup.cfg"}  # by the build
BUILD = "import sys; from setuptools import build_meta; getattr(build_meta, sys.argv[1])(sys.argv[2])"


def tracked(*folders: str) -> set[str]:
    listed = subprocess.run(["git", "ls-files", *folders], cwd=ROOT, capture_output=True, text=True, check=True)
    return {name for name in listed.stdout.splitlines() if (ROOT / name).exists()}


def build(source: Path, what: str, folder: Path) -> None:
    subprocess.run([sys.executable, "-c", BUILD, what, str(folder)], cwd=source, check=True, capture_output=True)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist, made from the tracked files, and the wheel, made from the sdist."""
    folder = tmp_path_factory.mktemp("package")
    for name in tracked():
        (folder / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / "tree" / name)
    build(folder / "tree", "build_sdist", folder)
    with tarfile.open(folder / f"{NAME}.tar.gz") as archive:
        archive.extractall(folder, filter="data")
    build(folder / NAME, "build_wheel", folder)
    return folder


def test_the_sdist_has_the_package_and_no_tests_or_jobs(built: Path) -> None:
    with tarfile.open(built / f"{NAME}.tar.gz") as archive:
        names = {each.name.removeprefix(f"{NAME}/") for each in archive.getmembers() if each.isfile()}
    assert {name for name in names if not name.startswith("scaler.egg-info/")} == tracked("scaler") | BESIDE | MADE


def test_the_wheel_has_every_file_of_the_package_and_nothing_else(built: Path) -> None:
    with zipfile.ZipFile(built / f"{NAME}-py3-none-any.whl") as archive:
        names = set(archive.namelist())
    package = {name for name in names if name.startswith("scaler/")}
    assert package == tracked("scaler")
    assert {
        "scaler/py.typed",
        "scaler/cli/templates/finetune/job.yaml.txt",
        "scaler/report/page/static/chart.js",
    } < package
    assert {name.split("/", 1)[1] for name in names - package} == {
        "METADATA",
        "RECORD",
        "WHEEL",
        "entry_points.txt",
        "licenses/LICENSE",
        "licenses/scaler/report/page/static/uPlot.LICENSE",
        "top_level.txt",
    }


def test_a_release_has_its_entry_in_the_changelog() -> None:
    assert re.search(rf"^## \[{re.escape(scaler.__version__)}\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)


def test_the_metadata_name_the_version_and_the_pythons_that_are_tested(built: Path) -> None:
    with zipfile.ZipFile(built / f"{NAME}-py3-none-any.whl") as archive:
        found = email.message_from_bytes(archive.read(f"{NAME}.dist-info/METADATA"))
    assert (found["Version"], found["License-Expression"]) == (scaler.__version__, "Apache-2.0")
    pythons = [each.split(" :: ")[-1] for each in found.get_all("Classifier", []) if "Python :: 3." in each]
    ci = (ROOT / ".github/workflows/ci.yml").read_text()
    assert pythons
    assert all(f'"{each}"' in ci for each in pythons)


@pytest.fixture(scope="module")
def licences() -> ModuleType:
    """The script of the page of licences, where the versions of the lock file are installed."""
    spec = importlib.util.spec_from_file_location("make_licences_page", ROOT / "docs" / "make_licences_page.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name, wanted in module.locked().items():
        try:
            is_other = version(name).partition("+")[0] != wanted
        except PackageNotFoundError:
            is_other = True
        if is_other:
            pytest.skip(f"{name} {wanted} is not installed")
    return module


def test_the_page_of_licences_is_fresh(licences: ModuleType) -> None:
    assert (ROOT / "docs" / "licences.md").read_text() == licences.page(), "make docs writes it again"


def test_every_licence_is_named_and_none_asks_to_publish_scaler(licences: ModuleType) -> None:
    found = {name: licences.licence(name) for name in licences.needed()}
    assert {"torch", "ray", "lightning", "optuna"} < set(found)
    assert [name for name, text in found.items() if text == "not named"] == []
    assert [name for name, text in found.items() if "GPL" in text.upper() or "AFFERO" in text.upper()] == []
