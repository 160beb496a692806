"""Checks an input file before there is a batch, by the same rules, and repairs it.

An uploaded file (JSONL or CSV) is kept as it is, pending, and is not changed: a repair makes a new file. Every pass
streams; memory holds one line, and a small entry for each request.
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
from batches.files.kinds import BOM, HEAD, not_utf8, unreadable
from batches.intake import csv_file, ingest
from batches.intake.csv_file import CsvError
from batches.intake.records import one_line
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
    can use, when there is no error."""

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
        raise UnusableFile("The file is empty. Choose one with a request on each line, or a table of prompts.")
    most = settings.VBS_MAX_BATCH_MB
    if size > most * 2**20:
        raise FileTooLarge(f"The file has {size:,} bytes; at most {most} MB are allowed in one batch. Split it.")
    with path.open("rb") as file:
        head = file.read(HEAD)
    if kind := unreadable(head):
        raise UnusableFile(f"This is {kind}. Export it as JSONL (one request a line) or as CSV in UTF-8.")
    if head.removeprefix(BOM).lstrip().startswith(b"["):
        raise UnusableFile(
            "This is one JSON list. JSONL has one object a line, without commas between them: convert it."
        )
    found = store.format_of(head, filename)
    if found == FileFormat.OTHER:  # text: read as a table, it is said which columns it lacks
        found = FileFormat.CSV
    return _kept(project, path, store.label(filename), found, by)


def _kept(project: Project, path: Path, name: str, format: FileFormat, by: User) -> File:
    stem, dot, last = name.rpartition(".")
    named = (stem if stem and dot and len(last) <= 6 else name)[:480] + f".{format}"
    return store.keep(project, path, named, Purpose.BATCH, format, by)


def is_table(file: File) -> bool:
    return file.format == FileFormat.CSV


def guess_endpoint(file: File, model: str) -> str:
    """The endpoint that the file's first line names; else the one that suits the table's columns, or the model."""
    task = aliases.tasks().get(model, "")
    usual = endpoint_of(task)
    with blobs.open_blob(file.blob) as content:
        if is_table(file):
            try:
                names = csv_file.header(content, _line_bytes())
            except CsvError:
                return usual
            return csv_file.endpoint_of(names, usual, task)
        head = content.read(HEAD)
    return _endpoint_named(head) or usual


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


# Check


class BadLines(InvalidRequest):
    """A batch of this file would fail because of these lines. The body of the answer has the errors, as a batch has."""

    def __init__(self, errors: list[LineError]) -> None:
        first = errors[0]
        where = f" (line {first['line']})" if first["line"] else ""
        more = f" This is the first of {len(errors):,} errors." if len(errors) > 1 else ""
        super().__init__(f"{first['message']}{where}{more} Nothing was kept.", param="file", code=first["code"])
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


def check(file: File, endpoint: str, model: str, by: User, kind: type[Report] = Report) -> Checked:
    """Check the whole file. A table without errors is stored as JSONL too; that file is `ready`.

    Raises FileNotFoundError when it has been cleaned up.
    """
    in_rows, in_lines = kind(), kind()
    with ExitStack() as stack:
        path = stack.enter_context(blobs.local(file.blob))
        source = stack.enter_context(path.open("rb"))
        requests: IO[bytes] = source
        if table := is_table(file):
            requests = stack.enter_context(blobs.scratch())
            try:
                _convert(source, requests, endpoint, model, in_rows)
            except CsvError as error:
                return Checked(file, endpoint, fatal=str(error))
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
        )
        if bad:
            return dataclasses.replace(found, problems=() if found.fatal else _problems(path, table, errors[:SHOWN]))
        return dataclasses.replace(found, ready=_as_jsonl(file, requests, by) if table else file)


