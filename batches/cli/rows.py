"""Reads the rows of a CSV or JSONL file, each with the number of its first line. A row has a text for each column."""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

import orjson


class RowError(Exception):
    """The file cannot be read as rows. The message says where and why."""


class ReportRow(NamedTuple):
    line: int
    columns: dict[str, str]


def read(path: Path, line_bytes: int) -> Iterator[ReportRow]:
    """Raises RowError, OSError. `line_bytes`: the largest size of a line or a field."""
    readers = {".csv": _read_csv, ".jsonl": _read_jsonl, ".ndjson": _read_jsonl}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise RowError(f"{path.name} is neither .csv nor .jsonl: give its name the ending of its format.")
    with path.open("rb") as file:
        yield from reader(file, line_bytes)


class _Lines:
    """The decoded lines of a file; `number` is that of the last line."""

    def __init__(self, file: IO[bytes], line_bytes: int) -> None:
        self.file, self.line_bytes, self.number = file, line_bytes, 0

    def __iter__(self) -> Iterator[str]:
        while raw := self.file.readline(self.line_bytes + 1):
            self.number += 1
            if len(raw) > self.line_bytes:
                raise RowError(f"Line {self.number} has more than {self.line_bytes:,} bytes.")
            if self.number == 1:
                raw = raw.removeprefix(b"\xef\xbb\xbf")
            try:
                yield raw.decode()
            except UnicodeDecodeError as error:
                raise RowError(f"Line {self.number} is not UTF-8 (byte {error.start + 1}): convert the file.") from None


def _read_csv(file: IO[bytes], line_bytes: int) -> Iterator[ReportRow]:
    lines = _Lines(file, line_bytes)
    csv.field_size_limit(line_bytes)
    reader = csv.reader(iter(lines), strict=True)
    header: list[str] | None = None
    while True:
        line = lines.number + 1
        try:
            fields = next(reader, None)
        except csv.Error as error:
            raise RowError(f"Line {line} is not CSV: {error}.") from None
        if fields is None:
            break
        if not fields:
            continue
        if header is None:
            header = fields
            if twice := next((name for name in header if header.count(name) > 1), None):
                raise RowError(f"Two columns are called {twice!r}: rename one.")
        elif len(fields) != len(header):
            raise RowError(f"Line {line} has {len(fields)} fields, and the first line names {len(header)} columns.")
        else:
            yield ReportRow(line, dict(zip(header, fields, strict=True)))
    if header is None:
        raise RowError("The file is empty; its first line must name the columns.")


def _read_jsonl(file: IO[bytes], line_bytes: int) -> Iterator[ReportRow]:
    lines = _Lines(file, line_bytes)
    for text in lines:
        if not text.strip():
            continue
        try:
            found = orjson.loads(text)
        except orjson.JSONDecodeError as error:
            raise RowError(f"Line {lines.number} is not JSON: {error}.") from None
        if not isinstance(found, dict):
            raise RowError(f"Line {lines.number} is not a JSON object.")
        try:
            yield ReportRow(lines.number, {name: _text(value) for name, value in found.items()})
        except orjson.JSONEncodeError:  # orjson reads deeper nesting than it writes
            raise RowError(f"Line {lines.number} is nested too deeply.") from None


def _text(value: Any) -> str:
    """A text as it is, an empty text for null, anything else as JSON."""
    if value is None:
        return ""
    return value if isinstance(value, str) else orjson.dumps(value).decode()
