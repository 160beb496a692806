"""Converts a table of prompts to an input file. Pure and streaming: CSV in, JSONL and errors out.

A row becomes the line of the JSONL with the same number; the header is row 1. A blank or wrong row leaves its line
blank. So a message about a line of the input file is about that row.
"""

import csv
import io
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any

import orjson

from batches.files.kinds import BOM
from batches.intake.records import record
from batches.intake.validate import Report

DELIMITERS = (",", ";", "\t")
TEXT, MESSAGES = ("prompt", "input"), "messages"
PAIRS = {"/v1/score": ("queries", "documents"), "/v1/rerank": ("query", "documents")}  # each needs both
OPTIONS = ("custom_id", "system", "model", "max_tokens", "temperature", "top_n")
COLUMNS = (*TEXT, MESSAGES, "query", "queries", "documents", *OPTIONS)
# The columns of each endpoint, besides the common ones.
KNOWN = {
    "/v1/chat/completions": (*TEXT, MESSAGES, "system", "max_tokens", "temperature"),
    "/v1/responses": (*TEXT, MESSAGES, "system", "max_tokens", "temperature"),
    "/v1/completions": (*TEXT, "max_tokens", "temperature"),
    "/v1/embeddings": TEXT,
    "/v1/score": PAIRS["/v1/score"],
    "/v1/rerank": (*PAIRS["/v1/rerank"], "top_n"),
}
ANYWHERE = ("custom_id", "model")


class CsvError(ValueError):
    """The file cannot be read as a table. The message says where, why, and what to change."""


@dataclass(frozen=True)
class CsvRow:
    """`number` counts rows, and the header is 1. `fields` is None when `why` says what is wrong with the row."""

    number: int
    raw: bytes
    fields: list[str] | None
    why: str = ""


class _CsvLines:
    """Decoded lines, and the bytes of the lines of the row that is being read."""

    def __init__(self, file: IO[bytes], row_bytes: int) -> None:
        self.file, self.row_bytes = file, row_bytes
        self.number, self.raw, self.size = 0, [b""], 0

    def __iter__(self) -> Iterator[str]:
        while line := self.file.readline(self.row_bytes + 1):
            self.number += 1
            self.size += len(line)
            if self.size > self.row_bytes:
                begun = self.number - len(self.raw) + 1
                raise CsvError(
                    f"The row that begins on line {begun} has more than {self.row_bytes // 2**20} MB, which is the "
                    'limit of one request. Is a double quote (") opened there that is never closed?'
                )
            if self.number == 1:
                line = line.removeprefix(BOM)
            self.raw.append(line)
            try:
                yield line.decode()
            except UnicodeDecodeError as error:
                raise CsvError(
                    f"Line {self.number} is not UTF-8 (its byte {error.start + 1}): save the file as “CSV UTF-8”."
                ) from None

    def taken(self) -> bytes:
        raw, self.raw, self.size = b"".join(self.raw), [b""], 0
        return raw


def rows(file: IO[bytes], row_bytes: int, delimiter: str = "") -> Iterator[CsvRow]:
    """Every row with its bytes, including the header. Raises CsvError for what is not text."""
    file.seek(0)
    lines = _CsvLines(file, row_bytes)
    source = iter(lines)
    delimiter = delimiter or delimiter_of(file, row_bytes)
    csv.field_size_limit(row_bytes)
    reader = csv.reader(source, delimiter=delimiter, strict=True)
    number = 0
    while True:
        number += 1
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield CsvRow(number, lines.taken(), None, f"The row cannot be read: {error}")
        else:
            yield CsvRow(number, lines.taken(), fields)


def delimiter_of(file: IO[bytes], row_bytes: int) -> str:
    """The delimiter with which the first line names the most known columns."""
    file.seek(0)
    first = file.readline(row_bytes).removeprefix(BOM).decode(errors="replace")
    file.seek(0)

    def known(delimiter: str) -> int:
        return sum(_name(one.strip().strip('"')) in COLUMNS for one in first.split(delimiter))

    best = max(DELIMITERS, key=known)
    return best if known(best) else max(DELIMITERS, key=first.count)


def _name(text: str) -> str:
    return text.strip().lower()


def header(file: IO[bytes], row_bytes: int) -> list[str]:
    """The names of the columns. Raises CsvError."""
    row = next(rows(file, row_bytes), None)
    if row is None or not any(row.fields or []):
        why = f"{row.why}. " if row and row.why else ""
        raise CsvError(f"{why}The first row must name the columns, e.g. custom_id,prompt.")
    return [_name(one) for one in row.fields or []]


def endpoint_of(names: list[str], usual: str, task: str) -> str:
    """The endpoint that these columns suit: the usual one, but where only another has them. task: of the model, if one
    is chosen."""
    for endpoint, pair in PAIRS.items():
        if set(pair) <= set(names):
            return endpoint
    return "/v1/embeddings" if "input" in names and not task else usual


def check_header(names: list[str], endpoint: str, default_model: str) -> None:
    """Raises CsvError, which names the wrong column and the known ones."""
    allowed = (*KNOWN[endpoint], *ANYWHERE)
    known = ", ".join(sorted(allowed))
    for name in names:
        if name not in allowed:
            shown = repr(name if len(name) <= 60 else name[:60] + "…") if name else "one without a name"
            where = f" at {endpoint}" if name in COLUMNS else ""
            raise CsvError(f"There is no column {shown}{where}. Known are: {known}. Rename or remove it.")
        if names.count(name) > 1:
            raise CsvError(f"Two columns are called {name!r}: keep one of them.")
    if "model" not in names and not default_model:
        raise CsvError("No column names the model: choose one in the form, or add a column 'model'.")
    if endpoint in PAIRS:
        if absent := [name for name in PAIRS[endpoint] if name not in names]:
            raise CsvError(f"No column is called {absent[0]!r}, which {endpoint} needs. Known are: {known}.")
        return
    contents = [name for name in names if name in (*TEXT, MESSAGES)]
    wanted = " or ".join(name for name in (*TEXT, MESSAGES) if name in allowed)
    if not contents:
        raise CsvError(f"No column holds what is asked: name one {wanted}. The columns are: {', '.join(names)[:300]}.")
    if len(contents) > 1:
        raise CsvError(f"The columns {' and '.join(contents)} both give the prompt: keep one of them.")


