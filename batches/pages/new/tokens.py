"""How many input tokens a model takes for a text: from what it has answered, else by its tokenizer, else one for four
bytes.

Bytes of UTF-8 are counted, not characters: a token is about four of them in most languages, while it is four characters
of English and little more than one of Chinese.
"""

import logging
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import StatisticsError, linear_regression
from typing import Any

import orjson

from batches.files import blobs
from batches.intake.sample import HEAD, body_of
from batches.models import Batch, RequestState
from models_registry.engine.environment import minimal
from models_registry.engine.spec import EngineKind
from models_registry.models import Model
from vbs.accounts.models import Project
from vbs.places import BASE_DIR
from vbs.timed_cache import Kept

log = logging.getLogger(__name__)

USUAL_BYTES = 4
KEPT_SECONDS = 10
COUNTED_SECONDS = 600
NEWEST, LOOKED_AT = 100, 3  # batches of a project among which those of the model are looked for; that are read
LINES, ENOUGH = 500, 8  # lines of a batch that are read; requests that tell what each has beside its texts
SAMPLE = 16 * 1024  # bytes that a tokenizer counts
COUNT_SECONDS, WAIT_SECONDS = 10.0, 0.5  # for that; for which a page waits for it
COMMAND = [sys.executable, "-m", "batches.pages.new.count_tokens"]
_NO_TEXTS = (
    "model",
    "role",
    "type",
    "url",
    "data",
    "file_data",
)  # members of a body whose texts are no text for a model

_answered: Kept["Rate | None"] = Kept()
_counted: Kept["Future[Rate | None]"] = Kept()
_counting = ThreadPoolExecutor(1, "count-tokens")


@dataclass(frozen=True)
class Rate:
    """per_byte: input tokens for a byte of text. beside: those of each request beside its texts, as a chat template
    has. source: a sentence about where the figures come from."""

    per_byte: float
    source: str
    beside: float = 0.0

    def tokens(self, texts: Sequence[str]) -> float:
        return self.per_byte * size(texts) + self.beside


def texts_of(value: Any) -> Iterator[str]:
    """The texts of a body that a model reads."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for name, inner in value.items():
            if name not in _NO_TEXTS:
                yield from texts_of(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from texts_of(inner)


def size(texts: Sequence[str]) -> int:
    return sum(len(text.encode(errors="replace")) for text in texts)


def rate(project: Project, model: Model | None, endpoint: str, texts: Sequence[str]) -> Rate:
    """texts: some of those that the model is to read."""
    name = model.name if model else ""
    until = f", until {name} has answered requests of this project" if model else ""
    usual = Rate(1 / USUAL_BYTES, f"Input tokens: taken as one for {USUAL_BYTES} bytes of text{until}.")
    if model is None:
        return usual
    key = (project.pk, model.pk, endpoint)
    if found := _answered.get(key, KEPT_SECONDS, lambda: _from_answers(project, name, endpoint)):
        return found
    return _from_tokenizer(model, texts) or usual


# From what was answered


def _from_answers(project: Project, name: str, endpoint: str) -> Rate | None:
    pairs = [pair for batch, index in _batches(project, name, endpoint) for pair in _pairs(batch, index)]
    read, tokens = [size(texts) for texts, _ in pairs], [count for _, count in pairs]
    if not sum(read):
        return None
    requests = f"{len(pairs):,} request{'' if len(pairs) == 1 else 's'}"
    source = f"Input tokens: estimated from {requests} that {name} has answered."
    if len(pairs) >= ENOUGH and max(read) >= 2 * min(read):
        try:
            per_byte, beside = linear_regression(read, tokens)
        except StatisticsError:
            per_byte = beside = 0.0
        if per_byte > 0 and beside >= 0:
            return Rate(per_byte, source, beside)
    return Rate(sum(tokens) / sum(read), source)


def _batches(project: Project, name: str, endpoint: str) -> Iterator[tuple[Batch, int]]:
    """The project's newest batches in which the model has answered, with its number there."""
    newest = Batch.objects.filter(project=project).select_related("input_file").order_by("-id")[:NEWEST]
    found = 0
    for batch in newest:
        names = batch.pinned_names()
        has_file = batch.input_file is not None and batch.input_file.is_kept and not batch.purged_at
        if batch.completed and has_file and batch.endpoint == endpoint and name in names:
            yield batch, names.index(name)
            found += 1
            if found == LOOKED_AT:
                return


def _pairs(batch: Batch, index: int) -> Iterator[tuple[list[str], int]]:
    """The texts of each of its first requests that the model has answered, and the input tokens that it counted."""
    assert batch.input_file is not None
    answered = batch.requests.filter(
        line__lte=LINES, model_index=index, state=RequestState.COMPLETED, input_tokens__gt=0, offset__lt=HEAD
    )
    try:
        head = blobs.part(batch.input_file.blob, 0, HEAD)
    except Exception as error:  # a storage fails in many ways, and an estimate can do without
        log.warning("Batch %s: input tokens are estimated without it: %r", batch.pk, error)
        return
    for offset, length, tokens in answered.order_by("line").values_list("offset", "length", "input_tokens"):
        body = body_of(head[offset : offset + length]) if offset + length <= len(head) else None
        if body is not None and tokens is not None:
            yield list(texts_of(body)), tokens


# By the tokenizer


def _from_tokenizer(model: Model, texts: Sequence[str]) -> Rate | None:
    """None where the model has none here, and while it still counts."""
    own = model.base or model
    path = Path(own.source, "tokenizer.json")
    if own.kind != EngineKind.VLLM or not own.source or not path.is_file() or not (sample := _sample(texts)):
        return None

    def begin() -> "Future[Rate | None]":
        return _counting.submit(_count, path, model.name, sample)

    try:
        return _counted.get((model.pk, path), COUNTED_SECONDS, begin).result(WAIT_SECONDS)
    except TimeoutError:
        return None


def _sample(texts: Sequence[str]) -> list[str]:
    found, left = [], SAMPLE
    for text in texts:
        if left <= 0:
            break
        found.append(text[:left])
        left -= size(found[-1:])
    return found


def _count(path: Path, name: str, sample: list[str]) -> Rate | None:
    """In a process of its own, for a tokenizer may be large, and it came with a model."""
    env = minimal(RAYON_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false")
    command = [*COMMAND, os.fspath(path)]
    try:
        done = subprocess.run(
            command, input=orjson.dumps(sample), capture_output=True, cwd=BASE_DIR, env=env, timeout=COUNT_SECONDS
        )
        tokens = int(done.stdout)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        log.warning("Tokenizer %s: it could not count: %r", path, error)
        return None
    source = f"Input tokens: counted in the first requests by the tokenizer of {name}, without its chat template."
    return Rate(tokens / size(sample), source) if tokens else None
