"""A recipe's function, looked up without importing."""

import sys
from pathlib import Path

import pytest

from scaler.errors import JobFileError
from scaler.training.recipe.lookup import require_function

ASSIGNED = "raise SystemExit('imported')\nif True:\n    build = lambda: 1\nelse:\n    def other(): pass\n"
FILES = {
    "there.py": "raise SystemExit('imported')\ndef build(): pass\ndef _hidden(): pass\ndef train(): pass\n",
    "assigned.py": ASSIGNED,
    "imported.py": "from elsewhere import make as build\n",
    "starred.py": "from elsewhere import *\n",
    "lazy.py": "def __getattr__(name): ...\n",
    "made.py": "for name in 'build',:\n    globals()[name] = print\n",
    "by_function.py": "def set():\n    global build\n    build = print\nset()\n",
    "broken.py": "def (\n",
    "empty.py": "",
    "pkg/__init__.py": "raise SystemExit('imported')\n",
    "pkg/inner.py": "from . import there\nclass build: pass\n",
    "space/inner.py": "def build(): pass\n",
    "moved/__init__.py": "__path__ = ['/elsewhere']\n",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return tmp_path


@pytest.mark.parametrize(
    "module",
    [
        *("there", "assigned", "imported", "starred", "lazy", "made", "by_function", "broken"),
        *("pkg.inner", "space.inner", "moved.inner", "pyexpat"),  # the last has no source
    ],
)
def test_a_function_that_is_or_may_be_there_passes_and_nothing_is_imported(folder: Path, module: str) -> None:
    before = set(sys.modules)
    require_function(f"{module}:build", folder=folder)
    assert {name.partition(".")[0] for name in set(sys.modules) - before} & {"there", "assigned", "pkg"} == set()


@pytest.mark.parametrize(
    ("path", "text"),
    [
        (
            "there:biuld",
            "job.yaml: recipe = there:biuld: there has no function biuld.\n"
            '  Did you mean "build"? Functions there: build, train.',
        ),
        ("empty:build", "job.yaml: recipe = empty:build: empty has no function build.\n  It defines no function."),
        (
            "pkg.other:build",
            "job.yaml: recipe = pkg.other:build: there is no module pkg.other.\n"
            "  Its package exists, but has no such module.",
        ),
        (
            "there.part:build",
            "job.yaml: recipe = there.part:build: there is no module there.part.\n"
            "  Its package exists, but has no such module.",
        ),
        (
            "nowhere:build",
            "job.yaml: recipe = nowhere:build: there is no module nowhere.\n"
            '  Did you mean "there:build"? Python searches FOLDER, PYTHONPATH and the installed packages.',
        ),
    ],
)
def test_the_whole_text_of_each_refusal(folder: Path, path: str, text: str) -> None:
    with pytest.raises(JobFileError) as caught:
        require_function(path, folder=folder, source="job.yaml")
    assert str(caught.value) == text.replace("FOLDER", str(folder))
