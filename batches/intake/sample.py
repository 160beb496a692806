"""Estimates the number of requests of an input file from its beginning. A failure here does not fail the batch."""

import logging
from dataclasses import dataclass
from typing import Any

import orjson
from django.conf import settings

from batches.files import blobs
from batches.files.kinds import BOM
from batches.models import File, Purpose
from vbs.openai.lengths import is_unlimited

log = logging.getLogger(__name__)

HEAD = 64 * 1024


@dataclass(frozen=True)
class Sample:
    """An estimate for an input file. model: of the first line. requests: about how many there are. unlimited: about how
    many of them set no limit to their answers. why: the reason when there is no estimate."""

    model: str = ""
    requests: int = 0
    why: str = ""
    unlimited: int = 0


def look(file: File | None, default_model: str = "", endpoint: str = "") -> Sample:
    """Estimate from the first HEAD bytes: as many requests as lines of that length fit into the file. For a small file
    the number is exact."""
    if file is None or file.purpose != Purpose.BATCH:
        return Sample(why="There is no such input file.")
    if file.bytes > settings.VBS_MAX_BATCH_MB * 2**20:
        return Sample(why=f"The input file has more than {settings.VBS_MAX_BATCH_MB} MB, the limit of one batch.")
    try:
        head = blobs.part(file.blob, 0, HEAD)
    except Exception as error:  # a storage fails in many ways, and the batch does not need the estimate
        log.warning("File %s: there is no estimate for a batch of it: %r", file.pk, error)
        return Sample(why=f"The input file could not be read yet ({type(error).__name__}).")
    whole = len(head) >= file.bytes
    end = len(head) if whole else head.rfind(b"\n") + 1
    lines = [line for line in head[:end].removeprefix(BOM).split(b"\n") if line.strip()]
    if not lines:
        return Sample(why="The input file is empty." if whole else "Its first request is longer than 64 KiB.")
    bodies = [body_of(line) for line in lines]
    model = _model(bodies[0], default_model)
    if not model:
        return Sample(why="The first line of the input file is not a request that names a model.")
    unlimited = sum(body is not None and is_unlimited(endpoint, body) for body in bodies)
    times = 1.0 if whole else file.bytes / end
    return Sample(model, round(len(lines) * times), unlimited=round(unlimited * times))


def body_of(line: bytes) -> dict[str, Any] | None:
    """The body of a request; None where the line is none."""
    try:
        request = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    body = request.get("body") if isinstance(request, dict) else None
    return body if isinstance(body, dict) else None


def _model(body: dict[str, Any] | None, default_model: str) -> str:
    name = "" if body is None else body.get("model") or default_model
    return name if isinstance(name, str) else ""
