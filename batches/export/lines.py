"""Results as lines of JSON or CSV. Each page of rows is a piece, and the first one has the head."""

import csv
import io
from collections.abc import Iterator

from batches.export.cells import inert, printable
from batches.export.table import Headings, Row, text_of
from batches.intake.records import one_line
from vbs.openai import raw_json

BOM = "\ufeff"  # by which Excel knows UTF-8


def jsonl(headings: Headings, pages: Iterator[list[Row]]) -> Iterator[bytes]:
    """An object a line, with the input's values as they were sent."""
    first, *others = headings.own
    for page in pages:
        lines = []
        for row in page:
            members = {first: raw_json.raw(row.own[0])} | row.given
            members |= {name: raw_json.raw(value) for name, value in zip(others, row.own[1:], strict=True)}
            lines.append(one_line(raw_json.text_of(members)) + b"\n")
        yield b"".join(lines)


def csv_lines(headings: Headings, pages: Iterator[list[Row]]) -> Iterator[bytes]:
    """Every reader takes the cells for text, and no spreadsheet for formulas."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    out.write(BOM)
    writer.writerow([_cell(name) for name in headings.all])
    for page in pages:
        for row in page:
            own = [_cell(value) if isinstance(value, str) else value for value in row.own]
            given = [_cell(text_of(row.given.get(name))) for name in headings.given]
            writer.writerow(own[:1] + given + own[1:])
        yield _taken(out)
    yield _taken(out)


def _cell(text: str | None) -> str:
    return inert(printable(text or ""))


def _taken(out: io.StringIO) -> bytes:
    text = out.getvalue()
    out.seek(0)
    out.truncate()
    return text.encode()
