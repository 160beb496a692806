"""Reads the sheets of Excel workbooks (.xlsx), a row at a time. Of a formula it reads the value that was stored last.

A workbook is a ZIP archive of XML, which may be small and unpack to anything. So what is unpacked is limited before
it is read, and what a sheet claims to be (a million empty rows, a cell in the last column) costs no memory.
"""

import lzma
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import PurePosixPath
from typing import IO
from xml.parsers.expat import ExpatError

from batches.files.kinds import archived
from batches.intake.tables.cells import Piece, TableError
from batches.intake.tables.delimited import line_of
from batches.intake.tables.sheet_xml import Attributes, Handler, Rows, Shared, read

MAGIC = b"PK\x03\x04"
_CONTENTS, _RELATIONS = "[Content_Types].xml", "_rels/.rels"
_SHEET_BYTES = 2**30  # of a part as XML, which is read in pieces
_TEXT_BYTES = 128 * 2**20  # of the texts of all cells, which are in memory as far as they are read
_INDEX_BYTES = 2**20  # of the archive's list of its files
_SHEETS, _STYLES = 1000, 100_000  # Excel has fewer styles
_ROWS, _CELLS = 2**20, 50_000_000  # Excel's own limit, and what is read in a minute or two
_REMEDY = "Save the sheet as “CSV UTF-8”."
_BROKEN = (  # what the modules of Python raise for archives and XML that are not well formed
    zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, ExpatError,
    NotImplementedError, RuntimeError, KeyError, ValueError, OSError, EOFError,
)  # fmt: skip
# The formats of dates and times that have a number only, and what a format of one's own is: the rest of it is text.
_DATES, _ELAPSED = {*range(14, 23), *range(27, 37), 45, 47, *range(50, 59)}, {46}
_NO_DATE = re.compile(r'"[^"]*"|\\.|_.|\*.|\[(?!h+\]|m+\]|s+\])[^\]]*\]|;.*', re.IGNORECASE | re.DOTALL)


def check(file: IO[bytes]) -> None:
    """Raises TableError for an archive that is no workbook, or that unpacks to too much."""
    _check_index(file)
    try:
        with zipfile.ZipFile(file) as archive:
            sizes = {one.filename: one.file_size for one in archive.infolist()}  # no more than this is ever unpacked
    except _BROKEN as error:
        raise TableError(f"The file begins like an Excel file and is none ({error}). {_REMEDY}") from None
    if kind := archived(sizes) or ("" if _CONTENTS in sizes else "a ZIP archive"):
        raise TableError(f"This is {kind}, not an Excel workbook (.xlsx). {_REMEDY}")
    texts = max((size for name, size in sizes.items() if name.endswith("sharedStrings.xml")), default=0)
    if max(sizes.values()) > _SHEET_BYTES or texts > _TEXT_BYTES:
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


@dataclass
class _Book(Handler):
    """The sheets by their names, and where they are in the archive. Those that are hidden come last."""

    found: list[str] = field(default_factory=list)
    visible: dict[str, str] = field(default_factory=dict)
    hidden: dict[str, str] = field(default_factory=dict)
    epoch: datetime = datetime(1899, 12, 30)

    def start(self, name: str, attributes: Attributes) -> None:
        if name == "sheet" and len(self.visible) + len(self.hidden) < _SHEETS:
            relation = next((value for key, value in attributes.items() if key.rpartition(":")[2] == "id"), "")
            of_state = self.visible if attributes.get("state", "visible") == "visible" else self.hidden
            of_state[attributes.get("name", "")] = relation
        elif name == "workbookPr" and attributes.get("date1904") in ("1", "true"):
            self.epoch = datetime(1904, 1, 1)

    @property
    def sheets(self) -> dict[str, str]:
        return self.visible | self.hidden


class _Relations(Handler):
    """Where the parts of one part are in the archive: sheets by the ids that the workbook gives them, others by their
    kinds. folder: of the part."""

    def __init__(self, folder: str) -> None:
        super().__init__()
        self.folder, self.parts = PurePosixPath(folder), dict[str, str]()

    def start(self, name: str, attributes: Attributes) -> None:
        if name == "Relationship" and len(self.parts) < 2 * _SHEETS:
            target = attributes.get("Target", "")
            path = target[1:] if target.startswith("/") else str(self.folder / target)
            kind = attributes.get("Type", "").rpartition("/")[2]
            self.parts[attributes.get("Id", "") if kind == "worksheet" else kind] = path


class _Styles(Handler):
    """How the numbers of each style are shown."""

    def __init__(self) -> None:
        super().__init__()
        self.formats: dict[str, str] = {}
        self.shown: list[Callable[[float, datetime], str] | None] = []
        self.in_cells = False

    def start(self, name: str, attributes: Attributes) -> None:
        if name == "numFmt" and len(self.formats) < _STYLES:
            self.formats[attributes.get("numFmtId", "")] = attributes.get("formatCode", "")[:1000]
        elif name == "cellXfs":
            self.in_cells = True
        elif name == "xf" and self.in_cells and len(self.shown) < _STYLES:
            self.shown.append(_shown_by(attributes.get("numFmtId", "0"), self.formats))

    def end(self, name: str) -> None:
        if name == "cellXfs":
            self.in_cells = False


