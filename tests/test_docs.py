"""The documents agree with the code: job file, commands, tree, links, paths, and pages that are made from it."""

import importlib.util
import re
from pathlib import Path

import pytest

from scaler.cli import COMMANDS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def block_after(heading: str, fence: str) -> str:
    """Return the first fenced block of a section."""
    section = README.split(f"\n## {heading}\n")[1]
    return section.split(f"\n```{fence}\n")[1].split("\n```")[0]


def test_the_job_file_shown_is_the_one_that_the_demo_runs() -> None:
    assert block_after("The job file", "yaml") == (ROOT / "jobs/digits/job.yaml").read_text().strip()


def test_every_command_is_in_the_table_and_no_other() -> None:
    table = README.split("\n## The commands\n")[1].split("\n## ")[0]
    assert re.findall(r"^\| `scaler ([\w-]+)", table, flags=re.MULTILINE) == list(COMMANDS)


def test_the_tree_names_every_package() -> None:
    tree = block_after("The tree", "")
    named = set(re.findall(r"^ *([\w.]+?)/? {2,}", tree, flags=re.MULTILINE))
    packages = {path.name for path in (ROOT / "scaler").iterdir() if not path.name.startswith(("_", "py.typed"))}
    folders = {path.name for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith((".", "_"))}
    assert packages <= named
    assert named - packages <= folders
    assert {"jobs", "benchmarks", "docs", "tests"} <= named


def test_the_report_shown_has_the_lines_that_a_report_has() -> None:
    def labels(text: str) -> list[str]:
        return [line.split("  ")[0] for line in text.splitlines() if re.match(r"[a-z ]+  ", line)]

    shown = README.split("The demo prints its plan, its progress, and this:")[1].split("```")[1]
    assert labels(shown)[:6] == ["trained", "speed", "wall clock", "train loss", "eval accuracy", "eval loss"]
    own = ("eval", "gradient noise scale")  # lines that only the demo has, by its recipe and length
    assert [label for label in labels(shown) if not label.startswith(own)] == [
        label for label in labels((ROOT / "tests/golden/report.txt").read_text()) if not label.startswith(own)
    ]


@pytest.mark.parametrize(
    ("script", "page"),
    [
        ("make_job_file_page", "job-file.md"),
        ("make_numbers_page", "numbers.md"),
        ("make_data_page", "data.md"),
        ("make_scaling_table", "scaling-table.md"),
    ],
)
def test_a_page_that_is_made_is_fresh(script: str, page: str) -> None:
    spec = importlib.util.spec_from_file_location(script, ROOT / f"docs/{script}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (ROOT / "docs" / page).read_text() == module.page(), "make docs writes it anew"


@pytest.mark.parametrize("page", sorted((ROOT / "docs/decisions").glob("*.md")), ids=lambda page: page.name)
def test_a_decision_is_numbered_as_its_name_says(page: Path) -> None:
    number = int(page.name.split("-")[0])
    assert page.read_text().startswith(f"# {number}. ")


def test_every_link_in_the_documents_has_a_target() -> None:
    for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+)\)|src=\"([^\"]+)\"", page.read_text()):
            link = "".join(target)
            if "://" not in link:
                assert (page.parent / link).exists(), f"{page.name}: {link}"


DOCUMENTS = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
USERS_FILES = {
    "path/file.py",
    "src/pkg/train.py",
    "recipe.py",
    "pkg/train.py",
    "types.py",
    "datasets.py",
}  # examples of a user's files


@pytest.mark.parametrize("page", DOCUMENTS, ids=lambda page: page.name)
def test_every_path_in_a_document_exists(page: Path) -> None:
    """A path is relative to the repository or to ``scaler/``, as in ``job/changes.py``."""
    paths = set(re.findall(r"(?<![\w/.-])((?:[\w.-]+/)*[\w-]+\.(?:py|yaml|toml|j2))(?![\w-])", page.read_text()))
    paths |= set(re.findall(r"`((?:scaler|tests|benchmarks|docs|jobs)/[\w./-]+)`", page.read_text()))
    missing = [
        path
        for path in sorted(paths - USERS_FILES)
        if not any((folder / path).exists() for folder in (ROOT, ROOT / "scaler")) and path != "job.yaml"
    ]
    assert not missing, f"{page.name} names files that do not exist: {', '.join(missing)}"


def test_every_decision_that_the_code_names_exists() -> None:
    names = {path.name for path in (ROOT / "docs/decisions").glob("*.md")}
    for source in [
        *(ROOT / "scaler").rglob("*.py"),
        *(ROOT / "tests").rglob("*.py"),
        *(ROOT / "benchmarks").rglob("*"),
    ]:
        if source.suffix == ".py" and source != Path(__file__):
            for named in re.findall(r"decisions/([\w-]+)", source.read_text()):
                assert any(name.startswith(named) for name in names), f"{source.relative_to(ROOT)}: {named}"
