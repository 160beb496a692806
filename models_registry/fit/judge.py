"""Does a model fit into this machine? Asks `fit.formula`, for registered models and for folders, and corrects it.

The measurement of a load has the memory that the engine took (`memory_bytes`) and the prediction (`predicted_bytes`, by
`predicted`). The median of the differences is the correction: that of recent loads of this model with the same options,
or else of the last load of each model, on this machine. Context and number of sequences do not count as options,
because the cache that they size is compared as it was set aside.
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
from models_registry.fit import available, formula
from models_registry.hub import client, downloads
from models_registry.hub import files as hub_files
from models_registry.models import Measurement, MeasurementKind, Model, ModelState, Worker

RECENT = 20  # loads of one model that count
LOG_START = 4 * 2**20  # bytes of an engine's log; the size of its cache is logged before it is ready
MOST_CONFIG = 2**20  # bytes
CONNECTIONS = 8  # to the hub at once
MOST_ADAPTERS = 8  # that run at once: with places for more each step takes longer
ADAPTERS_SHARE = 0.1  # of the memory, which they may take beside their base
CACHE_IN_LOG = re.compile(rb"Available KV cache memory: (\d{1,7}(?:\.\d{1,3})?) GiB")  # vLLM 0.32, on a GPU


def judge(model: Model, context: int | None = None, sequences: int = 1, ask_hub: bool = False) -> formula.Fit:
    """Does the model fit as its engine would be started here? Raises ModelError.

    context: in tokens; by default the model's. sequences: at once, each of that length. ask_hub: for a model that is
    not fetched yet, read the beginnings of its files on the hub, which takes seconds.
    """
    if ask_hub and model.hub_id and model.state != ModelState.READY:
        return judge_hub(model, downloads.plan(model), context, sequences)
    return _judged(model, _given(model, context), sequences, _files_of(model), corrected=True)


def judge_hub(
    model: Model, planned: downloads.DownloadPlan, context: int | None = None, sequences: int = 1
) -> formula.Fit:
    """The same before it is fetched, from the beginnings of its files on the hub. Takes seconds. Raises ModelError."""
    _check_whole(model)
    return _judged(model, _given(model, context), sequences, _files_on_hub(model, planned), corrected=True)


def judge_folder(path: Path, context: int | None = None, sequences: int = 1) -> formula.Fit:
    """The same for a folder that need not be registered. Raises ModelError."""
    return judge(Model(name=str(path), source=str(path)), context, sequences)


def predicted(model: Model, options: Mapping[str, Any], log: Path | None = None) -> int | None:
    """Bytes that should be measured right after a load, without correction: `predicted_bytes` of its measurement.

    It is the sum of all GPUs when several share the model. options: those that the engine was started with. log: its
    log, which says how large a cache it has set aside. None when that is not known: then the measured memory says
    nothing about what the model needs. Raises ModelError.
    """
    found = _judged(model, dict(options), 1, _files_of(model), corrected=False)
    on_each = found.resident
    if on_each is None and log and (cache := _cache_in(log)) is not None:
        on_each = found.resident_with(cache)
    return None if on_each is None else on_each * _parallel(options)


def adapters_at_once(model: Model) -> int:
    """How many of the model's adapters may run at once on its engine: at least one, and no more than have room."""
    try:
        given = model.lora_options(0, MOST_ADAPTERS) | dict(model.spec().args)
        found = _judged(model, given | {"max-loras": 1}, 1, _files_of(model), corrected=False)
    except ModelError:  # not known for this model
        return MOST_ADAPTERS
    if not found.asked.lora:
        return MOST_ADAPTERS
    spare = 0 if defaults.gpu_memory() else 1  # place that stays empty (`defaults.with_spare_place`)
    places = int(found.available.total * ADAPTERS_SHARE) * (1 + spare) // found.asked.lora
    return max(1, min(MOST_ADAPTERS, places - spare))


def _cache_in(log: Path) -> int | None:
    try:
        with log.open("rb") as file:
            said = CACHE_IN_LOG.search(file.read(LOG_START))
    except FileNotFoundError:  # only the last few logs are kept
        return None
    return int(float(said[1]) * formula.GIB) if said else None


def _parallel(options: Mapping[str, Any]) -> int:
    """How many GPUs share the model of an engine with these options."""
    number = options.get("tensor-parallel-size")
    return number if isinstance(number, int) and number > 0 else 1


