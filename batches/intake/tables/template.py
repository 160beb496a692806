"""Prompts with `{column}` in them. A template can name columns only, and no attribute, index or format."""

import re
from collections.abc import Iterable, Mapping

from batches.intake.tables.cells import TableError

SHOWN = 50  # columns named in a message

_PART = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")


class TemplateError(TableError):
    """The template is invalid or names an unknown column. The message says which."""

    param = "prompt"


class Template:
    """`{name}` stands for the value of that column, in any case, `{{` and `}}` for a brace. Values are put in
    unchanged. columns: those that it names."""

    def __init__(self, text: str) -> None:
        try:
            text.encode()
        except UnicodeEncodeError:
            raise TemplateError(f"{text[:60]!r} is not text in UTF-8.") from None
        self._literals: list[str] = []  # the texts around the columns, one more than there are columns
        self.columns: list[str] = []
        literal, end = "", 0
        for part in _PART.finditer(text):
            literal += text[end : part.start()]
            end = part.end()
            if part[1] is not None:
                self._literals.append(literal)
                self.columns.append(part[1])
                literal = ""
            elif len(part[0]) == 2:
                literal += part[0][0]
            else:
                where = f"A single {part[0]} at character {part.start() + 1}"
                raise TemplateError(where + ": write {{ and }} where braces are part of the text, as in JSON.")
        self._literals.append(literal + text[end:])

    def check(self, headings: Iterable[str]) -> None:
        """Raises TemplateError for a column that is none of these."""
        self.fill(dict.fromkeys(headings, ""))

    def fill(self, row: Mapping[str, str]) -> str:
        """Raises TemplateError."""
        filled = self._literals[0]
        for column, literal in zip(self.columns, self._literals[1:], strict=True):
            filled += value(row, column) + literal
        return filled


def value(row: Mapping[str, str], column: str) -> str:
    """The value of the column, whose name may be in any case. Raises TemplateError, which names the known columns."""
    if column in row:
        return row[column]
    wanted = column.strip().casefold()
    for name, text in row.items():
        if name.strip().casefold() == wanted:
            return text
    braces = "If the braces are part of the text, as in JSON, write {{ and }}."
    if not row:
        raise TemplateError(f"There is no column {column[:60]!r}: the table has no columns. {braces}")
    names = ", ".join(repr(name[:60]) for name in list(row)[:SHOWN])
    more = f" and {len(row) - SHOWN} more" if len(row) > SHOWN else ""
    raise TemplateError(f"There is no column {column[:60]!r}: the columns are {names}{more}. {braces}")
