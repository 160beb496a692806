"""Checks an input file before there is a batch, by the same rules, and repairs it.

An uploaded file (requests in JSONL, or a table) is kept as it is, pending, and is not changed: a repair makes a new
file. Every pass streams; memory holds one line, and a small entry for each request.
"""

import dataclasses
import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import orjson
from django.conf import settings
from django.contrib.auth.models import User

from batches.files import blobs, store
from batches.files.kinds import BOM, HEAD, not_utf8
from batches.intake import ingest
from batches.intake.records import one_line
from batches.intake.tables.cells import Limits, TableError
from batches.intake.tables.reading import ROWS, Reading, format_of, guess
from batches.intake.tables.requests import Making, endpoint_by_columns, make
from batches.intake.tables.rows import NO_ROWS, headings, rows
from batches.intake.validate import REQUIRED, LineError, Report, lines, read
from batches.models import File, FileFormat, Purpose
from models_registry.catalog import aliases
from models_registry.models import Task
from vbs.accounts.models import Project
from vbs.configuration import runtime
from vbs.openai.errors import InvalidRequest

SHOWN, CLIPPED = 100, 300  # bad lines that are shown, and characters of each
MENDED, MEND_CHARACTERS = 20, 20_000  # bad lines that can be corrected in the form, and characters of each
FATAL = ("too_many_requests", "empty_file")
REMEDIES = {
    "invalid_json_line": "Write one JSON object on the line, in UTF-8; look at its quotes, commas and brackets.",
    "missing_required_parameter": "A line needs custom_id, method, url and body.",
    "invalid_custom_id": "Give the request a name that is found again in the results.",
    "duplicate_custom_id": "Give each request a custom_id of its own, or leave one of the two out.",
    "invalid_method": 'Write "method": "POST".',
    "invalid_url": "Choose the endpoint that the lines name, or write this one into the line.",
    "model_not_found": "Write the name of a model that is ready here: the form has a list of them.",
    "streaming_unsupported": "Remove “stream” from the body.",
    "unsupported_parameter": "Write what the message says instead, or remove it.",
    "line_too_large": "Shorten the request, or leave the line out.",
    "too_many_requests": "Split the file into several batches.",
    "invalid_request": "Correct the body of the request.",
    "invalid_row": "Correct the row.",
    "empty_file": "Choose a file with requests.",
}


class UnusableFile(ValueError):
    """The file cannot be an input file. The message says why, and what to do."""


class FileTooLarge(UnusableFile):
    """The file has more bytes than an input file may have."""


@dataclass(frozen=True)
class Problem:
    """A bad line. text: its beginning. whole: all of it, when it can be corrected in the form."""

    line: int | None
    code: str
    message: str
    remedy: str
    text: str = ""
    whole: str | None = None


@dataclass(frozen=True)
class Checked:
    """The result of a check. fatal: an error of the whole file, before any line counts. ready: the file that a batch
    can use, when there is no error. reading: how the file was read, if it is a table."""

    file: File
    endpoint: str
    requests: int = 0
    models: tuple[tuple[str, int], ...] = ()
    bad: int = 0
    errors: Sequence[LineError] = ()
    problems: tuple[Problem, ...] = ()
    good: frozenset[int] = frozenset()
    fatal: str = ""
    ready: File | None = None
    reading: Reading | None = None

    @property
    def more(self) -> int:
        return max(0, self.bad - len(self.problems))

    @property
    def mendable(self) -> list[Problem]:
        return [one for one in self.problems[:MENDED] if one.whole is not None]


# Take in


def keep(project: Project, path: Path, filename: str, by: User) -> File:
    """Store an uploaded file, which only the person who sent it may use for now. Raises UnusableFile, OSError."""
    size = path.stat().st_size
    if size == 0:
        raise UnusableFile("The file is empty. Choose a table with headings and rows, or a file with requests.")
    most = settings.VBS_MAX_BATCH_MB
    if size > most * 2**20:
        raise FileTooLarge(f"The file has {size:,} bytes; at most {most} MB are allowed in one batch. Split it.")
    try:
        with path.open("rb") as file:
            found = FileFormat(format_of(file, filename))
    except TableError as error:
        raise UnusableFile(str(error)) from None
    return _kept(project, path, store.label(filename), found, by)


