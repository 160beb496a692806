"""A table as the page shows it: how it is read, and its first rows."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import IO, Any

from batches.files import blobs
from batches.intake.repair import limits
from batches.intake.tables import reading as readings
from batches.intake.tables.cells import Limits, TableError
from batches.intake.tables.reading import Reading
from batches.intake.tables.rows import Row, headings, rows
from batches.models import File

CHOICE = "read-"  # the fields of the form that say how the table is read
CHOICES = ("sheet", "delimiter", "encoding", "header_row")
SHOWN = 5  # rows
FIRST, FIRST_CHARACTERS = 50, 500_000  # rows that are kept at hand
HEADER_ROWS = 20
_PROMPTS = ("prompt", "input", "messages")  # columns that are the prompt without a template
_IDS = ("custom_id", "id")


@dataclass(frozen=True)
class Table:
    """reading: as a person chose it, or as it was guessed; None when nothing could be made of the file. why: the reason
    why it cannot be read so. first: its first rows, without those that are blank. count: of the rows."""

    reading: Reading | None
    headings: tuple[str, ...] = ()
    first: tuple[Row, ...] = ()
    count: int = 0
    why: str = ""
    choices: tuple[tuple[str, str, str, tuple[tuple[str, str], ...]], ...] = ()

    @property
    def said(self) -> str:
        return self.reading.said if self.reading else ""

    @property
    def shown(self) -> list[tuple[int, list[str]]]:
        found = self.first[:SHOWN]
        return [(row.number, list(row.columns.values()) if row.columns else [row.raw]) for row in found]

    @property
    def own_prompt(self) -> str:
        """The column that is the prompt where no template is written; empty when there is none."""
        names = {name.lower(): name for name in self.headings}
        if "documents" in names:
            return next((names[name] for name in ("queries", "query") if name in names), "")
        return next((names[name] for name in _PROMPTS if name in names), "")

    @property
    def ids(self) -> str:
        """The column that looks like the rows' ids; empty when there is none."""
        for name in self.headings:
            values = [row.columns.get(name, "").strip() for row in self.first if row.columns]
            if name.lower() in _IDS and all(values) and len(set(values)) == len(values):
                return name
        return ""

    @property
    def wordiest(self) -> str:
        """The column with the longest texts."""
        filled = [row.columns for row in self.first if row.columns]
        return max(self.headings, key=lambda name: sum(len(row.get(name, "")) for row in filled), default="")


def choices_of(reading: Reading) -> dict[str, str]:
    """The fields of the form that have a table read like this."""
    delimiter = "tab" if reading.delimiter == "\t" else reading.delimiter
    chosen = (reading.sheet, delimiter, reading.encoding, str(reading.header_row))
    return {CHOICE + name: value for name, value in zip(CHOICES, chosen, strict=True)}


def reading_of(file: File, data: Mapping[str, Any]) -> Reading:
    """How the form says that the table is read; what it leaves open is guessed. Raises TableError,
    FileNotFoundError."""
    given = {name: str(data.get(CHOICE + name, "")) for name in CHOICES}
    return _guess(file.blob, file.filename, limits()).changed(given)


def look(file: File, data: Mapping[str, Any]) -> Table:
    """The table as the form says that it is read. Raises FileNotFoundError."""
    reading: Reading | None = None
    try:
        reading = _guess(file.blob, file.filename, limits())
        choices = _choices(file, reading)
        reading = reading_of(file, data)
        choices = _choices(file, reading)
        names, first = _first(file.blob, reading, limits())
        return Table(reading, names, first, _count(file.blob, reading, limits()), choices=choices)
    except TableError as error:
        return Table(reading, why=str(error), choices=choices if reading else ())


@contextmanager
def _opened(blob: str) -> Iterator[IO[bytes]]:
    try:
        with blobs.local(blob) as path, path.open("rb") as content:
            yield content
    except blobs.BlobGone:
        raise FileNotFoundError(blob) from None


@lru_cache(maxsize=64)  # a file never changes
def _guess(blob: str, filename: str, bounds: Limits) -> Reading:
    with _opened(blob) as content:
        return readings.guess(content, filename, bounds)


@lru_cache(maxsize=16)
def _first(blob: str, reading: Reading, bounds: Limits) -> tuple[tuple[str, ...], tuple[Row, ...]]:
    """The headings and the first rows."""
    found: list[Row] = []
    size = 0
    with _opened(blob) as content:
        names = headings(content, reading, bounds)
        for row in rows(content, reading, bounds):
            if row.is_blank:
                continue
            size += len(row.raw)
            if len(found) == FIRST or (size > FIRST_CHARACTERS and found):
                break
            found.append(row)
    return tuple(names), tuple(found)


@lru_cache(maxsize=256)
def _count(blob: str, reading: Reading, bounds: Limits) -> int:
    """The number of rows that are not blank."""
    with _opened(blob) as content:
        return sum(not row.is_blank for row in rows(content, reading, bounds))


def _choices(file: File, reading: Reading) -> tuple[tuple[str, str, str, tuple[tuple[str, str], ...]], ...]:
    """What can be chosen: name, label, what is chosen now, and the values with their words."""
    with _opened(file.blob) as content:
        known = readings.choices(content, reading)
    delimiter = "tab" if reading.delimiter == "\t" else reading.delimiter
    found = (
        ("sheet", "Sheet", reading.sheet, tuple((one, one) for one in known.sheets)),
        ("delimiter", "Separated by", delimiter, tuple(known.delimiters)),
        ("encoding", "Encoding", reading.encoding, tuple(known.encodings)),
        ("header_row", "Headings in row", str(reading.header_row), _header_rows(reading)),
    )
    return tuple(one for one in found if len(one[3]) > 1)


def _header_rows(reading: Reading) -> tuple[tuple[str, str], ...]:
    if reading.format == readings.ROWS:
        return ()
    return tuple((str(number), str(number)) for number in sorted({*range(1, HEADER_ROWS + 1), reading.header_row}))
