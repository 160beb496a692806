"""`manage.py make_batch`: writes the input file of a batch, from rows and a template, or from synthetic prompts."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple, Protocol

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from batches.cli import rows, synthetic
from batches.cli.rows import RowError
from batches.cli.template import Template, TemplateError, value
from batches.intake.records import record
from batches.intake.validate import MAX_CUSTOM_ID, REQUIRED
from vbs.cli.terminal import JsonLines, reader_may_leave
from vbs.cli.whole_file import NotAFile, whole_file
from vbs.configuration import runtime
from vbs.logs import one_line

CHAT, COMPLETIONS, EMBEDDINGS, RESPONSES, SCORE, RERANK = REQUIRED
SYNTHETIC_DOCUMENTS = 4  # of each synthetic score
STANDARD_OUTPUT = "-"


class TooMuch(Exception):
    """There are more requests than one batch may have."""


class Prompt(NamedTuple):
    """line: in the table, or the number of a synthetic prompt."""

    line: int
    custom_id: str
    text: str
    system: str
    documents: list[str]


class Sink(Protocol):
    def write(self, data: bytes, /) -> int: ...


class Command(BaseCommand):
    help = "Write the input file of a batch: one request for each row of a table, or synthetic ones."
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--out", required=True, metavar="FILE", help="- is standard output")
        source = parser.add_mutually_exclusive_group(required=True)
        source.add_argument("--from", dest="table", type=Path, metavar="ROWS", help="a .csv or .jsonl file")
        source.add_argument("--count", type=int, metavar="N", help="N synthetic prompts of varying lengths")
        parser.add_argument("--prompt", help="'Summarise: {text}' puts in the column text; {{ and }} are braces")
        parser.add_argument(
            "--document",
            action="append",
            default=[],
            metavar="TEMPLATE",
            help=f"for {SCORE} and {RERANK}: a text that the prompt is compared with; may be given several times",
        )
        parser.add_argument("--system", help="the system prompt; it may name columns, too")
        parser.add_argument(
            "--id-column", metavar="COL", help="the column with each row's custom_id (default: request-1, request-2 …)"
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
        parser.add_argument("--model", help="the model; without it, 'batch submit --model' has to name one")
        parser.add_argument("--endpoint", choices=list(REQUIRED), default=CHAT, help=f"default: {CHAT}")
        parser.add_argument("--max-tokens", type=int, metavar="N")
        parser.add_argument("--temperature", type=float, metavar="N")
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
        except (RowError, TemplateError, TooMuch, NotAFile, OSError) as error:
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
        yield given.prompt is None, "--from needs a --prompt."
        yield given.shared_prefix != 0, "--shared-prefix is for synthetic prompts; leave it out with --from."
    else:
        yield given.prompt is not None, "--prompt is for rows; leave it out with --count."
        yield given.id_column is not None, "--id-column is for rows; leave it out with --count."
        yield given.count < 1, f"--count is {given.count}; it must be at least 1."
        yield not 0 <= given.shared_prefix <= 10**6, f"--shared-prefix is {given.shared_prefix}; 0 to 1,000,000 go."
        too_many = given.count > runtime.value("VBS_MAX_BATCH_REQUESTS") and not given.split
        yield too_many, f"--count is {given.count:,}: {_most_requests()}"
        yield bool(given.document), "--document is for rows; leave it out with --count."
    scores = given.endpoint in (SCORE, RERANK)
    yield bool(given.document) and not scores, f"--document does not go with {given.endpoint}."
    without = given.count is None and scores and not given.document
    yield without, f"{given.endpoint} needs a --document to compare the prompt with."
    tokens, heat = given.max_tokens, given.temperature
    yield tokens is not None and tokens < 1, f"--max-tokens is {tokens}; it must be at least 1."
    yield not (heat is None or 0 <= heat <= 2), f"--temperature is {heat}; it must be from 0 to 2."
    yield given.model == "", "--model is empty; leave it out, or name one."
    system_fits = given.endpoint in (CHAT, RESPONSES)
    yield given.system is not None and not system_fits, f"--system does not go with {given.endpoint}."
    sampled = tokens is not None or heat is not None
    reads = given.endpoint in (EMBEDDINGS, SCORE, RERANK)
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
    """Each request as a line of JSON, with the number of the row's line. Raises RowError, TemplateError, OSError."""
    tokens = "max_output_tokens" if given.endpoint == RESPONSES else "max_tokens"
    options = {"model": given.model, tokens: given.max_tokens, "temperature": given.temperature}
    options = {name: option for name, option in options.items() if option is not None}
    body = BODIES[given.endpoint]
    for prompt in _synthetic(given) if given.table is None else _from_rows(given):
        request = {
            "custom_id": prompt.custom_id,
            "method": "POST",
            "url": given.endpoint,
            "body": options | body(prompt),
        }
        yield prompt.line, record(request)


