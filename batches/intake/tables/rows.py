"""The rows of a table, each with a text for every column."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import IO, Any

from batches.intake.tables.cells import Limits, Piece, TableError
from batches.intake.tables.json_lines import text_of
from batches.intake.tables.reading import ROWS, XLSX, Reading

_LOOKED_AT = 100  # rows of JSON objects, whose columns are the headings
_MOST_COLUMNS = 2000
_NO_HEADINGS = "The first row must name the columns, such as id,prompt, and each row below it becomes a request."
NO_ROWS = "The table has no rows below its headings. Add at least one."


@dataclass(frozen=True, slots=True)
class Row:
    """A row of data. columns: None when `why` says what is wrong with it. given: the columns with their values as they
    came, which only in JSON are more than texts. raw: its text in the file, or a line of CSV for it."""

    number: int
    columns: dict[str, str] | None
    why: str = ""
    raw: str = ""
    given: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_blank(self) -> bool:
        return not self.why and not any((self.columns or {}).values())


def headings(file: IO[bytes], reading: Reading, limits: Limits) -> list[str]:
    """The names of the columns, trimmed, each one different. Raises TableError."""
    pieces = reading.pieces(file, limits.row_bytes)
    if reading.format == ROWS:
        names: dict[str, None] = {}
        first = list(islice(pieces, _LOOKED_AT))
        for piece in first:
            names |= dict.fromkeys(piece.found or ())
        if not names:
            why = next((piece.why for piece in first if piece.why), "The first rows have no columns")
            raise TableError(f"{why}. Write one JSON object on each line.")
        return list(names)[:_MOST_COLUMNS]
    return _named(_heading_row(pieces, reading))


def _heading_row(pieces: Iterator[Piece], reading: Reading) -> Piece | None:
    return next((piece for piece in pieces if piece.number == reading.header_row), None)


def _named(row: Piece | None) -> list[str]:
    """Headings without a text are called by their place, and of those that are alike the later ones get a number."""
    if row is None or row.is_blank or not isinstance(row.found, list):
        why = "The table is empty" if row is None else row.why or "The row of the headings is empty"
        raise TableError(f"{why}. {_NO_HEADINGS}")
    cells = [cell.strip() for cell in row.found]
    while not cells[-1]:
        cells.pop()
        if not cells:
            raise TableError(f"The row of the headings is empty. {_NO_HEADINGS}")
    if len(cells) > _MOST_COLUMNS:
        raise TableError(
            f"The table has {len(cells):,} columns; at most {_MOST_COLUMNS:,} are read. Remove those that no prompt "
            "needs."
        )
    names: list[str] = []
    taken: set[str] = set()
    for place, cell in enumerate(cells, 1):
        wanted = name = cell or _unnamed(place)
        count = 1
        while name.casefold() in taken:
            count += 1
            name = f"{wanted} ({count})"
        taken.add(name.casefold())
        names.append(name)
    return names


def _unnamed(place: int) -> str:
    return f"column {place}"


def rows(file: IO[bytes], reading: Reading, limits: Limits) -> Iterator[Row]:
    """The rows below the headings, blank ones too. Raises TableError."""
    pieces = reading.pieces(file, limits.row_bytes)
    if reading.format == ROWS:
        yield from map(_object, pieces)
        return
    names = _named(_heading_row(pieces, reading))
    for piece in pieces:
        yield _row(piece, names, reading)


def _object(piece: Piece) -> Row:
    if not isinstance(piece.found, dict):
        return Row(piece.number, None, piece.why, piece.raw)
    texts = {name: text_of(value) for name, value in piece.found.items()}
    return Row(piece.number, texts, "", piece.raw, piece.found)


def _row(piece: Piece, names: list[str], reading: Reading) -> Row:
    if not isinstance(piece.found, list):
        remedy = (
            "" if reading.format == XLSX else '. A cell with a quote or the delimiter in it stands in "double quotes"'
        )
        return Row(piece.number, None, piece.why + remedy, piece.raw)
    cells = piece.found
    more = cells[len(names) :]
    if any(more) and reading.format != XLSX:
        why = (
            f"The row has {len(cells):,} cells, and the headings are {len(names):,}. A text that contains the "
            'delimiter stands in "double quotes"'
        )
        return Row(piece.number, None, why, piece.raw)
    columns = dict.fromkeys(names, "") | dict(zip(names, cells, strict=False))
    columns |= {_unnamed(place): cell for place, cell in enumerate(more, len(names) + 1) if cell}
    return Row(piece.number, columns, "", piece.raw, columns)
