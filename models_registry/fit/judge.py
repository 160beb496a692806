"""Does a model fit into this machine? `fit` for models of the registry and for folders, corrected by measured loads.

A load's measurement has what the engine took in all (`memory_bytes`) beside what had been said of it
(`predicted_bytes`, by `predicted`). The median of the differences is the correction: of recent loads of this model with
the same options, else of the last load of each model, both on this machine. Context and number of sequences do not
count as options, since the cache that they size is compared as it was set aside.
"""

import json
import re
import socket
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from models_registry.catalog import folders
from models_registry.catalog.folders import ModelError
from models_registry.engine import defaults
from models_registry.engine.machine import identity, main_memory
from models_registry.engine.spec import EngineKind
from models_registry.fit import formula
from models_registry.fit import machine as room
from models_registry.hub import client, downloads
from models_registry.hub import files as hub_files
from models_registry.models import Measurement, MeasurementKind, Model, ModelState, Worker

RECENT = 20  # loads of one model that count
LOG_START = 4 * 2**20  # bytes of an engine's log; it speaks of its cache before it is ready
MOST_CONFIG = 2**20  # bytes
CONNECTIONS = 8  # to the hub at once
CACHE_IN_LOG = re.compile(rb"Available KV cache memory: (\d{1,7}(?:\.\d{1,3})?) GiB")  # vLLM 0.32, on a GPU


def judge(model: Model, context: int | None = None, sequences: int = 1, ask_hub: bool = False) -> formula.Fit:
    """As its engine would be started here. Raises ModelError.

    context: in tokens, otherwise what the model is set to. sequences: at once, each of that length. ask_hub: of a model
    that is not fetched yet, read the beginnings of its files on the hub, which takes seconds.
    """
    if ask_hub and model.hub_id and model.state != ModelState.READY:
        return judge_hub(model, downloads.plan(model), context, sequences)
    return _judged(model, _given(model, context), sequences, _files_of(model), corrected=True)


def judge_hub(model: Model, planned: downloads.Plan, context: int | None = None, sequences: int = 1) -> formula.Fit:
    """Before it is fetched: from the beginnings of its files on the hub. Takes seconds. Raises ModelError."""
    _check_whole(model)
    return _judged(model, _given(model, context), sequences, _files_on_hub(model, planned), corrected=True)


def judge_folder(path: Path, context: int | None = None, sequences: int = 1) -> formula.Fit:
    """A folder that need not be registered. Raises ModelError."""
    return judge(Model(name=str(path), source=str(path)), context, sequences)


def predicted(model: Model, options: Mapping[str, Any], log: Path | None = None) -> int | None:
    """Bytes that should be measured right after a load, uncorrected: `predicted_bytes` of its measurement.

    Of all GPUs together when several share the model. options: the engine's, as it was started. log: its log, which
    says how large a cache it has set aside. None when that cannot be known: then what is measured says nothing of what
    the model needs. Raises ModelError.
    """
    found = _judged(model, dict(options), 1, _files_of(model), corrected=False)
    on_each = found.resident
    if on_each is None and log and (cache := _cache_in(log)) is not None:
        on_each = found.resident_with(cache)
    return None if on_each is None else on_each * _parallel(options)


def _cache_in(log: Path) -> int | None:
    try:
        with log.open("rb") as file:
            said = CACHE_IN_LOG.search(file.read(LOG_START))
    except FileNotFoundError:  # only the last few logs are kept
        return None
    return int(float(said[1]) * formula.GIB) if said else None


def _parallel(options: Mapping[str, Any]) -> int:
    """GPUs that share the model of an engine that ran with these options."""
    number = options.get("tensor-parallel-size")
    return number if isinstance(number, int) and number > 0 else 1


@dataclass(frozen=True)
class _Files:
    """What a model's files say. parameters: values of each safetensors type. size: bytes of the weights."""

    config: dict[str, Any]
    parameters: dict[str, int]
    size: int | None = None


def _check_whole(model: Model) -> None:
    if model.base:
        raise ModelError(f"{model.name} is an adapter of {model.base.name}: ask for that one")


