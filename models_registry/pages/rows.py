"""Rows as the parts that pages of models show: plain values, in words. Knows no request and no HTML."""

import hashlib
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from django.db.models import F
from django.urls import reverse

from models_registry.api.wire import reason
from models_registry.engine.spec import EngineKind
from models_registry.fit import formula
from models_registry.gpu import control
from models_registry.hub import downloads as fetch
from models_registry.models import (
    OPEN_OPERATIONS,
    Download,
    DownloadState,
    Model,
    ModelState,
    Operation,
    OperationState,
    Task,
    Worker,
    WorkerState,
)
from models_registry.pages import history
from models_registry.pages.parts import Doing, Fetching, History, Machine, Machines, Reading, Row, Summary, Table
from models_registry.speed import speeds
from models_registry.speed.speeds import Speed
from vbs.configuration import runtime
from vbs.live.pages import Gone, Page
from vbs.pages.parts import Part, Values, pulse
from vbs.pages.plain import visible
from vbs.pages.viewer import Viewer
from vbs.pages.words import duration, number

SOON, LATER = 1, 5  # seconds until a page asks again: while something moves, and while nothing does
CHANGES = "models_registry.change_model"  # who may, is told where models are
LOST_SECONDS = 86_400  # for which the end of an idle engine is told


def registry(viewer: Viewer) -> dict[str, Part | Values]:
    """The page of all models."""
    machines = _machines(viewer)
    rows = _rows(_in_order(list(Model.objects.described())), Row, viewer)
    table = Table(ids=tuple(row.id for row in rows), children=tuple(rows))
    return {"machines": machines, "table": table, "pulse": _pulse(reverse("models-live"), rows, machines)}


def one(model: Model, viewer: Viewer) -> dict[str, Part | Values]:
    """The page of a model."""
    machines = _machines(viewer)
    (summary,) = _rows([model], Summary, viewer)
    ran = history.operations(model, viewer.may(CHANGES))
    done = History(ids=tuple(part.id for part in ran), children=tuple(ran))
    pulse = _pulse(reverse("model-live", args=[model.pk]), [summary], machines)
    return {
        "machines": machines,
        "summary": summary,
        "history": done,
        "measured": history.measurements(model),
        "pulse": pulse,
    }


def that_chat() -> Iterable[str]:
    """Names of models that can be asked something, to be put into examples."""
    ready = Model.objects.filter(state=ModelState.READY, task=Task.CHAT)
    return ready.order_by(F("base_id").asc(nulls_first=True), "name").values_list("name", flat=True)[:20]


def _pulse(url: str, rows: Iterable[Row], machines: Machines) -> Part:
    moves = any(row.moves for row in rows) or machines.busy
    return pulse(url=url, every=SOON if moves else LATER)


def _in_order(models: list[Model]) -> list[Model]:
    """Adapters after their base."""
    adapters = defaultdict(list)
    for model in models:
        adapters[model.base_id].append(model)
    return [each for model in adapters[None] for each in (model, *adapters[model.pk])]


def _found(pk: int) -> Model:
    if (model := Model.objects.described().filter(pk=pk).first()) is None:
        raise Gone(pk)
    return model


MODELS = Page(build=lambda viewer, query: registry(viewer), topics=lambda: ("models", "workers"))
MODEL = Page(build=lambda viewer, query, pk: one(_found(pk), viewer), topics=lambda pk: ("models", "workers"))


# The machine


def _machines(viewer: Viewer) -> Machines:
    """The workers that serve models."""
    machines = tuple(machine_of(worker, viewer) for worker in Worker.objects.alive().filter(cluster="gpu"))
    return Machines(ids=tuple(machine.id for machine in machines), children=machines)


def machine_of(worker: Worker, viewer: Viewer) -> Machine:
    said = control.activity(worker, viewer)
    idle = worker.state == WorkerState.IDLE
    return Machine(
        id=f"machine-{worker.pk}",
        host=worker.hostname if viewer.may("models_registry.change_worker") else "",
        doing="" if idle else said or worker.get_state_display(),
        waits=said if idle else "",
        model=worker.model_name,
        lost=_lost(worker.health),
        readings=tuple(readings_of(worker.health)),
    )


def _lost(health: Mapping[str, Any]) -> str:
    """That an idle engine ended by itself within the last day."""
    last = (health.get("losses") or {}).get("last")
    if not last or time.time() - last["at"] > LOST_SECONDS:
        return ""
    at = f"{datetime.fromtimestamp(last['at'], UTC):%H:%M} UTC"
    return (
        f"The idle engine of {visible(last['model'])} ended at {at}: {last['how']}. The next request starts it again."
    )


def readings_of(health: Mapping[str, Any]) -> Iterable[Reading]:
    """Of each GPU, else of the machine; as models_registry.gpu.health has them."""
    devices = health.get("devices") or []
    for place, device in enumerate(devices):
        yield from _of_device(device, f"GPU {place}" if len(devices) > 1 else "GPU")
    if health and not devices:
        yield from _of_device(health, "Main", "Processors")


def _of_device(one: Mapping[str, Any], name: str, busy: str = "") -> Iterable[Reading]:
    used, total = one.get("memory_used"), one.get("memory_total")
    if used is not None and total:
        yield Reading(f"{name} memory", f"{formula.size(used)} of {formula.size(total)}", round(100 * used / total))
    if (percent := one.get("utilization")) is not None:
        yield Reading(busy or f"{name} use", f"{percent:.0f} %", round(percent), warns=False)
    if (celsius := one.get("temperature")) is not None:
        part = round(100 * celsius / runtime.value("VBS_GPU_MAX_CELSIUS"))
        yield Reading(f"{name} temperature", f"{celsius} °C", part, warns=part > 90)  # most of the way is as usual
    if (watts := one.get("power_watts")) is not None:
        limit = one.get("power_limit_watts")
        shown = f"{watts:.0f} W" + (f" of {limit:.0f} W" if limit else "")
        yield Reading(f"{name} power", shown, round(100 * watts / limit) if limit else None, warns=False)