def _kept(project: Project, path: Path, name: str, format: FileFormat, by: User | None) -> File:
    return store.keep(project, path, named(name, format), Purpose.BATCH, format, by)


def named(name: str, format: FileFormat) -> str:
    """The name of a file of this format that is made of one with that name."""
    stem, dot, last = name.rpartition(".")
    ending = FileFormat.JSONL if format == FileFormat.ROWS else format
    return (stem if stem and dot and len(last) <= 6 else name)[:480] + f".{ending}"


def is_table(file: File) -> bool:
    return file.format in (FileFormat.CSV, FileFormat.XLSX, FileFormat.ROWS)


def reading_of(file: File) -> Reading:
    """How the table is best read. Raises TableError, FileNotFoundError."""
    with blobs.local(file.blob) as path, path.open("rb") as content:
        return guess(content, file.filename, limits())


def guess_endpoint(file: File, model: str, reading: Reading | None = None, template: str = "") -> str:
    """The endpoint that the file's first line names; else the one that suits the table's columns, or the model."""
    if is_table(file):
        with blobs.local(file.blob) as path, path.open("rb") as content:
            try:
                reading = reading or guess(content, file.filename, limits())
                names = headings(content, reading, limits())
            except TableError:  # the check says what is wrong
                names = []
        return endpoint_of_table(names, model, template)
    with blobs.open_blob(file.blob) as content:
        head = content.read(HEAD)
    return _endpoint_named(head) or endpoint_of(aliases.tasks().get(model, ""))


def endpoint_of_table(names: Sequence[str], model: str, template: str) -> str:
    """The endpoint for a table with these columns, of which a template may make the prompts."""
    task = aliases.tasks().get(model, "")
    usual = endpoint_of(task)
    return usual if template else endpoint_by_columns(names, usual, task)


def _endpoint_named(head: bytes) -> str:
    """The endpoint that the first line names; empty when it names none."""
    first = next((line for line in head.removeprefix(BOM).split(b"\n") if line.strip()), b"")
    try:
        found = orjson.loads(first)
    except orjson.JSONDecodeError:
        return ""
    url = found.get("url") if isinstance(found, dict) else None
    return url if isinstance(url, str) and url in REQUIRED else ""


def endpoint_of(task: str) -> str:
    named = {
        Task.EMBEDDING.value: "/v1/embeddings",
        Task.SCORE.value: "/v1/score",
        Task.COMPLETION.value: "/v1/completions",
    }
    return named.get(task, "/v1/chat/completions")


def _line_bytes() -> int:
    return settings.VBS_MAX_LINE_MB * 2**20


def limits() -> Limits:
    """What a table, and the requests made of it, may have at most."""
    return Limits(_line_bytes(), settings.VBS_MAX_BATCH_MB * 2**20, runtime.value("VBS_MAX_BATCH_REQUESTS"))


# Check


class BadLines(InvalidRequest):
    """A batch of this file would fail because of these lines. The body of the answer has the errors, as a batch has."""

    def __init__(self, errors: list[LineError], unit: str = "line") -> None:
        first = errors[0]
        where = f"{unit.capitalize()} {first['line']:,}: " if first["line"] else ""
        more = f" This is the first of {len(errors):,} errors." if len(errors) > 1 else ""
        super().__init__(f"{where}{first['message']}{more} Nothing was kept.", param="file", code=first["code"])
        self.errors = errors

    def body(self) -> dict[str, Any]:
        found = super().body()
        found["error"]["errors"] = {"object": "list", "data": self.errors}
        return found


