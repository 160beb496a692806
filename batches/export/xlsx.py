"""Results as an Excel workbook: texts that are never computed, and numbers. It is written to the disk, then sent.

Excel takes no file before it is whole, so making one is bounded: how many are made at once, and how long that takes.
"""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from django.conf import settings

from batches.export.cells import printable
from batches.export.table import Headings, Row, text_of
from vbs.openai.errors import InvalidRequest, Unavailable
from vbs.openai.raw_json import Raw, value

if TYPE_CHECKING:
    from xlsxwriter.worksheet import Worksheet

MOST_ROWS = 2**20  # in one sheet, with the headings
MOST_CHARACTERS = 32_767  # in one cell, in UTF-16
MOST_DIGITS = 15  # that Excel keeps of a number
CUT = " … (cut here: this text has {:,} characters, and a cell of Excel at most 32,767)"
AT_ONCE = 2
WAIT_SECONDS = 30  # for one of the others to be ready
MOST_SECONDS = 180  # for which one is made
PIECE = 256 * 1024
OTHERS = "CSV, Parquet and JSONL have no such limit."

_places = threading.BoundedSemaphore(AT_ONCE)


def check(rows: int) -> None:
    """Raises InvalidRequest when no sheet has so many rows."""
    if rows >= MOST_ROWS:
        raise InvalidRequest(
            f"A sheet of Excel has at most {MOST_ROWS:,} rows, and this batch has {rows:,} requests. {OTHERS}",
            param="format",
            code="too_large_for_xlsx",
        )


def xlsx(headings: Headings, pages: Iterator[list[Row]]) -> Iterator[bytes]:
    """Yields nothing, again and again, until the workbook is made; so it can be ended at any time. Raises Unavailable
    when that takes too long, or too many others are made, InvalidRequest when it would be too large."""
    waits = time.monotonic() + WAIT_SECONDS
    while not _places.acquire(timeout=1):
        if time.monotonic() > waits:
            raise Unavailable(
                f"{AT_ONCE} other Excel files are being made, which is the most at once. Try again in a few seconds.",
                code="too_many_exports",
            )
        yield b""
    try:
        settings.TMP_DIR.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=settings.TMP_DIR, prefix="vbs-") as folder:
            path = Path(folder) / "results.xlsx"
            yield from _make(path, headings, pages)
            file = path.open("rb")
    finally:
        _places.release()
    with file:  # its name is gone, its bytes are not
        while piece := file.read(PIECE):
            yield piece


def _make(path: Path, headings: Headings, pages: Iterator[list[Row]]) -> Iterator[bytes]:
    from xlsxwriter import Workbook
    from xlsxwriter.exceptions import FileSizeError

    ends = time.monotonic() + MOST_SECONDS
    book = Workbook(str(path), {"constant_memory": True, "tmpdir": str(path.parent)})
    sheet = book.add_worksheet("Results")
    bold = book.add_format({"bold": True})
    sheet.freeze_panes(1, 0)
    for column, name in enumerate(headings.all):
        sheet.write_string(0, column, _text(name), bold)
    number = 0
    for page in pages:
        for row in page:
            number += 1
            _write(sheet, number, headings, row)
        check(number)
        if time.monotonic() > ends:
            raise Unavailable(
                f"The Excel file was not ready within {MOST_SECONDS} s, after {number:,} rows. {OTHERS}",
                code="export_too_slow",
            )
        yield b""
    sheet.ignore_errors({"number_stored_as_text": f"A1:XFD{MOST_ROWS}"})
    try:
        book.close()
    except FileSizeError:
        raise InvalidRequest(
            f"The Excel file would have more than 4 GB. {OTHERS}", param="format", code="too_large_for_xlsx"
        ) from None


def _write(sheet: "Worksheet", number: int, headings: Headings, row: Row) -> None:
    given = [_cell(row.given.get(name)) for name in headings.given]
    for column, cell in enumerate([row.own[0], *given, *row.own[1:]]):
        if isinstance(cell, str):
            sheet.write_string(number, column, _text(cell))
        elif cell is not None:
            sheet.write_number(number, column, cell)


def _cell(given: Raw | None) -> Any:
    """A number of the input stays one where Excel keeps all its digits."""
    if given is None:
        return None
    read = value(given)
    if isinstance(read, int | float) and not isinstance(read, bool):
        return read if sum(map(str.isdigit, bytes(given).decode())) <= MOST_DIGITS else bytes(given).decode()
    return text_of(given)


def _text(text: str) -> str:
    """What Excel takes as a cell. A text that is cut says so."""
    text = printable(text)
    if len(text) <= MOST_CHARACTERS // 2 or _units(text) <= MOST_CHARACTERS:
        return text
    said = CUT.format(len(text))
    kept = text[: MOST_CHARACTERS - len(said)]
    while (over := _units(kept) + len(said) - MOST_CHARACTERS) > 0:
        kept = kept[: -((over + 1) // 2)]
    return kept + said


def _units(text: str) -> int:
    """How long it is in UTF-16."""
    return len(text.encode("utf-16-le")) // 2
