"""`manage.py make_batch`: writes the input file of a batch, from rows and a template, or from synthetic prompts."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Protocol

import orjson
from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from batches.cli import synthetic
from batches.intake.repair import limits
from batches.intake.tables.cells import TableError
from batches.intake.tables.reading import REQUESTS, format_of, guess
from batches.intake.tables.requests import CHAT, EMBEDDINGS, QUESTIONS, SYSTEMS, BadRow, Making, line_of
from batches.intake.tables.rows import NO_ROWS, Row, headings, rows
from batches.intake.validate import MAX_CUSTOM_ID, REQUIRED
from vbs.cli.terminal import JsonLines, reader_may_leave
from vbs.cli.whole_file import NotAFile, whole_file
from vbs.configuration import runtime
from vbs.logs import one_line

SYNTHETIC_DOCUMENTS = 4  # of each synthetic score
STANDARD_OUTPUT = "-"


class TooMuch(Exception):
    """There are more requests than one batch may have."""


class Sink(Protocol):
    def write(self, data: bytes, /) -> int: ...


class Command(BaseCommand):
    help = "Write a batch file: one request for each row of a table, or synthetic requests."
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--out", required=True, metavar="FILE", help="- is standard output")
        source = parser.add_mutually_exclusive_group(required=True)
        source.add_argument("--from", dest="table", type=Path, metavar="TABLE", help="CSV, TSV, XLSX, or JSONL of rows")
        source.add_argument("--count", type=int, metavar="N", help="N synthetic prompts of varying lengths")
        parser.add_argument(
            "--prompt",
            help="the prompt template: {text} stands for the column text, {{ and }} for braces "
            "(default: the column prompt)",
        )
        parser.add_argument(
            "--document",
            action="append",
            default=[],
            metavar="TEMPLATE",
            help=f"for {' and '.join(QUESTIONS)}: a text that the prompt is compared with; may be repeated",
        )
        parser.add_argument("--system", help="the system prompt, which may name columns too")
        parser.add_argument(
            "--id-column", metavar="COL", help="the column with each row's custom_id (default: row-2, row-3 …)"
        )
        parser.add_argument(
            "--seed", type=int, default=0, metavar="N", help="another seed gives other synthetic prompts (default: 0)"
        )
        parser.add_argument(
            "--shared-prefix",
            type=int,
            default=0,
            metavar="N",
            help="all synthetic prompts begin with the same N characters",
        )
        parser.add_argument("--model", help="the model; without it, give 'batch submit' a --model")
        parser.add_argument("--endpoint", choices=list(REQUIRED), default=CHAT, help=f"default: {CHAT}")
        parser.add_argument("--max-tokens", type=int, metavar="N", help="the longest answer, in tokens")
        parser.add_argument("--temperature", type=float, metavar="N", help="from 0 to 2")
        parser.add_argument(
            "--split", action="store_true", help="write FILE-001 and so on, each with at most one batch"
        )

    def handle(self, **options: Any) -> None:
        given = SimpleNamespace(**options)
        for wrong, why in complaints(given):
            if wrong:
                raise CommandError(one_line(why))
        try:
            count = self._write(given)
        except (TableError, TooMuch, NotAFile, OSError) as error:
            raise CommandError(one_line(str(error))) from error
        self.stderr.write(f"{count:,} requests" + ("" if given.model else "; they name no model"), style_func=str)

    def _write(self, given: SimpleNamespace) -> int:
        if given.out == STANDARD_OUTPUT:
            with reader_may_leave():
                return distribute(requests(given), lambda: JsonLines(self.stdout), split=False)
        with files(Path(given.out), given.split) as next_file:
            return distribute(requests(given), next_file, given.split)


def complaints(given: SimpleNamespace) -> Iterator[tuple[bool, str]]:
    """Options that do not go together or are out of range."""
    if given.count is None:
        yield given.shared_prefix != 0, "--shared-prefix is for synthetic prompts; leave it out with --from."
    else:
        yield given.prompt is not None, "--prompt is for rows; leave it out with --count."
        yield given.id_column is not None, "--id-column is for rows; leave it out with --count."
        yield given.count < 1, f"--count is {given.count}; it must be at least 1."
        yield (
            not 0 <= given.shared_prefix <= 10**6,
            f"--shared-prefix is {given.shared_prefix}; it must be from 0 to 1,000,000.",
        )
        too_many = given.count > runtime.value("VBS_MAX_BATCH_REQUESTS") and not given.split
        yield too_many, f"--count is {given.count:,}: {_most_requests()}"
        yield bool(given.document), "--document is for rows; leave it out with --count."
    scores = given.endpoint in QUESTIONS
    yield bool(given.document) and not scores, f"--document does not go with {given.endpoint}."
    tokens, heat = given.max_tokens, given.temperature
    yield tokens is not None and tokens < 1, f"--max-tokens is {tokens}; it must be at least 1."
    yield not (heat is None or 0 <= heat <= 2), f"--temperature is {heat}; it must be from 0 to 2."
    yield given.model == "", "--model is empty; leave it out, or name one."
    yield given.system is not None and given.endpoint not in SYSTEMS, f"--system does not go with {given.endpoint}."
    sampled = tokens is not None or heat is not None
    reads = given.endpoint in (EMBEDDINGS, *QUESTIONS)
    yield reads and sampled, f"--max-tokens and --temperature do not go with {given.endpoint}."
    yield given.split and given.out == STANDARD_OUTPUT, "Standard output cannot be split: give --out a file."
    for name, text in (("--model", given.model), ("--id-column", given.id_column)):
        yield text is not None and not _is_unicode(text), f"{name} is {text!r}, which is not text in UTF-8."


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= one <= "\udfff" for one in text)


def _most_requests() -> str:
    most = runtime.value("VBS_MAX_BATCH_REQUESTS")
    return f"a batch has at most {most:,} requests (VBS_MAX_BATCH_REQUESTS); use --split."


# Requests


def requests(given: SimpleNamespace) -> Iterator[tuple[int, bytes]]:
    """Each request as a line of JSON, with the number of its row. Raises TableError, OSError."""
    parameters = {"max_tokens": given.max_tokens, "temperature": given.temperature}
    making = Making(
        given.endpoint,
        model=given.model or "",
        template=given.prompt or "",
        system=given.system or "",
        id_column=given.id_column or "",
        parameters={name: value for name, value in parameters.items() if value is not None},
        documents=tuple(given.document),
        needs_model=False,
    )
    return _from_table(given.table, making) if given.table else _synthetic(given, making)


def _synthetic(given: SimpleNamespace, making: Making) -> Iterator[tuple[int, bytes]]:
    making = replace(making, template="{prompt}", id_column="id")
    documents = synthetic.texts(given.seed)
    for number, text in enumerate(synthetic.prompts(given.count, given.seed, given.shared_prefix), 1):
        columns = {"id": f"request-{number}", "prompt": text}
        if given.endpoint in QUESTIONS:
            columns["documents"] = orjson.dumps(list(islice(documents, SYNTHETIC_DOCUMENTS))).decode()
        try:
            yield number, line_of(making.request_of(Row(number, columns)))
        except BadRow as error:
            raise TableError(str(error)) from None


def _from_table(path: Path, making: Making) -> Iterator[tuple[int, bytes]]:
    """Memory does not grow with the rows, except for a small entry per id."""
    most, seen = limits(), dict[bytes, int]()
    is_empty = True
    with path.open("rb") as file:
        if format_of(file, path.name) == REQUESTS:
            raise TableError(f"{path} is not a table: its first line is already a request, or not a JSON object.")
        reading = guess(file, path.name, most)
        names = headings(file, reading, most)
        making.check(names)
        has_ids = bool(making.id_column) or (not making.template and "custom_id" in map(str.lower, names))
        for row in rows(file, reading, most):
            if row.is_blank:
                continue
            try:
                request = making.request_of(row)
                line = line_of(request)
            except BadRow as error:
                raise TableError(f"Row {row.number} of {path}: {error}") from None
            if has_ids:
                _check_id(row.number, request["custom_id"], seen)
            is_empty = False
            yield row.number, line
    if is_empty:
        raise TableError(f"{path}: {NO_ROWS}")


def _check_id(number: int, custom_id: str, seen: dict[bytes, int]) -> None:
    if not 0 < len(custom_id) <= MAX_CUSTOM_ID or "\0" in custom_id:
        raise TableError(
            f"Row {number}: {custom_id[:60]!r} cannot be an id; it must have 1 to {MAX_CUSTOM_ID} characters, "
            "and none of them NUL."
        )
    key = hashlib.blake2b(custom_id.encode(), digest_size=16).digest()
    if earlier := seen.get(key):
        raise TableError(f"Rows {earlier} and {number} have the same id {custom_id[:60]!r}.")
    seen[key] = number


# Files


@contextmanager
def files(path: Path, split: bool) -> Iterator[Callable[[], Sink]]:
    """Opens the file, or one numbered file after the other. At the end all of them are there, or none."""
    with ExitStack() as opened:
        made = 0

        def next_file() -> Sink:
            nonlocal made
            made += 1
            return opened.enter_context(whole_file(_numbered(path, made) if split else path))

        yield next_file
        if split and (old := _numbered(path, made + 1)).exists():
            raise NotAFile(f"{old} is left from an earlier run, and would seem to belong to this one: remove it first.")


def _numbered(path: Path, number: int) -> Path:
    return path.with_name(f"{path.stem}-{number:03}{path.suffix}")


def distribute(lines: Iterator[tuple[int, bytes]], next_file: Callable[[], Sink], split: bool) -> int:
    """Write all lines, as many to a file as a batch may have. Returns how many there were. Raises TooMuch."""
    most_bytes = min(settings.VBS_MAX_BATCH_MB, settings.VBS_MAX_FILE_MB) * 2**20
    line_bytes = min(settings.VBS_MAX_LINE_MB * 2**20, most_bytes)
    most_requests = runtime.value("VBS_MAX_BATCH_REQUESTS")
    file = next_file()
    total = count = size = 0
    for number, line in lines:
        if len(line) - 1 > line_bytes:
            raise TooMuch(f"The request of row {number} has {len(line):,} bytes; at most {line_bytes:,} are allowed.")
        full = count == most_requests
        if full or size + len(line) > most_bytes:
            if not split:
                largest = f"a batch has at most {most_bytes:,} bytes (VBS_MAX_BATCH_MB); use --split."
                raise TooMuch(f"Row {number} is too much: {_most_requests() if full else largest}")
            file = next_file()
            count = size = 0
        file.write(line)
        total, count, size = total + 1, count + 1, size + len(line)
    return total
