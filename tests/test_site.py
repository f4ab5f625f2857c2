"""The site builds strictly, works without a network, and lists its pages for language models."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = sorted(path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md"))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the site; mkdocs.yml says that a broken link and a page that is not in the menu are errors."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", folder]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


def test_every_page_is_in_the_site_and_in_llms_txt(site: Path) -> None:
    listed = re.findall(r"^- \[.+?\]\((.+?)\)", (site / "llms.txt").read_text(), flags=re.MULTILINE)
    assert sorted(listed) == sorted([*PAGES, "index.md", "contributing.md", "changelog.md", "decisions/index.md"])
    assert [page for page in listed if not (site / page).with_suffix(".html").is_file()] == []
    assert [page for page in listed if not (site / page).is_file()] == []


def test_the_first_page_is_the_readme(site: Path) -> None:
    page = (site / "index.html").read_text()
    assert "Five promises, each with its proof" in page
    for picture in re.findall(r'src="((?!https?:)[^"]+\.png)"', page):
        assert (site / picture).is_file(), picture


def test_no_page_loads_anything_from_another_server(site: Path) -> None:
    loaded = re.compile(r"<(?:script|img|iframe|link)[^>]+(?:src|href)=\"?(https?://[^\" >]+)")
    for page in site.rglob("*.html"):
        assert loaded.findall(page.read_text()) == [], page.name


def test_a_file_of_the_repository_that_a_page_links_to_is_a_page(site: Path) -> None:
    assert "def build(hidden" in re.sub(r"<[^>]+>", "", (site / "repository/jobs/digits/index.html").read_text())


def test_the_search_works_in_files_and_finds_no_source_code(site: Path) -> None:
    found = re.findall(r'"location": ?"([^"#]+)', (site / "search/search_index.js").read_text())
    assert "guides/elastic-runs.html" in found
    assert [page for page in found if page.startswith("repository/")] == []
