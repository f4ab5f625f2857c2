"""A table of an experiment, as text."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Sheet:
    """A table.

    Attributes:
        id: unique in the report.
        title: above it.
        note: below the title; empty: none.
        head: titles of the columns; the first column names the row.
        rows: cells.
        is_last_text: whether the last column is text: a word, or with ``is_prose`` a sentence.
        is_prose: whether the terminal writes the last column as sentences.
    """

    id: str
    title: str
    note: str = ""
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    is_last_text: bool = False
    is_prose: bool = False
