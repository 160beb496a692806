"""One request: its call, its answer, and the requests beside it. Reads at most MOST bytes of each."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import orjson

from batches.exchange import ExchangePiece, Side, answered, asked, pretty
from batches.export.source import gone
from batches.files import blobs
from batches.finish.outputs import NOT_RUN
from batches.models import Batch, BatchRequest, RequestState
from batches.pages.request.chosen import ALL, Chosen, TooSlow, limited, lines, searched
from vbs.live.pages import PageGone
from vbs.openai import raw_json
from vbs.openai.raw_json import Members, NotAnObject
from vbs.pages.plain import MOST as MOST_CHARACTERS
from vbs.pages.plain import Clip, clip
from vbs.pages.words import size

log = logging.getLogger(__name__)

MOST = 2**20  # bytes

Pair = tuple[int | None, int | None]


@dataclass(frozen=True)
class Shown:
    """The call or the answer. why: why it is not shown, or only a part of it. raw: the JSON, indented."""

    name: str
    side: Side
    clips: tuple[tuple[ExchangePiece, Clip], ...]
    raw: str
    why: str
    bytes: int
    there: bool


@dataclass(frozen=True)
class Neighbours:
    """The numbers of the lines beside it; None where there is none."""

    before: int | None = None
    after: int | None = None
    failed_before: int | None = None
    failed_after: int | None = None


def find(batch: Batch, line: int) -> BatchRequest:
    """The row, with the size of its answer in bytes as `size`. Of a large answer it has only the beginning. Raises
    PageGone."""
    rows = BatchRequest.objects.filter(batch=batch, line=line).defer("response").with_answer(MOST, MOST_CHARACTERS)
    if batch.purged_at or (row := rows.first()) is None:
        raise PageGone(f"{batch.pk}:{line}")
    return row


def neighbours(batch: Batch, line: int, chosen: Chosen = ALL) -> Neighbours:
    """Those beside it among the chosen ones. The next one of these, or the next that failed, may be far away, so the
    search for it is limited."""
    beside: Pair = (None, None)
    failed: Pair = (None, None)
    try:
        index = searched(chosen, batch)
        before, after = (lines(batch, chosen, index, line, backwards, 1) for backwards in (True, False))
        beside = _first(before), _first(after)
        if batch.failed:
            rows = BatchRequest.objects.filter(batch=batch, state__in=RequestState.in_error_file())
            found = rows.values_list("line", flat=True)
            with limited(1):
                failed = (
                    found.filter(line__lt=line).order_by("-line").first(),
                    found.filter(line__gt=line).order_by("line").first(),
                )
    except TooSlow:
        log.warning("Batch %s: the requests next to line %s were not found in time", batch.pk, line)
    return Neighbours(*beside, *failed)


def _first(lines: Sequence[int]) -> int | None:
    return lines[0] if lines else None


# What was asked


def prompt(batch: Batch, row: BatchRequest) -> Shown:
    if why := gone(batch):
        return _unread("prompt", why, 0)
    try:
        line = read(batch, row)
    except Exception as error:  # storages raise many kinds of errors
        log.warning("Batch %s: line %s cannot be read: %r", row.batch_id, row.line, error)
        return _unread("prompt", f"The input file cannot be read now ({type(error).__name__}).", row.length)
    if row.length > MOST:
        return _too_large("prompt", line.decode(errors="replace"), row.length)
    try:
        request = orjson.loads(line)
    except orjson.JSONDecodeError:
        request = line.decode(errors="replace")
    side = asked(request.get("body") if isinstance(request, dict) else request, _sent(line))
    return _shown("prompt", side, _indented(line, request), row.length)


class Unreadable(Exception):
    """The request cannot be read; the message says why."""


def body(shown: Shown) -> Members:
    """The members of the body of a request, as they were sent. shown: from `prompt`. Raises Unreadable."""
    if shown.why:
        too_large = f"It has {size(shown.bytes)}; at most {size(MOST)} are read."
        raise Unreadable(too_large if shown.there else shown.why)
    if (found := _sent(shown.raw.encode())) is None:
        raise Unreadable("Its line has no body that is a JSON object.")
    return found


def _sent(line: bytes) -> Members | None:
    try:
        return raw_json.request_of(line)[1]
    except NotAnObject:
        return None


def read(batch: Batch, row: BatchRequest) -> bytes:
    """The request's line of the input file, at most MOST bytes. Raises the storage's errors."""
    assert batch.input_file is not None
    return blobs.part(batch.input_file.blob, row.offset, min(row.length, MOST))


# What was answered


def answer(batch: Batch, row: BatchRequest) -> Shown:
    """row: from `find`."""
    text: str | None = vars(row)["read"]
    length: int = vars(row)["size"] or 0
    if text is None:
        return _unread("answer", _why_unanswered(batch, row), 0)
    if length > MOST:
        return _too_large("answer", text, length)
    try:
        body = orjson.loads(text)
    except orjson.JSONDecodeError:
        body = text
    return _shown("answer", answered(body), _indented(text.encode(), body), length)


def _why_unanswered(batch: Batch, row: BatchRequest) -> str:
    if row.state in NOT_RUN:
        return "It was not run."
    if row.state != RequestState.PENDING:
        return "The engine gave no answer."
    return "It was not run: the batch had ended before." if batch.is_terminal else "It was not answered yet."


def _indented(text: bytes, value: object) -> str:
    """The JSON with indentation; a text that is not JSON is unchanged."""
    try:
        return raw_json.indented(text)
    except NotAnObject:
        return pretty(value)


def _shown(name: str, side: Side, raw: str, length: int) -> Shown:
    return Shown(name, side, tuple((piece, clip(piece.text)) for piece in side.pieces), raw, "", length, True)


def _too_large(name: str, text: str, length: int) -> Shown:
    why = f"The {name} has {size(length)}; one larger than {size(MOST)} is shown as raw text. It begins:"
    return Shown(name, Side(), (), text[:MOST_CHARACTERS], why, length, True)


def _unread(name: str, why: str, length: int) -> Shown:
    return Shown(name, Side(), (), "", why, length, False)