def _files_of(model: Model) -> _Files:
    _check_whole(model)
    if model.kind != EngineKind.VLLM:
        raise ModelError(f"{model.name} is a {model.kind} model: nothing of it runs here, so there is nothing to fit")
    if not model.source or model.state != ModelState.READY:
        raise ModelError(f"the files of {model.name} are not here yet: fetch it first")
    folder = Path(model.source)
    return _Files(folders.config(folder), folders.parameters(folder))


def _files_on_hub(model: Model, planned: downloads.Plan) -> _Files:
    weights = [file for file in planned.files if file.path.endswith(".safetensors")]
    if not weights:
        raise ModelError(f"{model.name} comes without *.safetensors, whose headers say what it takes: fetch it first")
    with client.reading(downloads.place(model, planned.commit)) as read:

        def content(file: hub_files.File) -> dict[str, tuple[str, folders.Shape]]:
            place = 0

            def following(length: int) -> bytes:
                nonlocal place
                place += length
                return read(file.path, place - length, length)

            return folders.tensors(following, file.size)

        try:
            config = json.loads(read("config.json", 0, MOST_CONFIG))
            with ThreadPoolExecutor(CONNECTIONS) as pool:
                parameters = folders.count(pool.map(content, weights))
        except (ValueError, RecursionError) as error:
            raise ModelError(f"a file of {model.hub_id} cannot be read ({error}): is it whole?") from error
    if not isinstance(config, dict):
        raise ModelError(f"config.json of {model.hub_id} is not a JSON object: choose another model")
    return _Files(config, parameters, sum(file.size for file in weights))


def _given(model: Model, context: int | None) -> dict[str, Any]:
    """Engine options that are set, by the model or by whoever asks."""
    given = dict(model.spec().args) if model.pk else dict(model.engine_args)
    return given | ({"max-model-len": context} if context else {})


def _judged(model: Model, given: dict[str, Any], sequences: int, files: _Files, corrected: bool) -> formula.Fit:
    options = defaults.options(given, model.task, model.source, files.size)
    try:
        shape = formula.shape(files.config)
        load = replace(room.load(options, shape.context), sequences=sequences)
        correction, loads = _correction(model, load) if corrected else (0, 0)
        return formula.fit(shape, files.parameters, load, _room(options), correction, loads)
    except formula.FitError as error:
        raise ModelError(f"{model.name}: {error}") from error


def _room(options: dict[str, Any]) -> formula.Room:
    """On a CPU with what the loaded engines of this machine would give back: a swap ends them first."""
    here = room.here(options)
    if here.kind == "gpu":
        return here
    fresh = Worker.objects.alive().filter(hostname=socket.gethostname())
    loaded = fresh.exclude(model_name="").values("model_name")
    held = Measurement.objects.filter(model__name__in=loaded, machine=identity.name(), memory_bytes__gt=0)
    last = held.order_by("model_id", "-at").distinct("model_id")
    total = here.total + sum(one.memory_bytes or 0 for one in last)
    return replace(here, total=min(total, main_memory.total()))


def _correction(model: Model, load: formula.Load) -> tuple[int, int]:
    """Bytes, on each GPU when several share the model, and how many loads say so."""
    measured = Measurement.objects.filter(
        kind=MeasurementKind.LOAD, machine=identity.name(), memory_bytes__gt=0, predicted_bytes__gt=0
    )
    own = measured.filter(model=model.pk).order_by("-at")[:RECENT]
    # Each model once, or the one that is loaded most often would speak for all.
    others = measured.order_by("model_id", "-at").distinct("model_id")
    loads = [one for one in own if _is_alike(one, model, load)] or others
    beyond = [
        (one.memory_bytes - one.predicted_bytes) / _parallel(one.options)
        for one in loads
        if one.memory_bytes and one.predicted_bytes
    ]
    return int(median(beyond)) if beyond else 0, len(beyond)


def _is_alike(measured: Measurement, model: Model, load: formula.Load) -> bool:
    options = defaults.options(measured.options, model.task, model.source)
    try:
        other = room.load(options, load.context)
    except formula.FitError:
        return False
    return replace(other, context=load.context, sequences=load.sequences) == load
