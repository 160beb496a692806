"""What the table of models and the page of one model share: a model's state, and its actions at the moment."""

import hashlib
from dataclasses import dataclass
from typing import Any

from models_registry.api.wire import reason_of, shown_reason
from models_registry.engine import start_progress
from models_registry.engine.spec import EngineKind
from models_registry.hub import downloads as fetch
from models_registry.models import (
    OPEN_OPERATIONS,
    Download,
    DownloadState,
    Model,
    ModelState,
    Operation,
    OperationState,
    Worker,
)
from models_registry.speed import speeds
from models_registry.speed.speeds import Speed
from vbs.pages.viewer import Viewer
from vbs.pages.words import duration, size

CHANGES = "models_registry.change_model"  # whoever has it sees where models are


def rows(models: list[Model], viewer: Viewer) -> list[dict[str, Any]]:
    """What the templates show of each model, in a fixed number of queries. Models are from `described`."""
    for_operator = viewer.may(CHANGES)
    keys = [model.pk for model in models]
    downloads = {row.model_id: row for row in Download.objects.filter(model__in=keys).defer("files")}
    latest = _latest(keys)
    fast = speeds.all() if len(models) != 1 else {models[0].pk: speeds.of(models[0])}
    here = _Here(Worker.objects.loaded(), Worker.objects.asleep(), Worker.objects.loading())
    return [
        _row(
            model,
            downloads.get(model.pk),
            latest.get(model.pk),
            fast.get(model.pk, speeds.UNKNOWN),
            here,
            for_operator,
        )
        for model in models
    ]


@dataclass(frozen=True)
class _Here:
    """What the workers have: names as of `Worker.objects`, and what the loads do that are under way, by name."""

    loaded: set[str]
    asleep: set[str]
    loading: dict[str, str]


def _latest(keys: list[int]) -> dict[int, Operation]:
    """Each model's operation that runs or waits, else its last one."""
    found: dict[int, Operation] = {}
    rows = Operation.objects.filter(model__in=keys).defer("log", "result", "options")
    for row in rows.order_by("model_id", "-id").distinct("model_id"):
        found[row.model_id] = row
    for row in rows.filter(state__in=OPEN_OPERATIONS).order_by("-created_at"):  # a running one wins, else the oldest
        if row.state == OperationState.RUNNING or found[row.model_id].state != OperationState.RUNNING:
            found[row.model_id] = row
    return found


def _row(
    model: Model,
    download: Download | None,
    operation: Operation | None,
    speed: Speed,
    here: _Here,
    for_operator: bool,
) -> dict[str, Any]:
    """doing: the operation that runs or waits, or the last one if it failed. progress: of that, or of a load that other
    work needs. moves: whether the row will soon change."""
    loaded = (model.served_name if model.base else model.name) in here.loaded
    fetching = _fetching(model, download, for_operator) if download else None
    is_open = operation is not None and operation.state in OPEN_OPERATIONS
    failed = operation is not None and operation.state == OperationState.FAILED
    progress = _progress(model, operation, speed, here.loading)
    return {
        "model": model,
        "source": _source(model, for_operator),
        "reason": reason_of(model, for_operator),
        "fit_id": _fit_id(model),
        "speed": speed,
        "loaded": loaded,
        "asleep": not loaded and model.name in here.asleep,
        "fetching": fetching,
        "doing": operation if is_open or failed else None,
        "is_open": is_open,
        "progress": progress,
        "error": shown_reason(operation.error, for_operator) if operation else "",
        "actions": _actions(model, download, operation, loaded),
        "moves": is_open or bool(progress) or bool(fetching and fetching["moves"]),
    }


def _source(model: Model, for_operator: bool) -> str:
    """Where the model is from; folders and addresses are for operators."""
    if model.hub_id:
        return f"{model.hub_id} {model.hub_file}".strip()
    if model.kind == EngineKind.SCRIPTED:
        return "scripted engine"
    if for_operator:
        return model.source
    return "remote server" if model.kind == EngineKind.REMOTE else ""


def _progress(
    model: Model, operation: Operation | None, speed: Speed, loading: dict[str, str]
) -> dict[str, Any] | None:
    """What an operation that runs does, or a load of the model that a batch or a request needs. percent: how far it is,
    where that is known. usual: the seconds that loads of it have taken, while it is loaded."""
    loads = loading.get(model.name)
    usual = speed.load_seconds if loads is not None else None
    if operation and operation.state == OperationState.RUNNING:
        return {"what": operation.kind, "words": operation.doing, "percent": operation.percent, "usual": usual}
    if loads is None:
        return None
    return {"what": "load", "words": loads, "percent": start_progress.percent(loads), "usual": usual}


def _fit_id(model: Model) -> str:
    """Changes when the answer may have changed; empty when there is nothing to ask."""
    if model.base or model.kind != EngineKind.VLLM or model.state != ModelState.READY:
        return ""
    asked = repr((model.source, model.revision, model.task, sorted(model.engine_args.items(), key=str)))
    return f"fit-{model.pk}-{hashlib.sha256(asked.encode()).hexdigest()[:8]}"


def _fetching(model: Model, download: Download, for_operator: bool) -> dict[str, Any] | None:
    """A download that is not complete. note: its rate and the time left, or why it failed."""
    if download.state in (DownloadState.DONE, DownloadState.CANCELLED):
        return None
    total, done = download.bytes_total, min(download.bytes_done, download.bytes_total)
    note = shown_reason(download.reason, for_operator) or fetch.doing(model, download)
    if not note and download.state == DownloadState.RUNNING and (rate := download.bytes_per_second):
        note = f"{size(int(rate))}/s, {duration((total - done) / rate)} left"
    return {
        "state": download.state,
        "moves": download.state in (DownloadState.QUEUED, DownloadState.RUNNING),
        "percent": 100 * done // total if total else 0,
        "done": done,
        "total": total,
        "note": note,
    }


def _actions(
    model: Model, download: Download | None, operation: Operation | None, loaded: bool
) -> list[tuple[str, str]]:
    """The actions with the texts of their buttons."""
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
        if model.kind == EngineKind.REMOTE:
            found.append(("check", "Check"))
        else:
            found.append(("unload", "Unload") if loaded else ("load", "Load"))
        found += [("test", "Test"), ("benchmark", "Benchmark")]
    return found
