"""Reads tables whose rows are lines and whose cells are separated by a character: CSV, TSV and their kin."""

import csv
import io
import itertools
import re
from collections.abc import Collection, Iterator
from typing import IO

from batches.files.kinds import HEAD
from batches.intake.tables.cells import Piece
from batches.intake.tables.encodings import Lines

DELIMITERS = (",", ";", "\t", "|")  # those that are guessed
_SAMPLED = 50  # rows of which the delimiter is guessed
_SAID = re.compile(r'"?sep=(.)"?\r?\n?', re.IGNORECASE)  # a first line by which a spreadsheet is told the delimiter


def pieces(file: IO[bytes], encoding: str, delimiter: str, row_bytes: int) -> Iterator[Piece]:
    """Every row. The bytes of a first line `sep=;` belong to the first row. Raises TableError."""
    lines = Lines(file, encoding, row_bytes, newline="")
    source = iter(lines)
    first = next(source, "")
    csv.field_size_limit(row_bytes)
    whole = source if _SAID.fullmatch(first) else itertools.chain([first] if first else [], source)
    reader = csv.reader(whole, delimiter=delimiter, strict=True)
    for number in itertools.count(1):
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield Piece(number, lines.taken(), None, _why(error))
        else:
            yield Piece(number, lines.taken(), cells)


def _why(error: csv.Error) -> str:
    if str(error) == "unexpected end of data":
        return 'A double quote (") is opened in the row and never closed, so the rows after it count as its text'
    return f"The row cannot be read: {error}"


def delimiter_of(file: IO[bytes], encoding: str, known: Collection[str]) -> str:
    """The delimiter that a first line `sep=` names, else the one by which most of the first rows have as many cells as
    the first, which are more than one. known: headings that tell a delimiter, too."""
    file.seek(0)
    data = file.read(HEAD)
    text = data.decode(encoding, errors="replace").removeprefix("\ufeff")
    if said := _SAID.match(text):
        return said[1]
    if len(data) == HEAD and "\n" in text:
        text = text[: text.rindex("\n") + 1]  # the last line may be half a line
    return max(DELIMITERS, key=lambda one: _fit(text, one, known))


def _fit(text: str, delimiter: str, known: Collection[str]) -> tuple[bool, bool, float, int]:
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    found = list(itertools.islice((row for row in rows if any(row)), _SAMPLED + 1))
    if not found:
        return False, False, 0, 0
    first, *others = found
    alike = sum(len(row) == len(first) for row in others) / len(others) if others else 1
    is_known = any(name.strip().lower() in known for name in first)
    splits = len(first) > 1
    return splits and (alike >= 0.5 or is_known), splits, alike, len(first)


def line_of(cells: list[str]) -> str:
    """The cells as a line of CSV."""
    out = io.StringIO(newline="")
    csv.writer(out, lineterminator="\n").writerow(cells)
    return out.getvalue()


def is_one_row(text: str, delimiter: str, row_bytes: int) -> bool:
    """Whether a text is exactly one row, so that it does not swallow the rows after it."""
    found = list(pieces(io.BytesIO(text.encode()), "utf-8", delimiter, row_bytes))
    return len(found) == 1 and found[0].found is not None
