"""A page as a browser reads it, for the tests of all pages."""

import json
from html.parser import HTMLParser
from typing import Any


class Page(HTMLParser):
    """What a browser would make of the page: its elements, its text outside style and script, and its scripts."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.headings: list[str] = []
        self.data: Any = None
        self._open = ""
        self._open_attributes: dict[str, str | None] = {}
        self.feed(source)
        self.text = " ".join(" ".join(self.texts).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._open, self._open_attributes = tag, dict(attrs)

    def handle_endtag(self, tag: str) -> None:
        self._open = ""

    def handle_data(self, data: str) -> None:
        if self._open == "script" and self._open_attributes.get("id") == "page-data":
            self.data = json.loads(data)
        elif self._open not in ("script", "style"):
            self.texts.append(data)
            if self._open == "h2":
                self.headings.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]
