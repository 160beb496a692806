"""Where the requests that a search has found have its words: in the prompt, in the answer, or in both."""

import logging
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from batches.files import lines
from batches.files.lines import Place
from batches.models import Batch, RequestState
from batches.search import texts
from batches.search.words import Stretch, Term, around, spelled

log = logging.getLogger(__name__)

Stretches = tuple[Stretch, ...]


@dataclass(frozen=True)
class Marked:
    """The part of each with the first hit; empty where it has none."""

    prompt: Stretches = ()
    answer: Stretches = ()


def of(
    batch: Batch, places: Sequence[Place], rows: Iterable[dict[str, Any]], wanted: Sequence[Term], whole: int
) -> dict[int, Marked]:
    """By line. rows: of requests, with `size`, `read` and `said`. whole: bytes of an answer up to which `read` is all
    of it."""
    hits = spelled(wanted)
    prompts = _prompts(batch, places, hits)
    return {row["line"]: Marked(prompts.get(row["line"], ()), _answer(row, hits, whole)) for row in rows}


def _answer(row: dict[str, Any], hits: re.Pattern[str], whole: int) -> Stretches:
    said = texts.answer(row["read"], (row["size"] or 0) <= whole) if row["read"] else []
    if row["state"] == RequestState.FAILED and row["said"]:
        said.insert(0, row["said"])
    return _first(said, hits)


def _prompts(batch: Batch, places: Sequence[Place], hits: re.Pattern[str]) -> dict[int, Stretches]:
    """None once the input file is gone, or while it cannot be read."""
    file = batch.input_file
    if file is None or not file.is_kept:
        return {}
    lengths = {line: length for line, _, length in places}
    most = texts.BEGINNING
    try:
        return {
            line: _first(texts.prompt(text, lengths[line] <= most), hits)
            for line, text in lines.read(file.blob, places, most)
        }
    except Exception as error:  # storages raise many kinds of errors
        log.warning("The prompts of %s cannot be read: %r", batch.pk, error)
        return {}


def _first(said: Iterable[str], hits: re.Pattern[str]) -> Stretches:
    return next(filter(None, (around(text, hits) for text in said)), ())