def _convert(source: IO[bytes], target: IO[bytes], endpoint: str, model: str, report: Report) -> None:
    csv_file.convert(
        source,
        target,
        endpoint=endpoint,
        default_model=model,
        row_bytes=_line_bytes(),
        most_bytes=settings.VBS_MAX_BATCH_MB * 2**20,
        most_rows=runtime.value("VBS_MAX_BATCH_REQUESTS"),
        report=report,
    )


def _as_jsonl(file: File, requests: IO[bytes], by: User) -> File:
    requests.flush()
    return _kept(file.project, Path(requests.name), file.filename, FileFormat.JSONL, by)


def _problems(path: Path, table: bool, errors: list[LineError]) -> tuple[Problem, ...]:
    typed = {one["line"] for one in errors[:MENDED]}
    texts: dict[int | None, tuple[str, str | None]] = {}
    wanted = {one["line"] for one in errors}
    for number, raw, is_whole in _pieces(path, table):
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


def _pieces(path: Path, table: bool) -> Iterator[tuple[int, bytes, bool]]:
    """Yields number and bytes of each line or row, and True; for a line that is too long its beginning, and False."""
    with path.open("rb") as file, path.open("rb") as again:
        if table:
            for row in csv_file.rows(file, _line_bytes()):
                yield row.number, row.raw.removeprefix(BOM) if row.number == 1 else row.raw, True
            return
        for number, offset, text in lines(file, _line_bytes()):
            if text is None:
                again.seek(offset)
                yield number, again.read(4 * CLIPPED), False
            else:
                yield number, text + b"\n", True


# Mend


def leave_out(checked: Checked, by: User) -> File:
    """A new file without the bad lines. Raises FileNotFoundError, OSError."""
    keeps = checked.good | {1} if is_table(checked.file) else checked.good
    return _rewritten(checked.file, lambda number, raw: raw if number in keeps else b"", by)


def replace(file: File, typed: Mapping[int, str], by: User) -> File:
    """A new file with these lines corrected; a line without text is left out. Raises UnusableFile for a text that is
    not one row, FileNotFoundError, OSError."""
    table, new = is_table(file), {}
    if table:
        with blobs.open_blob(file.blob) as content:
            delimiter = csv_file.delimiter_of(content, _line_bytes())
    for number, text in itertools.islice(typed.items(), MENDED):
        text = text.replace("\r\n", "\n").strip("\n" if table else None)
        if not table:
            text = text.replace("\n", " ")
        try:
            raw = text.encode()
            one = not table or not text or csv_file.is_one_row(raw, _line_bytes(), delimiter)
        except (CsvError, UnicodeEncodeError) as error:
            raise UnusableFile(f"Row {number}: {error}") from None
        if not one:
            raise UnusableFile(f"Row {number} is not one row as it is typed: look at its double quotes.")
        new[number] = raw + b"\n" if raw else b""
    return _rewritten(file, lambda number, raw: new.get(number, raw), by)


def _rewritten(file: File, change: Callable[[int, bytes], bytes], by: User) -> File:
    with blobs.scratch() as target:
        with blobs.local(file.blob) as path:
            whole_lines, table = True, is_table(file)
            for number, raw, whole in _pieces(path, table):
                changed = change(number, raw)
                if changed and not whole and changed is raw:
                    whole_lines = False
                    break
                if changed and not table:
                    changed = one_line(changed.rstrip(b"\r\n"))
                target.write(changed if not changed or changed.endswith(b"\n") else changed + b"\n")
        if not whole_lines:
            limit = settings.VBS_MAX_LINE_MB
            raise UnusableFile(
                f"Line {number} is longer than {limit} MB: leave the bad lines out, or shorten it first."
            )
        target.flush()
        size = target.tell()
        if size == 0:
            raise UnusableFile("Nothing would be left of the file: choose another.")
        if size > settings.VBS_MAX_BATCH_MB * 2**20:
            raise UnusableFile(f"It would have {size:,} bytes; at most {settings.VBS_MAX_BATCH_MB} MB are allowed.")
        return _kept(file.project, Path(target.name), file.filename, FileFormat(file.format), by)
