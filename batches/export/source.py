"""The input file of a batch, for the columns beside its answers: the row that a line carries, or else its prompt."""

import os
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager

import orjson
from django.utils import timezone

from batches.export import answers
from batches.files import blobs
from batches.files.kinds import BOM
from batches.models import Batch, BatchRequest
from vbs.openai import raw_json
from vbs.openai.errors import InvalidRequest, NotFound, Unavailable
from vbs.openai.raw_json import Members, NotAnObject
from vbs.run import space

PROMPT = "prompt"  # the column of a line that carries no row
MOST_COLUMNS = 2000
MOST_CHARACTERS = 2**20  # of all headings together
PAUSE_LINES = 1000  # after which the reading of the headings may be ended


def gone(batch: Batch) -> str:
    """Why the input file cannot be read any more; empty when it can."""
    file = batch.input_file
    if file is None or not file.is_kept:
        return "The input file was deleted."
    if file.expires_at and file.expires_at <= timezone.now():
        return "The input file has expired."
    return ""


class Source:
    """An open input file whose lines were validated."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def headings(self) -> Generator[bytes, None, list[str]]:
        """Returns the columns of all rows, in the order in which the file mentions them. Now and then it yields
        nothing, so that it can be ended. Raises InvalidRequest when there are too many."""
        found: dict[str, None] = {}
        characters = 0
        with os.fdopen(os.dup(self._descriptor), "rb") as file:
            file.seek(0)
            for number, line in enumerate(file, 1):
                if not (text := line.removeprefix(BOM).strip()):
                    continue
                for name in _row(text) or (PROMPT,):
                    if name not in found:
                        found[name] = None
                        characters += len(name)
                if len(found) > MOST_COLUMNS or characters > MOST_CHARACTERS:
                    raise InvalidRequest(
                        f"The rows of the input have too many different columns: at most {MOST_COLUMNS:,} are "
                        "written, and "
                        f"their headings may have {MOST_CHARACTERS:,} characters together. Leave out join=input.",
                        param="join",
                        code="too_many_columns",
                    )
                if number % PAUSE_LINES == 0:
                    yield b""
        return list(found)

    def cells(self, request: BatchRequest) -> Members:
        """The row of the request's line, or its prompt. Raises NotFound when the file is not the one that was taken
        in."""
        line = os.pread(self._descriptor, request.length, request.offset)
        return _row(line) or {PROMPT: raw_json.raw(answers.prompt(orjson.loads(line).get("body")))}


def _row(line: bytes) -> Members | None:
    """The row that the line carries. None when it has none, or an empty one. Raises NotFound."""
    try:
        given = raw_json.members(line).get("row")
    except NotAnObject:
        raise _lost("The input file has changed in the storage since it was taken in.") from None
    try:
        return raw_json.members(bytes(given)) or None if given is not None else None
    except NotAnObject:  # only an object is a row
        return None


def check(batch: Batch) -> None:
    """Raises NotFound when its columns cannot be had any more."""
    if why := gone(batch):
        raise _lost(why)


@contextmanager
def opened(batch: Batch) -> Iterator[Source]:
    """The batch's input file. Raises NotFound, and Unavailable where the storage cannot be reached."""
    check(batch)
    assert batch.input_file is not None
    with ExitStack() as files:
        try:
            descriptor = files.enter_context(blobs.opened(batch.input_file.blob))
        except blobs.BlobGone:
            raise _lost("The input file is not in the storage any more.") from None
        except blobs.troubles() as error:
            if space.is_full(error):
                raise
            raise Unavailable("The storage of the input file cannot be reached. Try again in a few seconds.") from error
        yield Source(descriptor)


def _lost(why: str) -> NotFound:
    return NotFound(f"{why} Leave out join=input.", param="join", code="input_file_unavailable")
