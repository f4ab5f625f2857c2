"""What the site has beside the pages of docs. mkdocs calls the functions named on_... when it builds.

The repository's README is the first page. Links from a page to a file or folder outside docs work: the site gets a
page with its text. The menu gets the pages of a folder where ``mkdocs.yml`` has ``FOLDER/*.md``. ``llms.txt`` lists
the pages for language models.
"""

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PLACES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
LINK = re.compile(r'(?P<before>\]\(|src=")(?P<target>[^)"#\s]+)(?P<anchor>#[^)"\s]*)?(?P<after>[)"])')
MARK = re.compile(r"^ *<!-- (?:test|numbers): .*? -->\n", re.MULTILINE)  # what tests read (tests/cli/code_blocks.py)
LANGUAGES = {".py": "python", ".yaml": "yaml", ".sh": "bash", ".json": "json"}
MOST_FILES = 12  # a folder with more is a list of names

_origins: dict[str, str] = {}  # page of the site -> the file of the repository that it shows


def on_config(config: MkDocsConfig) -> None:
    """Put the pages of folders into the menu."""
    config.nav = [_filled(item) for item in config.nav or []]


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Add the pages of what is outside docs."""
    files.append(File.generated(config, "decisions/index.md", content=_decisions()))
    _origins.update({file.src_uri: f"docs/{file.src_uri}" for file in files.documentation_pages()})
    todo = list(PLACES) + [path for origin in list(_origins.values()) for path in _links(origin)]
    while todo:
        path = todo.pop()
        uri = _uri(path)
        if uri in _origins or path.startswith("docs/"):
            continue
        _origins[uri] = path
        files.append(File.generated(config, uri, content=_text(path)))
        todo += _links(path)


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Turn links to the repository into links to pages, and leave out the marks that tests read."""
    uri = page.file.src_uri
    if uri.startswith("repository/"):
        page.meta["search"] = {"exclude": True}
    elif uri.startswith(("decisions/", "measured/")):
        page.meta["search"] = {"boost": 0.3}  # below the pages that explain
    folder = posixpath.dirname(_origins.get(uri, f"docs/{uri}"))

    def changed(match: re.Match[str]) -> str:
        path = _in_repository(folder, match["target"])
        if path is None:
            return match[0]
        target = posixpath.relpath(_uri(path), posixpath.dirname(uri) or ".")
        return f"{match['before']}{target}{match['anchor'] or ''}{match['after']}"

    return LINK.sub(changed, MARK.sub("", markdown))


def on_env(env: Any, config: MkDocsConfig, files: Files) -> None:
    """Write ``llms.txt``, and the text of each page beside the page."""
    lines = [f"# {config.site_name}\n\n> {config.site_description}\n"]
    for section in files_in_menu(config.nav):
        lines.append(section if section.startswith("\n##") else _line(files.src_uris[section], Path(config.site_dir)))
    site = Path(config.site_dir)
    site.mkdir(parents=True, exist_ok=True)
    (site / "llms.txt").write_text("\n".join(lines) + "\n")


def files_in_menu(nav: Any) -> Iterator[str]:
    """Yield the pages of the menu in their order, and a heading before the pages of each top entry."""
    for item in nav:
        for title, inner in item.items():
            if isinstance(inner, list):
                yield f"\n## {title}\n"
            yield from _pages_of(inner)


def _pages_of(item: Any) -> Iterator[str]:
    match item:
        case str():
            yield item
        case list():
            for inner in item:
                yield from _pages_of(inner)
        case dict():
            for inner in item.values():
                yield from _pages_of(inner)


def _line(file: File, site: Path) -> str:
    """Write the text of a page into the site, and return its line of ``llms.txt``."""
    assert file.page is not None
    text = file.page.markdown or ""
    (site / file.src_uri).parent.mkdir(parents=True, exist_ok=True)
    (site / file.src_uri).write_text(text)
    return f"- [{file.page.title}]({file.src_uri}): {_first_sentence(text)}".rstrip(": ")


def _first_sentence(text: str) -> str:
    """Return the first sentence of a page, without links and marks; a page of lists alone has none."""
    paragraphs = [part.strip() for part in text.split("\n\n")]
    prose = next((part for part in paragraphs if part and not part.startswith(("#", "|", "<", "- ", "```", ":::"))), "")
    plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", " ".join(prose.split())).replace("**", "")
    return re.split(r"(?<=[.?!]) ", plain)[0]


def _filled(item: Any) -> Any:
    """Return an entry of the menu with the pages of the folders in it."""
    if isinstance(item, dict):
        return {title: _filled(inner) for title, inner in item.items()}
    if isinstance(item, list):
        return [page for inner in item for page in (_pages(inner) if _is_glob(inner) else [_filled(inner)])]
    return _pages(item) if _is_glob(item) else item


def _is_glob(item: Any) -> bool:
    return isinstance(item, str) and item.endswith("/*.md")


def _pages(pattern: str) -> list[str]:
    return [path.relative_to(DOCS).as_posix() for path in sorted(DOCS.glob(pattern))]


def _in_repository(folder: str, target: str) -> str | None:
    """Return the path of a link's target in the repository; None if the link leads elsewhere."""
    path = posixpath.normpath(posixpath.join(folder, target))
    return path if "://" not in target and not path.startswith("..") and (ROOT / path).exists() else None


def _uri(path: str) -> str:
    """Return the page of a path in the repository."""
    if path.startswith("docs/"):
        return path.removeprefix("docs/") + ("/index.md" if (ROOT / path).is_dir() else "")
    if path in PLACES:
        return PLACES[path]
    if (ROOT / path).is_dir():
        return f"repository/{path}/index.md"
    return f"repository/{path}" if path.endswith(".md") else f"repository/{path}.md"


def _links(path: str) -> Iterator[str]:
    """Yield the files and folders outside docs that a page links to."""
    if path.endswith(".md") and (ROOT / path).is_file():
        for match in LINK.finditer((ROOT / path).read_text()):
            found = _in_repository(posixpath.dirname(path), match["target"])
            if found is not None and not found.startswith("docs/"):
                yield found


def _text(path: str) -> str:
    """Return the page of a file or folder."""
    file = ROOT / path
    if file.suffix == ".md":
        return file.read_text()
    if not file.is_dir():
        return f"# `{path}`\n\n{_code(file)}"
    shown = sorted(inner for inner in file.iterdir() if inner.is_file() and not inner.name.startswith("."))
    if len(shown) > MOST_FILES:
        return f"# `{path}`\n\n" + "".join(f"- `{inner.name}`: {_first_line(inner)}\n" for inner in shown)
    return f"# `{path}`\n\n" + "\n".join(f"## `{inner.name}`\n\n{_code(inner)}" for inner in shown)


def _code(file: Path) -> str:
    return f"~~~~{LANGUAGES.get(file.suffix, 'text')}\n{file.read_text().rstrip()}\n~~~~\n"


def _first_line(file: Path) -> str:
    return file.read_text().lstrip("#!\"'\n ").partition("\n")[0].rstrip('"')


def _decisions() -> str:
    pages = sorted((DOCS / "decisions").glob("0*.md"))
    titles = [(page.name, page.read_text().partition("\n")[0].removeprefix("# ")) for page in pages]
    return "# Decisions\n\nA page for each choice that someone may question, with what was measured.\n\n" + "".join(
        f"- [{title}]({name})\n" for name, title in titles
    )