def check_lines(path: Path) -> None:
    """Check the lines as a batch does, for the endpoint that the first line names. Raises BadLines."""
    size, most = path.stat().st_size, settings.VBS_MAX_BATCH_MB
    if size > most * 2**20:
        message = f"The file has {size:,} bytes; at most {most} MB are allowed in one batch."
        raise BadLines([{"code": "file_too_large", "line": None, "message": message, "param": "file"}])
    report = Report()
    with path.open("rb") as file:
        endpoint = _endpoint_named(file.read(HEAD)) or endpoint_of("")
        file.seek(0)
        for _ in read(file, ingest.rules_of(endpoint, ""), report):
            pass
    if report.count:
        raise BadLines(report.all())


def check(
    file: File,
    endpoint: str,
    model: str,
    by: User,
    kind: type[Report] = Report,
    *,
    making: Making | None = None,
    reading: Reading | None = None,
) -> Checked:
    """Check the whole file. A table without errors is stored as JSONL too; that file is `ready`.

    making: how the rows of a table become requests, but for endpoint and model. reading: how a table is read, if not
    as it is guessed. Raises FileNotFoundError when the file has been cleaned up.
    """
    in_rows, in_lines = kind(), kind()
    with ExitStack() as stack:
        path = stack.enter_context(blobs.local(file.blob))
        source = stack.enter_context(path.open("rb"))
        requests: IO[bytes] = source
        if is_table(file):
            requests = stack.enter_context(blobs.scratch())
            making = dataclasses.replace(making or Making(endpoint), endpoint=endpoint, model=model)
            try:
                reading = reading or guess(source, file.filename, limits())
                making.check(headings(source, reading, limits()))
                if not make(rows(source, reading, limits()), making, requests, in_rows, limits()):
                    return Checked(file, endpoint, fatal=NO_ROWS, reading=reading)
            except TableError as error:
                return Checked(file, endpoint, fatal=str(error), reading=reading)
        else:
            reading = None
        models: Counter[str] = Counter()
        good = set()
        requests.seek(0)
        for line in read(requests, ingest.rules_of(endpoint, model), in_lines):
            models[line.model] += 1
            good.add(line.number)
        if in_rows.count and not good and any(one["code"] == "empty_file" for one in in_lines.errors):
            in_lines = kind()  # no request is left because each row has a fault
        errors = sorted(in_rows.errors + in_lines.errors, key=lambda one: one["line"] or 0)
        bad = in_rows.count + in_lines.count
        found = Checked(
            file,
            endpoint,
            requests=len(good) + bad,
            models=tuple(models.most_common(10)),
            bad=bad,
            errors=errors,
            good=frozenset(good),
            fatal=next((one["message"] for one in errors if one["code"] in FATAL), ""),
            reading=reading,
        )
        if bad:
            return dataclasses.replace(found, problems=() if found.fatal else _problems(path, reading, errors[:SHOWN]))
        return dataclasses.replace(found, ready=_as_jsonl(file, requests, by) if reading else file)


def _as_jsonl(file: File, requests: IO[bytes], by: User) -> File:
    requests.flush()
    return _kept(file.project, Path(requests.name), file.filename, FileFormat.JSONL, by)


def _problems(path: Path, reading: Reading | None, errors: list[LineError]) -> tuple[Problem, ...]:
    typed = {one["line"] for one in errors[:MENDED]}
    texts: dict[int | None, tuple[str, str | None]] = {}
    wanted = {one["line"] for one in errors}
    for number, raw, is_whole in _pieces(path, reading):
        if number in wanted:
            text = raw.decode(errors="replace").rstrip("\r\n")
            can_be_typed = is_whole and number in typed and len(text) <= MEND_CHARACTERS and not not_utf8(raw)
            whole = text if can_be_typed else None
            texts[number] = (text[:CLIPPED] + ("…" if len(text) > CLIPPED or not is_whole else ""), whole)
            if len(texts) == len(wanted):
                break
    return tuple(
        Problem(one["line"], one["code"], one["message"], remedy(one), *texts.get(one["line"], ("", None)))
        for one in errors
    )