def _shown_by(number: str, formats: dict[str, str]) -> Callable[[float, datetime], str] | None:
    """None for a number that is shown as such."""
    if (code := formats.get(number)) is not None:
        plain = _NO_DATE.sub("", code).lower()
        if "[" in plain:
            return _elapsed
        return _moment if any(letter in plain for letter in "dmyhs") else None
    known = int(number) if number.isdigit() else 0
    return _elapsed if known in _ELAPSED else _moment if known in _DATES else None


def _moment(days: float, epoch: datetime) -> str:
    """`2026-03-01`, `2026-03-01 14:30:00`, or `09:05:00` of a day without a number."""
    if days < 60 and epoch.year == 1899:
        days += days >= 1  # Excel has a 29 February 1900, on which its days from then on count
    found = epoch + timedelta(seconds=round(days * 86400))
    if 0 <= days < 1:
        return f"{found:%H:%M:%S}"
    return str(found.date()) if found.time() == datetime.min.time() else str(found)


def _elapsed(days: float, epoch: datetime) -> str:
    minutes, seconds = divmod(round(days * 86400), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"


class _Workbook:
    """An opened workbook: its sheets, and their rows."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self.archive = archive
        self._book, self._styles = _Book(), _Styles()
        book = PurePosixPath(self._parts_of(_RELATIONS, "")["officeDocument"])
        self._read(str(book), self._book)
        self._parts = self._parts_of(f"{book.parent}/_rels/{book.name}.rels", str(book.parent))
        if (styles := self._parts.get("styles", "")) in archive.NameToInfo:
            self._read(styles, self._styles)
        self.sheets = [name for name, part in self._book.sheets.items() if part in self._parts]

    def _parts_of(self, relations: str, folder: str) -> dict[str, str]:
        found = _Relations(folder)
        self._read(relations, found)
        return found.parts

    def _read(self, part: str, handler: Handler) -> None:
        with self.archive.open(part) as source:
            for _ in read(source, handler):
                pass

    def rows(self, sheet: str, row_bytes: int) -> Iterator[tuple[int, list[str], str]]:
        part = self._parts.get("sharedStrings", "")
        shared = Shared(self.archive.open(part) if part in self.archive.NameToInfo else None, row_bytes)
        with self.archive.open(self._parts[self._book.sheets[sheet]]) as source:
            yield from read(source, Rows(shared, self._shown, row_bytes))

    def _shown(self, text: str, style: str) -> str:
        """The text of a number, without digits that only a computer sees."""
        styles = self._styles.shown
        shown = styles[int(style)] if style.isdigit() and int(style) < len(styles) else None
        if shown is None and text.lstrip("-").isdigit():
            return text
        try:
            number = float(text)
            return shown(number, self._book.epoch) if shown else f"{number:.15g}"
        except (ValueError, OverflowError):  # it is no number, or a date before or after all dates
            return text


@contextmanager
def _opened(file: IO[bytes]) -> Iterator[_Workbook]:
    check(file)
    with zipfile.ZipFile(file) as archive:
        yield _Workbook(archive)


def _broken(error: Exception) -> TableError:
    return TableError(f"The Excel file cannot be read ({str(error)[:200] or type(error).__name__}). {_REMEDY}")


def sheets(file: IO[bytes]) -> list[str]:
    """The names of the sheets; those that are hidden come last. Raises TableError."""
    try:
        with _opened(file) as book:
            return book.sheets
    except TableError:
        raise
    except _BROKEN as error:
        raise _broken(error) from error


def pieces(file: IO[bytes], sheet: str, row_bytes: int) -> Iterator[Piece]:
    """Every row of a sheet, of the first one where none is named. Raises TableError."""
    at = read = 0
    for number, cells, why in _rows(file, sheet, row_bytes):
        read += len(cells)
        if number > _ROWS or read > _CELLS:
            raise TableError(f"The sheet has more than {_ROWS:,} rows or {_CELLS:,} cells. {_REMEDY}")
        for empty in range(at + 1, number):
            yield Piece(empty, "\n", [])
        yield Piece(number, line_of(cells) if cells else "\n", None if why else cells, why)
        at = number


def _rows(file: IO[bytes], sheet: str, row_bytes: int) -> Iterator[tuple[int, list[str], str]]:
    try:
        with _opened(file) as book:
            if not book.sheets:
                raise TableError("The Excel file has no sheet with cells.")
            if sheet and sheet not in book.sheets:
                shown = ", ".join(map(repr, book.sheets[:20]))
                raise TableError(f"There is no sheet {sheet[:60]!r}: the sheets are {shown}.")
            yield from book.rows(sheet or book.sheets[0], row_bytes)
    except TableError:
        raise
    except _BROKEN as error:
        raise _broken(error) from error
