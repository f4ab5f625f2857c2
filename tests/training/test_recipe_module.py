"""Where a recipe's module is found, and the message for one that is not found."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from scaler.errors import JobFileError
from scaler.training.recipe.failures import recipe_failure
from scaler.training.recipe.load import load_recipe
from scaler.training.recipe.module import find_module, shipped_recipe

RECIPE = """
import torch, scaler
from torch.utils.data import TensorDataset
{imports}

def build():
    data = TensorDataset(torch.zeros(4, 1))
    return scaler.Recipe(model=net(), train_data=data, loss=lambda m, b: m(b[0]).mean())
"""
MODEL = "import torch\n\ndef net():\n    return torch.nn.Linear(1, 1)\n"
RELATIVE, SIBLING = "from .rm_model import net", "from rm_model import net"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return a folder for a job file; modules whose names begin with ``rm_`` are forgotten at the end."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    folder = tmp_path / "job"
    folder.mkdir()
    yield folder
    for name in [name for name in sys.modules if "rm_" in name or name.startswith("job.")]:
        del sys.modules[name]


def write(place: Path, imports: str = RELATIVE, *, is_package: bool = True) -> Path:
    """Write a recipe and its model into a folder."""
    place.mkdir(parents=True, exist_ok=True)
    (place / "rm_model.py").write_text(MODEL)
    (place / "rm_train.py").write_text(RECIPE.format(imports=imports))
    if is_package:
        (place / "__init__.py").touch()
    return place


def load(path: str, folder: Path) -> object:
    return load_recipe(path, folder=folder, arguments={}).model


@pytest.mark.parametrize(
    ("place", "is_package", "imports", "path", "name"),
    [
        ("src/rm_pkg", True, RELATIVE, "src/rm_pkg/rm_train.py:build", "rm_pkg.rm_train"),
        ("src/rm_pkg", True, "from rm_pkg.rm_model import net", "src/rm_pkg/rm_train.py:build", "rm_pkg.rm_train"),
        ("rm_pkg/sub", True, RELATIVE, "rm_pkg/sub/rm_train.py:build", "sub.rm_train"),  # rm_pkg has no __init__.py
        ("src/rm_bare", False, RELATIVE, "src/rm_bare/rm_train.py:build", "rm_bare.rm_train"),  # no __init__.py
        ("src/rm_bare", False, SIBLING, "src/rm_bare/rm_train.py:build", "rm_train"),  # as python rm_train.py
        ("../src/rm_out", True, RELATIVE, "../src/rm_out/rm_train.py:build", "rm_out.rm_train"),
        (".", False, SIBLING, "rm_train.py:build", "rm_train"),
        (".", False, SIBLING, "./rm_train.py:build", "rm_train"),
        (".", False, RELATIVE, "rm_train:build", "job.rm_train"),  # next to the job file, with a relative import
        (".", False, RELATIVE, "rm_train.py:build", "job.rm_train"),
        (".", True, SIBLING, "rm_train.py:build", "rm_train"),  # the job's folder is no package unless it must be
        ("rm_pkg", True, RELATIVE, "rm_pkg.rm_train:build", "rm_pkg.rm_train"),
    ],
)
def test_a_recipe_is_found_and_built(
    folder: Path, place: str, is_package: bool, imports: str, path: str, name: str
) -> None:
    write(folder / place, imports, is_package=is_package)
    assert find_module(path, folder=folder).name == name
    assert load(path, folder) is not None
    assert name in sys.modules


def test_an_absolute_path_and_one_from_home_are_taken(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(folder.parent / "home" / "rm_pkg")
    monkeypatch.setenv("HOME", str(folder.parent / "home"))
    for path in (f"{folder.parent}/home/rm_pkg/rm_train.py:build", "~/rm_pkg/rm_train.py:build"):
        assert find_module(path, folder=folder).root == folder.parent / "home"
        assert load(path, folder) is not None


def test_a_module_in_pythonpath_is_found(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(folder.parent / "lib" / "rm_pkg")
    monkeypatch.syspath_prepend(str(folder.parent / "lib"))
    assert load("rm_pkg.rm_train:build", folder) is not None


def test_two_jobs_each_have_their_own_package_of_one_name(folder: Path) -> None:
    for name, width in (("one", 2), ("other", 3)):
        place = write(folder / name / "rm_same", is_package=False)
        (place / "rm_model.py").write_text(MODEL.replace("(1, 1)", f"(1, {width})"))
    widths = [load("rm_same/rm_train.py:build", folder / name).out_features for name in ("one", "other", "one")]  # type: ignore[attr-defined]
    assert widths == [2, 3, 2]


@pytest.mark.parametrize(
    ("path", "text"),
    [
        (
            "src/rm_pkg/rm_trian.py:build",
            "there is no file FOLDER/src/rm_pkg/rm_trian.py.\n"
            '  Did you mean "rm_train.py"? The path is relative to the job file\'s folder.',
        ),
        ("nosuch/x.py:build", "there is no file FOLDER/nosuch/x.py.\n  The path is relative to the job file's folder."),
        ("rm_pkg.rm_train:build", 'there is no module rm_pkg.\n  Did you mean "src/rm_pkg/rm_train.py:build"? LOOKED'),
        ("rm_beseide:build", 'there is no module rm_beseide.\n  Did you mean "rm_beside:build"? LOOKED'),
        ("zzz:build", "there is no module zzz.\n  LOOKED"),
        (
            "v1.2/train.py:build",
            "Python cannot import a module or package that is called v1.2.\n  Give it a name of letters, digits and _.",
        ),
    ],
)
def test_the_message_for_a_module_that_is_not_found(folder: Path, path: str, text: str) -> None:
    write(folder / "src" / "rm_pkg")
    write(folder / "v1.2")
    (folder / "v1.2" / "train.py").touch()
    (folder / "rm_beside.py").touch()
    with pytest.raises(JobFileError) as caught:
        find_module(path, folder=folder, source="job.yaml")
    looked = f"Python searches {folder}, PYTHONPATH and the installed packages."
    expected = text.replace("FOLDER", str(folder)).replace("LOOKED", looked)
    assert str(caught.value) == f"job.yaml: recipe = {path}: {expected}"


def test_a_file_that_another_module_stands_before_is_not_silently_replaced(folder: Path) -> None:
    (folder / "json").mkdir()  # without __init__.py, Python's own package comes first
    (folder / "json" / "decoder.py").write_text("from . import nothing\n")
    with pytest.raises(JobFileError) as caught:
        load_recipe("json/decoder.py:build", folder=folder, arguments={})
    assert "Python imports json.decoder from " in str(caught.value)
    assert str(caught.value).endswith(
        f"\n  Give decoder.py or its folder another name, or add {folder}/json/__init__.py."
    )


# A module of the user's own that Python does not find: where it is, not what to install.


@pytest.mark.parametrize("place", [".", "..", "rm_pkg", "src", "../src"])
def test_no_message_asks_to_install_a_module_of_their_own(folder: Path, place: str) -> None:
    beside = (folder / place).resolve()
    (beside / "rm_own").mkdir(parents=True)
    (beside / "rm_own" / "layers.py").touch()
    (folder / "rm_pkg").mkdir(exist_ok=True)
    importing = folder / "rm_pkg" / "rm_train.py"
    importing.write_text("import rm_own.layers\n")
    with pytest.raises(ModuleNotFoundError) as caught:
        exec(compile(importing.read_text(), str(importing), "exec"))
    assert str(recipe_failure(caught.value, "rank 0", folder=folder)) == (
        f"rank 0 needs the module rm_own, which is in {beside}, where Python does not look.\n"
        f"  export PYTHONPATH={beside}"
    )


@pytest.mark.parametrize(("module", "package"), [("nosuchvision", "nosuchvision"), ("skimage.io", "scikit-image")])
def test_a_module_of_others_is_to_be_installed_under_its_packages_name(folder: Path, module: str, package: str) -> None:
    (folder / "rm_train.py").write_text(f"import {module}\n")
    with pytest.raises(ModuleNotFoundError) as caught:
        load_recipe("rm_train:build", folder=folder, arguments={})
    name = module.partition(".")[0]
    found = recipe_failure(caught.value, "rank 0", folder=folder)
    assert str(found) == f"rank 0 needs the module {name}, which is not installed.\n  pip install {package}"


# What the nodes of a cluster get: the job's folder, and the recipe's package where it lies elsewhere.


def test_what_is_in_the_jobs_folder_or_installed_needs_nothing_more(folder: Path) -> None:
    write(folder / "src" / "rm_pkg")
    write(folder, SIBLING, is_package=False)
    for path in (
        "src/rm_pkg/rm_train.py:build",
        "rm_train:build",
        "rm_train.py:build",
        "json:loads",
        "torch.nn:Linear",
    ):
        assert shipped_recipe(path, folder=folder) == (path, [])


def test_a_package_elsewhere_is_sent_whole_and_named_as_a_module(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = write(folder.parent / "src" / "rm_pkg")
    named = ("rm_pkg.rm_train:build", [package])
    assert shipped_recipe("../src/rm_pkg/rm_train.py:build", folder=folder) == named
    monkeypatch.syspath_prepend(str(folder.parent / "src"))
    assert shipped_recipe("rm_pkg.rm_train:build", folder=folder) == named
    alone = write(folder.parent / "plain", SIBLING, is_package=False) / "rm_train.py"
    assert shipped_recipe("../plain/rm_train.py:build", folder=folder) == ("rm_train:build", [alone])
