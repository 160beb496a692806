"""What the beginning of an input file tells of the whole, before its lines are counted. It never fails a batch."""

import logging
from dataclasses import dataclass

import orjson
from django.conf import settings

from batches import blobs
from batches.models import File, Purpose
from batches.validate import BOM

log = logging.getLogger(__name__)

HEAD = 64 * 1024


@dataclass(frozen=True)
class Sample:
    """model: of the first line. requests: about how many there are. why: what stands in the way of saying so."""

    model: str = ""
    requests: int = 0
    why: str = ""


def look(file: File | None, default_model: str = "") -> Sample:
    """From the first HEAD bytes: as many requests as such lines fit into the file; exactly so in a small file."""
    if file is None or file.purpose != Purpose.BATCH:
        return Sample(why="There is no such input file.")
    if file.bytes > settings.VBS_MAX_BATCH_MB * 2**20:
        return Sample(why=f"The input file has more than {settings.VBS_MAX_BATCH_MB} MB, the limit of one batch.")
    try:
        head = blobs.part(file.blob, 0, HEAD)
    except Exception as error:  # a storage fails in many ways, and the batch does not need this
        log.warning("No estimate for a batch of %s: %r", file.pk, error)
        return Sample(why=f"The input file could not be read yet ({type(error).__name__}).")
    whole = len(head) >= file.bytes
    end = len(head) if whole else head.rfind(b"\n") + 1
    lines = [line for line in head[:end].removeprefix(BOM).split(b"\n") if line.strip()]
    if not lines:
        return Sample(why="The input file is empty." if whole else "Its first request is longer than 64 KiB.")
    model = _model(lines[0], default_model)
    if not model:
        return Sample(why="The first line of the input file is not a request that names a model.")
    return Sample(model, len(lines) if whole else round(file.bytes * len(lines) / end))


def _model(line: bytes, default_model: str) -> str:
    try:
        request = orjson.loads(line)
    except orjson.JSONDecodeError:
        return ""
    body = request.get("body") if isinstance(request, dict) else None
    name = (body.get("model") or default_model) if isinstance(body, dict) else ""
    return name if isinstance(name, str) else ""