@dataclass(frozen=True)
class _Files:
    """What a model's files say. parameters: how many values there are of each safetensors type. size: bytes of the
    weights, where they are not in a folder."""

    config: dict[str, Any]
    parameters: dict[str, int]
    size: int | None = None


def _check_whole(model: Model) -> None:
    if model.base:
        raise ModelError(f"{model.name} is an adapter of {model.base.name}: ask whether that model fits")


def _files_of(model: Model) -> _Files:
    _check_whole(model)
    if model.kind != EngineKind.VLLM:
        raise ModelError(f"{model.name} is a {model.kind} model: it takes no memory of this machine")
    if not model.source or model.state != ModelState.READY:
        raise ModelError(f"the files of {model.name} are not here yet: fetch it first")
    folder = Path(model.source)
    return _Files(folders.config(folder), folders.parameters(folder))


def _files_on_hub(model: Model, planned: downloads.DownloadPlan) -> _Files:
    weights = [file for file in planned.files if file.path.endswith(".safetensors")]
    if not weights:
        raise ModelError(f"{model.name} comes without *.safetensors, whose headers say what it takes: fetch it first")
    with client.reading(downloads.repository_of(model, planned.commit)) as read:

        def content(file: hub_files.HubFile) -> dict[str, tuple[str, folders.Shape]]:
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
            raise ModelError(f"a file of {model.hub_id} on the hub cannot be read: {error}. Try again later") from error
    if not isinstance(config, dict):
        raise ModelError(f"config.json of {model.hub_id} is not a JSON object: choose another model")
    return _Files(config, parameters, sum(file.size for file in weights))


def _given(model: Model, context: int | None) -> dict[str, Any]:
    """Engine options that the model sets, and the context that is asked for."""
    given = model.lora_options(1, MOST_ADAPTERS) | dict(model.spec().args) if model.pk else dict(model.engine_args)
    return given | ({"max-model-len": context} if context else {})


def _judged(model: Model, given: dict[str, Any], sequences: int, files: _Files, corrected: bool) -> formula.Fit:
    options = defaults.options(given, model.task, model.source, files.size)
    try:
        shape = formula.shape(files.config)
        settings = replace(available.engine_settings(options, shape.context), sequences=sequences)
        correction, loads = _correction(model, settings) if corrected else (0, 0)
        return formula.fit(shape, files.parameters, settings, _available_memory(options), correction, loads)
    except formula.FitError as error:
        raise ModelError(f"{model.name}: {error}") from error


def _available_memory(options: dict[str, Any]) -> formula.AvailableMemory:
    """The available memory. On a CPU with the memory of the loaded engines, which are ended before another starts."""
    here = available.available_memory(options)
    if here.kind == "gpu":
        return here
    fresh = Worker.objects.alive().filter(hostname=socket.gethostname())
    loaded = fresh.exclude(model_name="").values("model_name")
    held = Measurement.objects.filter(model__name__in=loaded, machine=identity.name(), memory_bytes__gt=0)
    last = held.order_by("model_id", "-at").distinct("model_id")
    total = here.total + sum(one.memory_bytes or 0 for one in last)
    return replace(here, total=min(total, main_memory.total()))


def _correction(model: Model, settings: formula.EngineSettings) -> tuple[int, int]:
    """The correction in bytes, for each GPU when several share the model, and the number of loads that it rests on."""
    measured = Measurement.objects.filter(
        kind=MeasurementKind.LOAD, machine=identity.name(), memory_bytes__gt=0, predicted_bytes__gt=0
    )
    own = measured.filter(model=model.pk).order_by("-at")[:RECENT]
    # Each model counts once; otherwise the one that is loaded most often would decide.
    others = measured.order_by("model_id", "-at").distinct("model_id")
    loads = [one for one in own if _is_alike(one, model, settings)] or others
    beyond = [
        (one.memory_bytes - one.predicted_bytes) / _parallel(one.options)
        for one in loads
        if one.memory_bytes and one.predicted_bytes
    ]
    return int(median(beyond)) if beyond else 0, len(beyond)


def _is_alike(measured: Measurement, model: Model, settings: formula.EngineSettings) -> bool:
    options = defaults.options(measured.options, model.task, model.source)
    try:
        other = available.engine_settings(options, settings.context)
    except formula.FitError:
        return False
    return replace(other, context=settings.context, sequences=settings.sequences) == settings
