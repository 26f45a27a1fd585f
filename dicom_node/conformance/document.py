"""A document of numbered sections with tables, and its two forms: Markdown for people, plain data for programs. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Table:
    """A table.

    Attributes
    ----------
    caption : str
        What its rows are.
    columns : tuple of str
    rows : tuple of tuple of str
        One text a column.

    Raises
    ------
    ValueError
        If a row has another number of cells than there are columns.
    """

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"{self.caption}: {len(row)} cells under {len(self.columns)} columns")

    @classmethod
    def of(cls, caption: str, columns: Iterable[str], rows: Iterable[Iterable[object]]) -> Table:
        """Return a table whose cells are written as text."""
        return cls(caption, tuple(columns), tuple(tuple(str(cell) for cell in row) for row in rows))


@dataclass(frozen=True, slots=True)
class Section:
    """A section.

    Attributes
    ----------
    number : str
        As the template has it, such as ``5.2.5``.
    paragraphs : tuple of str
        Before the tables.
    tables : tuple of Table
    sections : tuple of Section
        Below this one.
    """

    number: str
    title: str
    paragraphs: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    sections: tuple[Section, ...] = ()

    def walk(self, depth: int = 0) -> Iterator[tuple[int, Section]]:
        """Yield this section and all below it, each with its depth."""
        yield depth, self
        for section in self.sections:
            yield from section.walk(depth + 1)


@dataclass(frozen=True, slots=True)
class Document:
    """A title, what stands below it, and sections."""

    title: str
    paragraphs: tuple[str, ...]
    sections: tuple[Section, ...]

    def walk(self) -> Iterator[tuple[int, Section]]:
        """Yield all sections in reading order, each with its depth."""
        for section in self.sections:
            yield from section.walk()


def not_supported(number: str, title: str) -> Section:
    """Return a section of the template for what the node does not do."""
    return Section(number, title, ("Not supported.",))


def to_markdown(document: Document) -> str:
    """Return the document as Markdown, with a line end at its end."""
    lines = [f"# {document.title}", ""]
    for paragraph in document.paragraphs:
        lines += [paragraph, ""]
    for depth, section in document.walk():
        # Below the sixth level Markdown has no headings; the number still says where a section belongs.
        lines += [f"{'#' * min(6, depth + 2)} {section.number} {section.title}", ""]
        for paragraph in section.paragraphs:
            lines += [paragraph, ""]
        for table in section.tables:
            lines += [*_table_lines(table), ""]
    return "\n".join(lines).rstrip() + "\n"


def to_data(document: Document) -> dict[str, Any]:
    """Return the document as JSON holds it: each row with its cells by column."""
    return {
        "title": document.title,
        "text": list(document.paragraphs),
        "sections": [_section_data(section) for section in document.sections],
    }


def _section_data(section: Section) -> dict[str, Any]:
    return {
        "number": section.number,
        "title": section.title,
        "text": list(section.paragraphs),
        "tables": [
            {"caption": table.caption, "rows": [dict(zip(table.columns, row, strict=True)) for row in table.rows]}
            for table in section.tables
        ],
        "sections": [_section_data(below) for below in section.sections],
    }


def _table_lines(table: Table) -> list[str]:
    return [
        f"*{table.caption}*",
        "",
        _row(table.columns),
        _row("---" for _ in table.columns),
        *(_row(row) for row in table.rows),
    ]


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(_cell(cell) for cell in cells) + " |"


def _cell(text: str) -> str:
    """A text that cannot break its table."""
    return " ".join(text.split()).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")