def _chat(prompt: Prompt) -> dict[str, Any]:
    system = [{"role": "system", "content": prompt.system}] if prompt.system else []
    return {"messages": [*system, {"role": "user", "content": prompt.text}]}


def _response(prompt: Prompt) -> dict[str, Any]:
    return ({"instructions": prompt.system} if prompt.system else {}) | {"input": prompt.text}


BODIES: dict[str, Callable[[Prompt], dict[str, Any]]] = {
    CHAT: _chat,
    COMPLETIONS: lambda prompt: {"prompt": prompt.text},
    EMBEDDINGS: lambda prompt: {"input": prompt.text},
    RESPONSES: _response,
    SCORE: lambda prompt: {"queries": prompt.text, "documents": prompt.documents},
    RERANK: lambda prompt: {"query": prompt.text, "documents": prompt.documents},
}


def _synthetic(given: SimpleNamespace) -> Iterator[Prompt]:
    system = Template(given.system or "").fill({})
    documents = synthetic.texts(given.seed)
    for number, text in enumerate(synthetic.prompts(given.count, given.seed, given.shared_prefix), 1):
        beside = list(islice(documents, SYNTHETIC_DOCUMENTS)) if given.endpoint in (SCORE, RERANK) else []
        yield Prompt(number, f"request-{number}", text, system, beside)


def _from_rows(given: SimpleNamespace) -> Iterator[Prompt]:
    """Memory does not grow with the rows, except for a small entry per id."""
    prompt, system = Template(given.prompt), Template(given.system or "")
    documents = [Template(text) for text in given.document]
    seen: dict[bytes, int] = {}
    number = 0
    for number, row in enumerate(rows.read(given.table, settings.VBS_MAX_LINE_MB * 2**20), 1):
        try:
            custom_id = f"request-{number}" if given.id_column is None else value(row.columns, given.id_column)
            beside = [document.fill(row.columns) for document in documents]
            made = Prompt(row.line, custom_id, prompt.fill(row.columns), system.fill(row.columns), beside)
        except TemplateError as error:
            raise TemplateError(f"Line {row.line} of {given.table}: {error}") from None
        if given.id_column is not None:
            _check_id(made, seen)
        yield made
    if not number:
        raise RowError(f"{given.table} has no rows.")


def _check_id(prompt: Prompt, seen: dict[bytes, int]) -> None:
    custom_id = prompt.custom_id
    if not 0 < len(custom_id) <= MAX_CUSTOM_ID or "\0" in custom_id:
        raise RowError(
            f"Line {prompt.line}: {custom_id[:60]!r} cannot be an id; it must have 1 to {MAX_CUSTOM_ID} characters, "
            "and none of them NUL."
        )
    key = hashlib.blake2b(custom_id.encode(), digest_size=16).digest()
    if earlier := seen.get(key):
        raise RowError(f"Lines {earlier} and {prompt.line} have the same id {custom_id[:60]!r}.")
    seen[key] = prompt.line


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
            raise NotAFile(f"{old} is there from another time, and would seem to belong to these: remove it first.")


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
            raise TooMuch(f"The request of line {number} has {len(line):,} bytes; at most {line_bytes:,} go.")
        full = count == most_requests
        if full or size + len(line) > most_bytes:
            if not split:
                largest = f"a batch has at most {most_bytes:,} bytes (VBS_MAX_BATCH_MB); use --split."
                raise TooMuch(f"Line {number} is too much: {_most_requests() if full else largest}")
            file = next_file()
            count = size = 0
        file.write(line)
        total, count, size = total + 1, count + 1, size + len(line)
    return total
