"""The beginnings of prompts, which the list of requests shows. They are read from the lines of the input file."""

import logging
import re
from collections.abc import Iterable, Iterator, Sequence

import orjson

from batches.exchange import asked
from batches.files import lines
from batches.files.lines import Place
from batches.models import Batch
from vbs.pages.plain import brief
from vbs.timed_cache import Kept

log = logging.getLogger(__name__)

KEPT_SECONDS = 600.0  # an input file never changes
MOST_LINE = 16_384  # bytes of a line that are read; of a longer one the prompt is looked for in its beginning
_SAID = re.compile(r'"role":\s*"user",\s*"content":\s*"((?:[^"\\]|\\.)*)|"(?:prompt|input)":\s*"((?:[^"\\]|\\.)*)')

_kept: Kept[dict[int, str]] = Kept()


def beginnings(batch: Batch, places: Sequence[Place]) -> dict[int, str]:
    """The beginning of each prompt, by its line; none once the input file is gone, or while it cannot be read."""
    file = batch.input_file
    if file is None or not file.is_kept or not places:
        return {}
    try:
        return _kept.get((file.pk, tuple(places)), KEPT_SECONDS, lambda: dict(_read(file.blob, places)))
    except Exception as error:  # storages raise many kinds of errors
        log.warning("Batch %s: its prompts cannot be read: %r", batch.pk, error)
        return {}


def forget() -> None:
    _kept.forget()


def _read(blob: str, places: Sequence[Place]) -> Iterator[tuple[int, str]]:
    lengths = {line: length for line, _, length in places}
    for line, text in lines.read(blob, places, MOST_LINE):
        yield line, _whole(text) if lengths[line] <= MOST_LINE else _cut(text)


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
