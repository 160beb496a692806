"""Samples the lines of an input file that one model can answer, as requests to measure that model with."""

import random
from array import array
from collections.abc import Callable, Collection
from itertools import pairwise
from pathlib import Path

import orjson
from django.conf import settings

from batches.files import blobs
from batches.intake.validate import REQUIRED, lines
from batches.models import File, FileStatus, Purpose
from models_registry.catalog import aliases
from models_registry.catalog.folders import ModelError
from models_registry.models import Model
from vbs.configuration import runtime
from vbs.openai import lengths, raw_json

LOOK = 1000  # lines between two looks whether the caller wants to stop
MOST_BYTES = 64 * 2**20  # of a sample


def has_file(file_id: str, projects: Collection[int] | None) -> bool:
    """Is there an input file with this id in one of these projects, or in any where that is None?"""
    files = File.objects.current().filter(pk=file_id, purpose=Purpose.BATCH, status=FileStatus.AVAILABLE)
    return (files if projects is None else files.filter(project__in=projects)).exists()


def requests(file_id: str, model: Model, count: int, seed: int, check: Callable[[], object]) -> list[tuple[str, bytes]]:
    """At most `count` requests of the file to this model, spread over the file: the path below /v1, and the body as it
    would be sent. The same ones for the same seed.

    check: raises to end it. Raises ModelError when the file has none, or is not there any more.
    """
    file = File.objects.filter(pk=file_id, status=FileStatus.AVAILABLE).first()
    if file is None:
        raise ModelError(f"the file {file_id} is not there any more: give another one, or none")
    names = {model.name, *model.aliases.values_list("name", flat=True)}
    with blobs.local(file.blob) as path:
        places = _places(path, names, aliases.ENDPOINTS[model.task], check)
        if not places:
            raise ModelError(f"no line of {file_id} is for {model.name}: give another file, or none")
        return _read(path, _spread(places, count, seed), model)


def _places(path: Path, names: set[str], endpoints: tuple[str, ...], check: Callable[[], object]) -> "array[int]":
    """Where the lines for a model begin. A line that names no model is for any."""
    places = array("Q")
    with path.open("rb") as file:
        for number, offset, text in lines(file, settings.VBS_MAX_LINE_MB * 2**20):
            if number % LOOK == 0:
                check()
            if text and _is_for(text, names, endpoints):
                places.append(offset)
    return places


def _is_for(text: bytes, names: set[str], endpoints: tuple[str, ...]) -> bool:
    try:
        found = orjson.loads(text)
        return found["url"] in endpoints and found["body"].get("model") in (*names, None, "")
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
        return False


def _spread(places: "array[int]", count: int, seed: int) -> list[int]:
    """One place of each of `count` equal parts of the file."""
    chosen = random.Random(seed)
    count = min(count, len(places))
    bounds = [len(places) * part // count for part in range(count + 1)]
    return [places[chosen.randrange(*pair)] for pair in pairwise(bounds)]


def _read(path: Path, places: list[int], model: Model) -> list[tuple[str, bytes]]:
    found: list[tuple[str, bytes]] = []
    size = 0
    most = runtime.value("VBS_DEFAULT_MAX_TOKENS")
    with path.open("rb") as file:
        for offset in places:
            file.seek(offset)
            text = file.readline(settings.VBS_MAX_LINE_MB * 2**20 + 2)
            endpoint = orjson.loads(text)["url"]
            try:
                _, body = raw_json.request_of(text)
            except raw_json.NotAnObject:
                continue
            if not _is_asked(body, endpoint):
                continue
            body["model"] = raw_json.raw(model.served_name)
            if most:
                lengths.limit(endpoint, body, raw_json.raw(most))
            made = raw_json.text_of(body)
            size += len(made)
            if size > MOST_BYTES and found:
                break
            found.append((endpoint.removeprefix("/v1"), made))
    if not found:
        raise ModelError(f"no line of the file can be sent to {model.name}: validate the file first")
    return found


def _is_asked(body: raw_json.Members, endpoint: str) -> bool:
    return any(all(name in body for name in names) for names in REQUIRED[endpoint])