def convert(
    source: IO[bytes],
    target: IO[bytes],
    *,
    endpoint: str,
    default_model: str,
    row_bytes: int,
    most_bytes: int,
    most_rows: int,
    report: Report,
) -> None:
    """Write the requests; the report gets the wrong rows. Stops soon after `most_rows`. Raises CsvError."""
    names = header(source, row_bytes)
    check_header(names, endpoint, default_model)
    size = count = 0
    for row in rows(source, row_bytes):
        line = b"\n"
        if row.number > 1 and (row.fields is None or any(row.fields)):
            count += 1
            try:
                line = record(_request(row, names, endpoint, default_model))
            except _BadRow as bad:
                report.add("invalid_row", row.number, str(bad), bad.param)
        size += len(line)
        if size > most_bytes:
            raise CsvError(
                f"As requests, the rows have more than {most_bytes // 2**20} MB, which is the limit of one batch "
                f"(reached at row {row.number:,}). Split the file."
            )
        target.write(line)
        if count > most_rows + 1:  # _Lines reports that
            return


class _BadRow(Exception):
    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


def _request(row: CsvRow, names: list[str], endpoint: str, default_model: str) -> dict[str, Any]:
    if row.fields is None:
        raise _BadRow(f'{row.why}. A field with a quote or the delimiter in it stands in "double quotes".')
    if len(row.fields) > len(names):
        raise _BadRow(
            f"The row has {len(row.fields)} fields, and the header names {len(names)}. A text that contains the "
            'delimiter stands in "double quotes".'
        )
    given = dict(zip(names, row.fields, strict=False))
    body: dict[str, Any] = {"model": given.get("model", "").strip() or default_model}
    if not body["model"]:
        raise _BadRow("The row names no model: fill the column 'model', or choose a model in the form.", "model")
    body |= _content(given, endpoint)
    if text := given.get("max_tokens", "").strip():
        body["max_output_tokens" if endpoint == "/v1/responses" else "max_tokens"] = _whole(text, "max_tokens")
    if text := given.get("top_n", "").strip():
        body["top_n"] = _whole(text, "top_n")
    if text := given.get("temperature", "").strip():
        body["temperature"] = _temperature(text)
    custom_id = given.get("custom_id") or f"row-{row.number}"
    return {"custom_id": custom_id, "method": "POST", "url": endpoint, "body": body}


def _content(given: dict[str, str], endpoint: str) -> dict[str, Any]:
    if endpoint in PAIRS:
        return {name: _one_or_many(name, given.get(name, "")) for name in PAIRS[endpoint]}
    column = next(name for name in (*TEXT, MESSAGES) if name in given or name == MESSAGES)
    text, system = given.get(column, ""), given.get("system", "")
    if not text:
        raise _BadRow(f"The column '{column}' is empty.", column)
    if endpoint in ("/v1/completions", "/v1/embeddings"):
        return {"prompt" if endpoint == "/v1/completions" else "input": text}
    found: Any = _messages(text) if column == MESSAGES else text
    if endpoint == "/v1/responses":
        return {"input": found} | ({"instructions": system} if system else {})
    if column != MESSAGES:
        found = [{"role": "user", "content": text}]
    return {"messages": [{"role": "system", "content": system}, *found] if system else found}


def _one_or_many(column: str, text: str) -> str | list[str]:
    """A text, or several as a JSON array of strings. A text may begin with a bracket too."""
    if not text:
        raise _BadRow(f"The column '{column}' is empty.", column)
    try:
        found = orjson.loads(text) if text.lstrip().startswith("[") and column != "query" else None
    except orjson.JSONDecodeError:
        found = None
    if isinstance(found, list) and found and all(isinstance(one, str) for one in found):
        return found
    return text


def _messages(text: str) -> list[Any]:
    example = '[{"role": "user", "content": "…"}]'
    try:
        found = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise _BadRow(f"The column 'messages' is not JSON ({error}). It looks like {example}.", MESSAGES) from None
    if not isinstance(found, list) or not found or not all(isinstance(one, dict) and "role" in one for one in found):
        raise _BadRow(f"The column 'messages' must be a list of messages with a role, like {example}.", MESSAGES)
    try:
        orjson.dumps(found)
    except orjson.JSONEncodeError:
        raise _BadRow("The column 'messages' is nested too deeply.", MESSAGES) from None
    return found


def _whole(text: str, column: str) -> int:
    if text.isascii() and text.isdigit() and 0 < len(text) < 10 and int(text):
        return int(text)
    raise _BadRow(f"{column} is {text[:40]!r}: write a whole number from 1 on, or nothing.", column)


def _temperature(text: str) -> float:
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if not 0 <= found <= 2:
        raise _BadRow(
            f"temperature is {text[:40]!r}: write a number from 0 to 2, such as 0.7, or nothing.", "temperature"
        )
    return found


def is_one_row(text: bytes, row_bytes: int, delimiter: str) -> bool:
    """Whether a text is exactly one row, so that it does not swallow the rows after it. Raises CsvError."""
    found = list(rows(io.BytesIO(text), row_bytes, delimiter))
    return len(found) == 1 and found[0].fields is not None
