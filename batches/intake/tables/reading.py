"""How a table is read: its format, encoding, delimiter, sheet, and which row has the headings. What is guessed of a
file can be changed by a person."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import PurePath
from typing import IO, Any, NamedTuple

import orjson

from batches.files.kinds import HEAD, is_protected, unreadable
from batches.intake.tables import delimited, encodings, json_lines, workbook
from batches.intake.tables.cells import Limits, Piece, TableError

CSV, XLSX, ROWS, REQUESTS = "csv", "xlsx", "rows", "jsonl"
# The columns that make requests without a prompt template, as `requests` reads them.
KNOWN = ("prompt", "input", "messages", "query", "queries", "documents", "system", "model", "custom_id")
NAMED = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
_FORMATS = {CSV: "CSV", XLSX: "Excel", ROWS: "JSONL"}
_LINES, _TABLES = (".jsonl", ".ndjson", ".json"), (".csv", ".tsv")
_OFFICE = (".xlsx", ".xlsm", ".xlsb", ".xls", ".ods", ".numbers")
ENDINGS = (*_TABLES, *_OFFICE)  # of names of files that people take for tables
_MARKUP = ("<!doctype", "<html", "<table", "<?xml")
_LINE_BYTES = 16 * 2**20
_FIRST_ROWS = 20  # that are looked at for the headings
_MOST_HEADER_ROW = 1000


@dataclass(frozen=True)
class Reading:
    """format: csv, xlsx, or rows, which are JSON objects. header_row: as a spreadsheet shows it."""

    format: str
    encoding: str = "utf-8"
    delimiter: str = ","
    sheet: str = ""
    header_row: int = 1

    @property
    def said(self) -> str:
        """`CSV: UTF-8, separated by commas, headings in row 1`."""
        words = []
        if self.format == XLSX:
            words.append(f"sheet “{self.sheet}”" if self.sheet else "the first sheet")
        else:
            words.append(encodings.NAMES.get(self.encoding, self.encoding))
        if self.format == CSV:
            words.append(f"separated by {NAMED.get(self.delimiter, self.delimiter)}")
        if self.format != ROWS:
            words.append(f"headings in row {self.header_row}")
        return f"{_FORMATS[self.format]}: {', '.join(words)}"

    def changed(self, given: Mapping[str, str]) -> "Reading":
        """The same with what a form says of encoding, delimiter, sheet and header_row; what is empty there stays.
        Raises TableError."""
        made = self
        if encoding := given.get("encoding"):
            if encoding not in encodings.NAMES:
                raise TableError(f"There is no encoding {encoding[:60]!r}. Known are: {', '.join(encodings.NAMES)}.")
            made = replace(made, encoding=encoding)
        if delimiter := given.get("delimiter"):
            delimiter = {"tab": "\t", "\\t": "\t"}.get(delimiter, delimiter)
            if len(delimiter) != 1 or delimiter in '"\r\n ' or not (delimiter == "\t" or delimiter.isprintable()):
                raise TableError(f"The delimiter is {delimiter[:60]!r}: give one character, or “tab”.")
            made = replace(made, delimiter=delimiter)
        if sheet := given.get("sheet"):
            made = replace(made, sheet=sheet)
        if row := given.get("header_row"):
            if not (row.isascii() and row.isdigit() and len(row) < 6 and 1 <= int(row) <= _MOST_HEADER_ROW):
                raise TableError(
                    f"The row of the headings is {row[:60]!r}: give a number from 1 to {_MOST_HEADER_ROW:,}."
                )
            made = replace(made, header_row=int(row))
        return made

    def rewritten(self) -> "Reading":
        """How a file is read that was written from the pieces of this one: always UTF-8, and CSV for a workbook."""
        if self.format == XLSX:
            return Reading(CSV, header_row=self.header_row)
        return replace(self, encoding="utf-8")

    def is_one_row(self, text: str, row_bytes: int) -> bool:
        """Whether a text is exactly one row of a file that is read so. Raises TableError."""
        if self.format == ROWS:
            return json_lines.is_one_row(text)
        return delimited.is_one_row(text, self.delimiter, row_bytes)

    def pieces(self, file: IO[bytes], row_bytes: int) -> Iterator[Piece]:
        """Every row of the file, those before the headings too. Raises TableError."""
        if self.format == XLSX:
            return workbook.pieces(file, self.sheet, row_bytes)
        if self.format == ROWS:
            return json_lines.pieces(file, self.encoding, row_bytes)
        return delimited.pieces(file, self.encoding, self.delimiter, row_bytes)


class Choices(NamedTuple):
    """What a person can choose for a file, as values with their labels."""

    encodings: list[tuple[str, str]]
    delimiters: list[tuple[str, str]]
    sheets: list[str]


def choices(file: IO[bytes], reading: Reading) -> Choices:
    """Raises TableError."""
    if reading.format == XLSX:
        return Choices([], [], workbook.sheets(file))
    named = NAMED if reading.delimiter in NAMED else NAMED | {reading.delimiter: reading.delimiter}
    delimiters = [("tab" if one == "\t" else one, name) for one, name in named.items()]
    return Choices(list(encodings.NAMES.items()), delimiters if reading.format == CSV else [], [])


def format_of(file: IO[bytes], filename: str) -> str:
    """What the file is: a table in one of the formats, or JSONL whose lines are requests. The content decides, and the
    name where that is not enough. Raises TableError for what is neither."""
    file.seek(0)
    head = file.read(HEAD)
    if head.startswith(workbook.MAGIC):
        workbook.check(file)
        return XLSX
    kind, encoding = unreadable(head), "utf-8"
    if kind and "UTF-16" not in kind:
        if is_protected(file):
            raise TableError("This Excel file has a password. Save it without one, or as “CSV UTF-8”.")
        raise TableError(f"This is {kind}. Export it as CSV, as Excel (.xlsx), or as JSONL.")
    if kind:
        encoding = encodings.guess(file)
    file.seek(0)
    first = _first_line(file, encoding)
    suffix = PurePath(filename).suffix.lower()
    if first[:9].lower().startswith(_MARKUP):
        raise TableError("This is HTML or XML. Export it as CSV, as Excel (.xlsx), or as JSONL.")
    if first.startswith("["):
        raise TableError(
            "This is one JSON list. JSONL has one object on each line, without commas between them: convert it."
        )
    if first.startswith("{") and (suffix not in _TABLES or first.startswith('{"')):
        if is_row(first):
            return ROWS
    elif suffix not in _LINES:
        return CSV
    if kind:
        raise TableError(f"This is {kind}. Export it as JSONL in UTF-8, with one request on each line.")
    return REQUESTS


def _first_line(file: IO[bytes], encoding: str) -> str:
    """The first line that is not blank."""
    if encoding.startswith("utf-16"):
        text = file.read(HEAD).decode(encoding, errors="replace").removeprefix("\ufeff").lstrip()
        return text.partition("\n")[0]
    for _ in range(1000):
        line = file.readline(_LINE_BYTES)
        text = line.decode(errors="replace").removeprefix("\ufeff").strip()
        if text or not line:
            break
    return text


def is_row(line: str) -> bool:
    """Whether a line is a JSON object that is no request and no attempt at one."""
    try:
        found = orjson.loads(line)
    except orjson.JSONDecodeError:
        return False
    return isinstance(found, dict) and bool(found) and not _is_request(found)


def _is_request(found: dict[str, Any]) -> bool:
    return "body" in found or ("url" in found and "method" in found) or found.keys() <= {"custom_id", "url", "method"}


def guess(file: IO[bytes], filename: str, limits: Limits) -> Reading:
    """How the table is best read. Raises TableError for what is none."""
    format = format_of(file, filename)
    if format == XLSX:
        return _with_headings(file, Reading(XLSX, sheet=_first_sheet(file, limits)), limits)
    encoding = encodings.guess(file)
    if format != CSV:
        return Reading(ROWS, encoding)
    return _with_headings(file, Reading(CSV, encoding, delimited.delimiter_of(file, encoding, KNOWN)), limits)


def _first_sheet(file: IO[bytes], limits: Limits) -> str:
    """The first sheet that has cells, else the first one."""
    names = workbook.sheets(file)
    for name in names[:_FIRST_ROWS]:
        pieces = workbook.pieces(file, name, limits.row_bytes)
        if not all(piece.is_blank for piece in islice(pieces, _FIRST_ROWS)):
            return name
    return names[0] if names else ""


def _with_headings(file: IO[bytes], reading: Reading, limits: Limits) -> Reading:
    """The headings are in the first row that fills more than half as many cells as any other: titles above a table
    fill fewer."""
    try:
        first = list(islice(reading.pieces(file, limits.row_bytes), _FIRST_ROWS))
    except TableError:  # whoever reads the rows is told
        return reading
    filled = {piece.number: sum(map(bool, piece.found or ())) for piece in first}
    most = max(filled.values(), default=0)
    for piece in first:
        is_known = any(isinstance(one, str) and one.strip().lower() in KNOWN for one in piece.found or ())
        if filled[piece.number] and (is_known or 2 * filled[piece.number] > most):
            return replace(reading, header_row=piece.number)
    return reading
