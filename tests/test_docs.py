"""What the documents say is so."""

import importlib.util
import re
from pathlib import Path

import pytest

from scaler.cli import COMMANDS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def block_after(heading: str, fence: str) -> str:
    """The first fenced block of a section."""
    section = README.split(f"\n## {heading}\n")[1]
    return section.split(f"\n```{fence}\n")[1].split("\n```")[0]


def test_the_job_file_shown_is_the_one_that_the_demo_runs() -> None:
    assert block_after("The job file", "yaml") == (ROOT / "jobs/digits/job.yaml").read_text().strip()


def test_every_command_is_in_the_table_and_no_other() -> None:
    table = README.split("\n## The commands\n")[1].split("\n## ")[0]
    assert re.findall(r"^\| `scaler ([\w-]+)", table, flags=re.MULTILINE) == list(COMMANDS)


def test_the_tree_names_every_room() -> None:
    tree = block_after("The tree", "")
    named = set(re.findall(r"^ *([\w.]+?)/? {2,}", tree, flags=re.MULTILINE))
    rooms = {path.name for path in (ROOT / "scaler").iterdir() if not path.name.startswith(("_", "py.typed"))}
    places = {path.name for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith((".", "_"))}
    assert rooms <= named
    assert named - rooms <= places
    assert {"jobs", "benchmarks", "docs", "tests"} <= named


def test_the_report_shown_has_the_lines_that_a_report_has() -> None:
    def labels(text: str) -> list[str]:
        return [line.split("  ")[0] for line in text.splitlines() if re.match(r"[a-z ]+  ", line)]

    shown = README.split("The demo prints its plan, its progress, and this:")[1].split("```")[1]
    assert labels(shown)[:6] == ["trained", "speed", "wall clock", "train loss", "eval accuracy", "eval loss"]
    its_own = ("eval", "gradient noise scale")  # what the demo's recipe and length bring along
    assert [label for label in labels(shown) if not label.startswith(its_own)] == [
        label for label in labels((ROOT / "tests/golden/report.txt").read_text()) if not label.startswith(its_own)
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


def test_every_link_in_the_documents_leads_somewhere() -> None:
    for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+)\)|src=\"([^\"]+)\"", page.read_text()):
            link = "".join(target)
            if "://" not in link:
                assert (page.parent / link).exists(), f"{page.name}: {link}"
