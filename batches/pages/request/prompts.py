"""The beginnings of prompts, which the list of requests shows. They are read from the lines of the input file."""

import logging
import re
from collections.abc import Iterable, Iterator, Sequence

import orjson

from batches.exchange import asked
from batches.files import blobs
from batches.models import Batch
from vbs.pages.plain import brief
from vbs.timed_cache import Kept

log = logging.getLogger(__name__)

KEPT_SECONDS = 600.0  # an input file never changes
MOST_LINE = 16_384  # bytes of a line that are read; of a longer one the prompt is looked for in its beginning
MOST_READ = 2**20  # bytes between the first line and the last one that are read at once
_SAID = re.compile(r'"role":\s*"user",\s*"content":\s*"((?:[^"\\]|\\.)*)|"(?:prompt|input)":\s*"((?:[^"\\]|\\.)*)')

Place = tuple[int, int, int]  # line, offset and length
_kept: Kept[dict[int, str]] = Kept()


def beginnings(batch: Batch, places: Sequence[Place]) -> dict[int, str]:
    """The beginning of each prompt, by its line; none once the input file is gone, or while it cannot be read."""
    file = batch.input_file
    if file is None or not file.is_kept or not places:
        return {}
    try:
        return _kept.get((file.pk, tuple(places)), KEPT_SECONDS, lambda: dict(_read(file.blob, places)))
    except Exception as error:  # storages raise many kinds of errors
        log.warning("The prompts of %s cannot be read: %r", batch.pk, error)
        return {}


def forget() -> None:
    _kept.forget()


def _read(blob: str, places: Sequence[Place]) -> Iterator[tuple[int, str]]:
    """In one piece where the lines are near each other: a distant storage takes long for each."""
    start = min(offset for _, offset, _ in places)
    span = max(offset + min(length, MOST_LINE) for _, offset, length in places) - start
    whole = blobs.part(blob, start, span) if span <= MOST_READ else None
    for line, offset, length in places:
        most = min(length, MOST_LINE)
        text = blobs.part(blob, offset, most) if whole is None else whole[offset - start : offset - start + most]
        yield line, _whole(text) if length <= MOST_LINE else _cut(text)


def _whole(text: bytes) -> str:
    try:
        body = orjson.loads(text)["body"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return brief(text.decode(errors="replace"))
    pieces = [piece for piece in asked(body).pieces if piece.text]
    said: Iterable[str] = [piece.text for piece in pieces if piece.who == "user"] or [piece.text for piece in pieces]
    return brief(list(said)[-1]) if said else ""


def _cut(text: bytes) -> str:
    """The prompt at the beginning of a long line."""
    found = _SAID.search(text.decode(errors="replace"))
    given = next(filter(None, found.groups()), "") if found else ""
    try:
        said = orjson.loads(f'"{given}"')
    except orjson.JSONDecodeError:  # it was cut within an escape
        said = given
    return brief(f"{said}…" if said else "A long line: its page shows it.")
