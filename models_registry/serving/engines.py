"""Which engine answers an interactive request, and whether one would be answered now."""

import logging
import random
import socket
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from django.db.models import Q

from models_registry import remote_keys
from models_registry.catalog import aliases
from models_registry.catalog.allowed import not_ready
from models_registry.engine import server
from models_registry.engine.spec import Address, EngineKind
from models_registry.models import Model, Worker, WorkerState
from models_registry.serving import forwarder
from vbs.configuration import runtime
from vbs.openai import ids
from vbs.openai.errors import ApiError, InvalidRequest, NotFound, Unavailable
from vbs.outgoing.addresses import origin
from vbs.places import PROGRAM
from vbs.timed_cache import Kept

log = logging.getLogger(__name__)

FRESH_SECONDS = 1.0  # for which an engine that was found is not looked for again
PRIORITY = "priority"  # vLLM's scheduling policy
OFF, LOADED, SWAP = "off", "loaded", "swap"


@dataclass(frozen=True)
class Served:
    """A model with the engine that has it now.

    name: in the registry. served_name: the engine's name of it. addresses: any of them will do. private: its servers
    may have addresses that are not public. prioritized: the engine takes priorities. worker: whose engine it is; None
    for a remote model.
    """

    name: str
    served_name: str
    addresses: tuple[Address, ...]
    kind: EngineKind
    private: bool = False
    prioritized: bool = False
    worker: uuid.UUID | None = None

    @property
    def is_remote(self) -> bool:
        return self.kind is EngineKind.REMOTE


class NotLoaded(Unavailable):
    code = "model_not_loaded"


_found: Kept[Served] = Kept()


def find(name: str, path: str) -> Served:
    """The engine that answers for this name of a model, adapter or alias now. path: below `/v1`, where it is asked.
    Raises NotFound, InvalidRequest, NotLoaded."""
    return _found.get((name, path), FRESH_SECONDS, partial(_find, name, path))


def forget() -> None:
    """Look for every engine again."""
    _found.forget()


def model_of(name: str) -> Model:
    """Raises NotFound."""
    model = None if "\0" in name else aliases.resolve(name)
    if model is None:
        raise NotFound(f"The model '{ids.shown(name)}' does not exist.", param="model", code="model_not_found")
    return model


def _find(name: str, path: str) -> Served:
    model = model_of(name)
    if error := refusal():
        raise error
    if why := aliases.unsupported(name, model.task, f"/v1{path}"):
        raise InvalidRequest(why, param="model", code="invalid_request")
    if why := not_ready(model):
        raise NotLoaded(f"{why[0].upper()}{why[1:]}.", param="model")
    engine = model.base or model
    if engine.kind == EngineKind.REMOTE:
        return remote(model)
    for worker in random.sample(workers := _workers(), len(workers)):
        if has(worker, model) and (served := _local(worker, model)):
            return served
    if any(is_loading(worker, model) for worker in workers):
        raise NotLoaded(f"{model.name} is being loaded now, and answers after that.", param="model")
    raise NotLoaded(f"{model.name} is not loaded now. {_loaded_words(workers)}", param="model")


def refusal() -> ApiError | None:
    """The answer to every request where they are switched off."""
    if runtime.value("VBS_INTERACTIVE") != OFF:
        return None
    return NotFound(
        "This server answers no requests directly (VBS_INTERACTIVE is off). Write the request as a line of a file, and "
        "run the file with POST /v1/batches.",
        code="interactive_off",
    )


def remote(model: Model) -> Served:
    """Raises NotLoaded where its key cannot be read."""
    spec = model.spec()
    try:
        keys = remote_keys.of(model)
    except remote_keys.UnreadableKey:
        log.exception("The server of %s is not asked", model.name)
        raise NotLoaded(f"{model.name} is not asked: the key of its server cannot be read.", param="model") from None
    urls = [url.rstrip("/") for url in (spec.source, *spec.pool)]
    addresses = tuple(Address(url, key=keys.get(origin(url), "")) for url in urls)
    return Served(model.name, model.served_name, addresses, spec.kind, spec.private)


def has(worker: Worker, model: Model) -> bool:
    """Does the worker's row say that its engine has the model loaded?"""
    if worker.model_name != (model.base or model).name:
        return False
    return not model.base or model.served_name in worker.adapters


def is_loading(worker: Worker, model: Model) -> bool:
    """Does the worker's row say that it loads the model, or its base?"""
    if worker.state != WorkerState.LOADING:
        return False
    doing = worker.activity.partition(": ")[0]  # how far it is follows
    return doing in {f"Loading {one.name}" for one in (model, model.base) if one}


def _local(worker: Worker, model: Model) -> Served | None:
    """The engine as its worker describes it in the folder `home`; None when it is another by now. On another host it is
    reached through its worker."""
    if worker.hostname != socket.gethostname():
        engine = model.base or model
        kind = EngineKind(engine.kind)
        prioritized = kind is EngineKind.VLLM and engine.engine_args.get("scheduling-policy", PRIORITY) == PRIORITY
        address = forwarder.address(worker.url)
        return Served(model.name, model.served_name, (address,), kind, True, prioritized, worker.pk)
    here = server.read_state(Path(worker.home)) if worker.home else None
    if here is None or here.spec.name != worker.model_name or here.pid != worker.engine_pid:
        return None
    prioritized = here.started.options.get("scheduling-policy") == PRIORITY
    return Served(
        model.name, model.served_name, (here.address,), here.spec.kind, prioritized=prioritized, worker=worker.pk
    )


def _workers() -> list[Worker]:
    """Those whose engines can be asked from here."""
    reached = Q(hostname=socket.gethostname()) | ~Q(url="")
    return list(Worker.objects.alive().filter(reached, cluster="gpu"))


def _loaded_words(workers: Iterable[Worker]) -> str:
    engines = {worker.model_name for worker in workers if worker.model_name}
    adapters = {name for worker in workers for name in worker.adapters}
    of_engines = Model.objects.filter(base__name__in=engines).select_related("base")
    names = engines | {one.name for one in of_engines if one.served_name in adapters}
    if not names:
        return "No model is loaded."
    return f"Loaded: {', '.join(sorted(names))}."


class Availability:
    """Which models an interactive request would be answered for now, for lists of them."""

    def __init__(self) -> None:
        self.mode = runtime.value("VBS_INTERACTIVE")
        self.workers = _workers()

    def of(self, model: Model) -> tuple[bool, str | None]:
        """Whether it would be answered, and what there is to say about it."""
        if self.mode == OFF:
            return False, "This server answers no requests directly (VBS_INTERACTIVE is off)."
        if not_ready(model):
            return False, "The model is not ready."
        engine = model.base or model
        if engine.kind == EngineKind.REMOTE:
            return engine.server_state != "failed", server_words(engine)
        if any(has(worker, model) for worker in self.workers):
            return True, None
        if any(is_loading(worker, model) for worker in self.workers):
            return self.mode == SWAP, "It is being loaded now."
        if self.mode == SWAP:
            return True, "It is not loaded now: a request has it loaded first."
        return False, "It is not loaded now."


def server_words(model: Model) -> str | None:
    """What there is to say about the server of a remote model, as it was when it was asked last."""
    match model.server_state:
        case "unchecked":
            return "Its server has not been asked yet."
        case "failed":
            why = model.server_failure_public.removesuffix(".")
            again = f"'{PROGRAM} model test {model.name}' asks it again, as every request does."
            return f"{why[:1].upper()}{why[1:]}. {again}"
    return None
