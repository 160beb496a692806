"""Reads the sheets of Excel workbooks (.xlsx), a row at a time. Of a formula it reads the value that was stored last.

A workbook is a ZIP archive of XML, which may be small and unpack to anything. So what is unpacked is limited before
it is read, and what a sheet claims to be (a million empty rows, a cell in the last column) costs no memory.
"""

import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, datetime, time
from typing import IO, Any

from batches.intake.tables.cells import Piece, TableError
from batches.intake.tables.delimited import line_of

MAGIC = b"PK\x03\x04"
_PARTS = "xl/"
_SHEETS = "xl/worksheets/"
_SHEET_BYTES = 2**30  # of a sheet as XML, which is read in pieces
_OTHER_BYTES = 64 * 2**20  # of all the rest, which is in memory: mostly the texts of the cells
_INDEX_BYTES = 2**20  # of the archive's list of its files
_ROWS, _CELLS = 2**20, 50_000_000  # Excel's own limit, and what is read in some minutes
_REMEDY = "Save the sheet as “CSV UTF-8”."
_NO_TEXT = re.compile("[\ud800-\udfff]")  # what an escape can write, and UTF-8 cannot


def check(file: IO[bytes]) -> None:
    """Raises TableError for an archive that is no workbook, or that unpacks to too much."""
    _check_index(file)
    try:
        with zipfile.ZipFile(file) as archive:
            sizes = {one.filename: one.file_size for one in archive.infolist()}  # no more than this is ever unpacked
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError) as error:
        raise TableError(f"The file begins like an Excel file and is none ({error}). {_REMEDY}") from None
    if not any(name.startswith(_PARTS) for name in sizes):
        raise TableError("This is a ZIP archive or another office file, not an Excel workbook (.xlsx). Unpack it.")
    sheets = [size for name, size in sizes.items() if name.startswith(_SHEETS)]
    rest = sum(sizes.values()) - sum(sheets)
    if rest > _OTHER_BYTES or max(sheets, default=0) > _SHEET_BYTES:
        raise TableError(
            f"The Excel file unpacks to {sum(sizes.values()) // 2**20:,} MB, which is more than can be read. {_REMEDY}"
        )


def _check_index(file: IO[bytes]) -> None:
    """Python reads the whole list of an archive's files into memory, however long it is."""
    size = file.seek(0, 2)
    file.seek(max(0, size - 2**16 - 64))
    tail = file.read()
    at = tail.rfind(b"PK\x05\x06")
    if at < 0:  # it is no archive
        return
    is_64 = tail[max(0, at - 20) :].startswith(b"PK\x06\x07")
    if is_64 or int.from_bytes(tail[at + 12 : at + 16], "little") > _INDEX_BYTES:
        raise TableError(f"The Excel file is an archive of too many files or of the kind ZIP64. {_REMEDY}")


@contextmanager
def _opened(file: IO[bytes]) -> Iterator[Any]:
    from openpyxl import load_workbook

    check(file)
    try:
        book = load_workbook(file, read_only=True, data_only=True, keep_links=False)
    except Exception as error:  # a file that is not well formed breaks it anywhere
        raise _broken(error) from error
    try:
        yield book
    finally:
        book.close()


def _broken(error: Exception) -> TableError:
    return TableError(f"The Excel file cannot be read ({str(error)[:200] or type(error).__name__}). {_REMEDY}")


def sheets(file: IO[bytes]) -> list[str]:
    """The names of the sheets; those that are hidden come last."""
    with _opened(file) as book:
        found = sorted(book.worksheets, key=lambda one: one.sheet_state != "visible")
        return [one.title for one in found]


def pieces(file: IO[bytes], sheet: str, row_bytes: int) -> Iterator[Piece]:
    """Every row of a sheet, of the first one where none is named. Raises TableError."""
    with _opened(file) as book:
        names = [one.title for one in sorted(book.worksheets, key=lambda one: one.sheet_state != "visible")]
        if not names:
            raise TableError("The Excel file has no sheet with cells.")
        if sheet and sheet not in names:
            raise TableError(f"There is no sheet {sheet[:60]!r}; there is {', '.join(map(repr, names[:20]))}.")
        page = book[sheet or names[0]]
        page.reset_dimensions()  # what the sheet says of its size need not be true
        read = 0
        for number, cells in enumerate(_rows(page), 1):
            read += len(cells)
            if number > _ROWS or read > _CELLS:
                raise TableError(f"The sheet has more than {_ROWS:,} rows or {_CELLS:,} cells. {_REMEDY}")
            values = [_text(one) for one in cells]
            while values and not values[-1]:
                values.pop()
            if sum(map(len, values)) > row_bytes:
                raise TableError(
                    f"Row {number:,} has more than {row_bytes // 2**20} MB, which is the limit of one request."
                )
            yield Piece(number, line_of(values) if values else "\n", values)


def _rows(page: Any) -> Iterator[tuple[Any, ...]]:
    try:
        yield from page.iter_rows(values_only=True)
    except Exception as error:  # as above
        raise _broken(error) from error


def _text(value: Any) -> str:
    """A cell as people read it: dates as ISO has them, numbers without digits that only a computer sees."""
    if value is None:
        return ""
    if isinstance(value, str):
        return _unescaped(value) if "_x" in value else value
    if isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    if isinstance(value, float):
        return f"{value:.15g}"
    if isinstance(value, datetime):
        return str(value.date() if value.time() == time() else value.replace(microsecond=0))
    if isinstance(value, date | time):
        return value.isoformat()
    return str(value)


def _unescaped(value: str) -> str:
    """Excel writes characters that XML does not allow, and a carriage return, as `_x000D_`."""
    from openpyxl.utils.escape import unescape

    return _NO_TEXT.sub("\ufffd", str(unescape(value)).replace("\r\n", "\n"))