# Models


def _rows(models: list[Model], kind: type[Row], viewer: Viewer) -> list[Row]:
    for_operator = viewer.may(CHANGES)
    keys = [model.pk for model in models]
    downloads = {row.model_id: row for row in Download.objects.filter(model__in=keys).defer("files")}
    latest = _latest(keys)
    fast = speeds.all() if len(models) != 1 else {models[0].pk: speeds.of(models[0])}
    loaded, asleep = Worker.objects.loaded(), Worker.objects.asleep()
    return [
        _row(
            model,
            kind,
            downloads.get(model.pk),
            latest.get(model.pk),
            fast.get(model.pk, speeds.UNKNOWN),
            loaded,
            asleep,
            for_operator,
        )
        for model in models
    ]


def _latest(keys: list[int]) -> dict[int, Operation]:
    """Of each model the operation that runs or waits, else the last one."""
    found: dict[int, Operation] = {}
    rows = Operation.objects.filter(model__in=keys).defer("log", "result", "options")
    for row in rows.order_by("model_id", "-id").distinct("model_id"):
        found[row.model_id] = row
    for row in rows.filter(state__in=OPEN_OPERATIONS).order_by("-created_at"):  # the oldest wins, and a running one
        if row.state == OperationState.RUNNING or found[row.model_id].state != OperationState.RUNNING:
            found[row.model_id] = row
    return found


def _row(
    model: Model,
    kind: type[Row],
    download: Download | None,
    operation: Operation | None,
    speed: Speed,
    loaded: set[str],
    asleep: set[str],
    for_operator: bool,
) -> Row:
    here = (model.served_name if model.base else model.name) in loaded
    return kind(
        id=f"model-{model.pk}",
        pk=model.pk,
        name=model.name,
        aliases=tuple(alias.name for alias in model.aliases.all()),
        base=model.base.name if model.base else "",
        state=model.state,
        reason=reason(model.reason, for_operator) or "",
        task=model.task,
        kind=model.kind,
        size=formula.size(model.size_bytes) if model.size_bytes else "",
        window=f"{model.context_length:,}" if model.context_length else "",
        fit_id=_fit_id(model),
        speed=_speed(speed),
        loaded=here,
        asleep=not here and model.name in asleep,
        runs_code=model.trust_remote_code,
        fetching=_fetching(model, download, for_operator) if download else None,
        doing=_doing(operation, for_operator) if operation else None,
        actions=_actions(model, download, operation, here),
    )


def _fit_id(model: Model) -> str:
    if model.base or model.kind != EngineKind.VLLM or model.state != ModelState.READY:
        return ""
    asked = repr((model.source, model.revision, model.task, sorted(model.engine_args.items(), key=str)))
    return f"fit-{model.pk}-{hashlib.sha256(asked.encode()).hexdigest()[:8]}"


def _speed(speed: Speed) -> tuple[str, ...]:
    if not speed.measurements:
        return ()
    return f"{number(speed.tokens_per_second)} tokens/s", f"{number(speed.requests_per_second)} requests/s"


def _fetching(model: Model, download: Download, for_operator: bool) -> Fetching | None:
    if download.state in (DownloadState.DONE, DownloadState.CANCELLED):
        return None
    total, done = download.bytes_total, min(download.bytes_done, download.bytes_total)
    moves = download.state in (DownloadState.QUEUED, DownloadState.RUNNING)
    note = reason(download.reason, for_operator) or fetch.doing(model, download)
    if not note and download.state == DownloadState.RUNNING and (rate := download.bytes_per_second):
        note = f"{formula.size(int(rate))}/s, {duration((total - done) / rate)} left"
    return Fetching(
        state=download.state,
        moves=moves,
        percent=100 * done // total if total else 0,
        amount=f"{formula.size(done)} of {formula.size(total)}" if total else "",
        note=note,
    )


def _doing(operation: Operation, for_operator: bool) -> Doing | None:
    is_open = operation.state in OPEN_OPERATIONS
    if not is_open and operation.state != OperationState.FAILED:
        return None
    error = reason(operation.error, for_operator) or ""
    return Doing(operation.pk, operation.kind, operation.state, is_open, error)


def _actions(
    model: Model, download: Download | None, operation: Operation | None, loaded: bool
) -> tuple[tuple[str, str], ...]:
    found = []
    match download.state if download else None:
        case DownloadState.QUEUED | DownloadState.RUNNING:
            found += [("pause", "Pause"), ("cancel", "Cancel")]
        case DownloadState.PAUSED:
            found += [("resume", "Resume"), ("cancel", "Cancel")]
        case DownloadState.FAILED:
            found += [("retry", "Fetch again"), ("cancel", "Discard")]
        case _ if model.state == ModelState.DRAFT and (model.hub_id or fetch.is_conversion(model)):
            found.append(("fetch", "Fetch" if model.hub_id else "Convert"))
    if operation and operation.state in OPEN_OPERATIONS:
        found.append(("stop", f"Cancel {operation.kind}"))
    elif model.state == ModelState.READY:
        found.append(("unload", "Unload") if loaded else ("load", "Load"))
        found += [("test", "Test"), ("benchmark", "Benchmark")]
    return tuple(found)
