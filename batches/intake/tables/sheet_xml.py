"""Reads the XML in a workbook in pieces: the texts that cells share, and the rows of a sheet. Memory holds one row.

Libraries for Excel build a tree of each row, or of the whole sheet, however large it is; here a row that is too large
is an error before it is in memory. A DOCTYPE, which no workbook has, is refused, and with it all entities.
"""

import re
from array import array
from collections.abc import Callable, Iterator
from typing import IO, Any
from xml.parsers import expat

from batches.intake.tables.cells import TableError

COLUMNS = 16_384  # Excel's own limit
_PIECE = 64 * 1024
_TOKEN = 4 * 2**20  # bytes of one tag
_PLACE = re.compile(r"([A-Z]{1,3})\d*")
_NO_TEXT = re.compile("[\ud800-\udfff]")  # what an escape can write, and UTF-8 cannot
_ESCAPED = re.compile("_x([0-9A-Fa-f]{4})_")

Attributes = dict[str, str]


class Handler:
    """What is called for each tag, by its name without a prefix, and for each text. found: what it has made."""

    def __init__(self) -> None:
        self.found: list[Any] = []

    def start(self, name: str, attributes: Attributes) -> None: ...

    def end(self, name: str) -> None: ...

    def text(self, data: str) -> None: ...


def read(source: IO[bytes], handler: Handler) -> Iterator[Any]:
    """What the handler finds, as soon as it is found. Raises TableError, expat.ExpatError."""
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler = lambda name, given: handler.start(name.rpartition(":")[2], given)
    parser.EndElementHandler = lambda name: handler.end(name.rpartition(":")[2])
    parser.CharacterDataHandler = handler.text
    parser.StartDoctypeDeclHandler = _refuse
    read = 0
    while data := source.read(_PIECE):
        read += len(data)
        parser.Parse(data)
        if read - max(0, parser.CurrentByteIndex) > _TOKEN:
            raise TableError(f"The Excel file cannot be read: a tag in it has more than {_TOKEN // 2**20} MB.")
        yield from handler.found
        handler.found.clear()
    parser.Parse(b"", True)
    yield from handler.found


def _refuse(*_: object) -> None:
    raise TableError("The Excel file cannot be read: it has a DOCTYPE, as no Excel file has.")


class _Text(Handler):
    """Gathers the text of the tags `t`, but not of those that say how it is pronounced."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most, self.size, self.pieces = most, 0, list[str]()
        self.in_text = self.in_phonetic = False

    def start(self, name: str, attributes: Attributes) -> None:
        if name == "t":
            self.in_text = not self.in_phonetic
        elif name == "rPh":
            self.in_phonetic = True

    def end(self, name: str) -> None:
        if name == "t":
            self.in_text = False
        elif name == "rPh":
            self.in_phonetic = False

    def text(self, data: str) -> None:
        if self.in_text:
            self.count(len(data))
            self.pieces.append(data)

    def count(self, characters: int) -> None:
        self.size += characters
        if self.size > self.most:
            raise TableError(
                f"A row of the Excel file has more than {self.most // 2**20} MB, which is the limit of one request."
            )

    def taken(self) -> str:
        text = "".join(self.pieces)
        self.pieces.clear()
        return text


class _SharedTexts(_Text):
    def start(self, name: str, attributes: Attributes) -> None:
        super().start(name, attributes)
        if name == "si":
            self.size = 0

    def end(self, name: str) -> None:
        super().end(name)
        if name == "si":
            self.found.append(_unescaped(self.taken()))


class Shared:
    """The texts that cells share, by their numbers. They are read as far as they are asked for, and kept as bytes, for
    there may be millions."""

    def __init__(self, source: IO[bytes] | None, most: int) -> None:
        self._texts: Iterator[str] = iter(()) if source is None else read(source, _SharedTexts(most))
        self._bytes, self._ends = bytearray(), array("Q", [0])

    def __getitem__(self, number: int) -> str:
        while len(self._ends) <= number + 1:
            if (text := next(self._texts, None)) is None:
                raise ValueError(f"there is no text {number}")
            self._bytes += text.encode()
            self._ends.append(len(self._bytes))
        return self._bytes[self._ends[number] : self._ends[number + 1]].decode()


class Rows(_Text):
    """Finds the rows of a sheet: number, cells, and what is wrong with the row.

    shown: makes the text of a number in a cell with this style. most: characters of a row.
    """

    def __init__(self, shared: Shared, shown: Callable[[str, str], str], most: int) -> None:
        super().__init__(most)
        self.shared, self.shown = shared, shown
        self.number, self.column, self.kind, self.style = 0, 0, "", ""
        self.cells: list[str] = []
        self.has_formula, self.why = False, ""

    def start(self, name: str, attributes: Attributes) -> None:
        if name == "row":
            self.number = max(self.number + 1, int(attributes.get("r") or 0))
            self.cells, self.column, self.size, self.why = [], 0, 0, ""
        elif name == "c":
            self.column = _column(attributes.get("r", "")) or self.column + 1
            if self.column > COLUMNS:
                raise TableError(f"Row {self.number:,} of the Excel file has more than {COLUMNS:,} columns.")
            self.kind, self.style = attributes.get("t", "n"), attributes.get("s", "")
            self.has_formula = False
        elif name == "f":
            self.has_formula = True
        elif name == "v":
            self.in_text, self.has_formula = self.kind != "inlineStr", False
        elif self.kind == "inlineStr":
            super().start(name, attributes)

    def end(self, name: str) -> None:
        if name == "v":
            self.in_text = False
        elif name == "c":
            self._place(self._value(self.taken()))
            self.kind = ""
            if self.has_formula:  # without a value, as programs write it that compute nothing
                self.why = f"Cell {self.column} has a formula without a value: open the file in Excel, and save it"
        elif name == "row":
            self.found.append((self.number, self.cells, self.why))
        elif self.kind == "inlineStr":
            super().end(name)

    def _place(self, value: str) -> None:
        if value:
            self.cells += [""] * (self.column - len(self.cells))
            self.cells[self.column - 1] = value

    def _value(self, text: str) -> str:
        if not text:
            return ""
        if self.kind == "s":
            value = self.shared[int(text)] if text.isdigit() else ""
            self.count(len(value))
            return value
        if self.kind == "b":
            return "TRUE" if text == "1" else "FALSE"
        if self.kind == "n":
            return self.shown(text, self.style)
        return _unescaped(text)


def _column(place: str) -> int:
    """The number of the column of a place like `AB12`; 0 where there is none."""
    found = _PLACE.fullmatch(place)
    number = 0
    for letter in found[1] if found else "":
        number = 26 * number + ord(letter) - 64
    return number


def _unescaped(text: str) -> str:
    """Excel writes characters that XML does not allow, and a carriage return, as `_x000D_`."""
    if "_x" not in text:
        return text
    plain = _ESCAPED.sub(lambda found: chr(int(found[1], 16)), text)
    return _NO_TEXT.sub("\ufffd", plain).replace("\r\n", "\n")