def remedy(error: LineError) -> str:
    if error["code"] == "invalid_request" and error["param"] == "body.model":
        return "Choose a model that suits the endpoint: the form's is used for lines that name none."
    return REMEDIES.get(error["code"], "")


def _pieces(path: Path, reading: Reading | None) -> Iterator[tuple[int, bytes, bool]]:
    """Yields number and text of each line or row, and True; for a line that is too long its beginning, and False. The
    rows of a table are in UTF-8, whatever the file is in."""
    with path.open("rb") as file, path.open("rb") as again:
        if reading:
            for piece in reading.pieces(file, _line_bytes()):
                yield piece.number, piece.raw.encode(), True
            return
        for number, offset, text in lines(file, _line_bytes()):
            if text is None:
                again.seek(offset)
                yield number, again.read(4 * CLIPPED), False
            else:
                yield number, text + b"\n", True


# Mend


def leave_out(checked: Checked, by: User) -> File:
    """A new file without the bad lines; a table is read by `reading.rewritten()`. Raises FileNotFoundError, OSError."""
    reading = checked.reading
    headed = reading.header_row if reading and reading.format != ROWS else 0  # the headings, and titles above

    def kept(number: int, raw: bytes) -> bytes:
        return raw if number <= headed or number in checked.good else b""

    return _rewritten(checked.file, reading, kept, by)


def replace(file: File, typed: Mapping[int, str], by: User, reading: Reading | None = None) -> File:
    """A new file with these lines corrected; a line without text is left out. A table is read by
    `reading.rewritten()`. Raises UnusableFile for a text that is not one row, FileNotFoundError, OSError."""
    reading = (reading or reading_of(file)) if is_table(file) else None
    is_line = reading is None or reading.format == ROWS
    new = {}
    for number, text in itertools.islice(typed.items(), MENDED):
        text = text.replace("\r\n", "\n").strip(None if is_line else "\n")
        if is_line:
            text = text.replace("\n", " ")
        try:
            raw = text.encode()
            one = reading is None or not text or reading.rewritten().is_one_row(text, _line_bytes())
        except (TableError, UnicodeEncodeError) as error:
            raise UnusableFile(f"Row {number}: {error}") from None
        if not one:
            raise UnusableFile(f"Row {number} is not one row as it is typed: look at its double quotes.")
        new[number] = raw + b"\n" if raw else b""
    return _rewritten(file, reading, lambda number, raw: new.get(number, raw), by)


def _rewritten(file: File, reading: Reading | None, change: Callable[[int, bytes], bytes], by: User) -> File:
    most = settings.VBS_MAX_BATCH_MB * 2**20
    with blobs.scratch() as target:
        with blobs.local(file.blob) as path:
            whole_lines = True
            for number, raw, whole in _pieces(path, reading):
                changed = change(number, raw)
                if changed and not whole and changed is raw:
                    whole_lines = False
                    break
                if changed and not reading:
                    changed = one_line(changed.rstrip(b"\r\n"))
                target.write(changed if not changed or changed.endswith(b"\n") else changed + b"\n")
                if target.tell() > most:  # a workbook unpacks to more than it has
                    break
        if not whole_lines:
            limit = settings.VBS_MAX_LINE_MB
            raise UnusableFile(
                f"Line {number} is longer than {limit} MB: leave the bad lines out, or shorten it first."
            )
        target.flush()
        size = target.tell()
        if size == 0:
            raise UnusableFile("Nothing would be left of the file: choose another.")
        if size > most:
            raise UnusableFile(f"It would have more than {settings.VBS_MAX_BATCH_MB} MB, the limit of one batch.")
        format = reading.rewritten().format if reading else file.format
        return _kept(file.project, Path(target.name), file.filename, FileFormat(format), by)
