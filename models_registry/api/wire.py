"""Models and workers as objects of the API."""

from typing import Any

from models_registry import workloads
from models_registry.gpu import control
from models_registry.models import Model, ModelState, Worker, WorkerState
from models_registry.serving.engines import Availability
from models_registry.speed import speeds
from models_registry.speed.speeds import Speed
from vbs.openai.schema import LaneAddress, LaneObject, ModelObject, ServerObject, WorkerObject, unix
from vbs.pages.viewer import Viewer


def shown_reason(words: str, for_operator: bool) -> str | None:
    """Why something failed. Only an operator sees the message, which may name folders and addresses of the server."""
    return (words if for_operator else "It failed. The operators of this server see why.") if words else None


def reason_of(model: Model, for_operator: bool) -> str | None:
    """Why a model is `failed`. Why its remote server is, has words that everybody may read."""
    if model.state == ModelState.READY and model.server_state == ModelState.FAILED and not for_operator:
        return model.server_failure_public
    return shown_reason(model.shown_reason, for_operator)


def model_object(
    model: Model,
    loaded: set[str],
    speed: Speed | None = None,
    for_operator: bool = False,
    availability: Availability | None = None,
) -> ModelObject:
    """speed, availability: what was read for all models; without them, it is read from the database."""
    speed = speed or speeds.of(model)
    available, reason = (availability or Availability()).of(model)
    return {
        "id": model.name,
        "object": "model",
        "created": int(model.created_at.timestamp()),
        "owned_by": "vbs",
        "state": model.shown_state,
        "checked_at": unix(model.last_check),
        "task": model.task,
        "context_length": model.context_length,
        "size_bytes": model.size_bytes,
        "loaded": (model.served_name if model.base else model.name) in loaded,
        "interactive": {"available": available, "reason": reason},
        "server": _server(model, for_operator),
        "aliases": [alias.name for alias in model.aliases.all()],
        "parent": model.base.name if model.base else None,
        "reason": reason_of(model, for_operator),
        "license": model.license or None,
        "revision": model.revision or None,
        "quantization": model.engine_args.get("quantization"),
        "trust_remote_code": model.trust_remote_code,
        "tokens_per_second": _rounded(speed.tokens_per_second),
        "input_tokens_per_second": _rounded(speed.input_tokens_per_second),
        "requests_per_second": _rounded(speed.requests_per_second),
        "load_seconds": _rounded(speed.load_seconds),
        "measurements": speed.measurements,
        "measured_at": unix(speed.measured_at),
    }


def _server(model: Model, for_operator: bool) -> ServerObject | None:
    """What was true when the server of a remote model was asked last. Only an operator sees its address."""
    model = model.base or model
    if not model.server_state:
        return None
    return {
        "state": model.server_state,
        "asked_at": unix(model.server_asked_at),
        "failed_at": unix(model.server_failed_at),
        "reason": (model.server_failure if for_operator else model.server_failure_public) or None,
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 2)


def worker_object(worker: Worker, viewer: Viewer, for_operator: bool = False) -> WorkerObject:
    """Only an operator sees the worker's machine, and the server of a remote model."""
    address = worker.engine_url if for_operator and worker.engine_url.startswith("http") else None
    return {
        "cluster": worker.cluster,
        "hostname": worker.hostname if for_operator else None,
        "pid": worker.pid,
        "state": worker.state,
        "activity": control.activity(worker, viewer),
        "work_kind": worker.work_kind or None,
        "work_id": workloads.shown_id(worker, viewer),
        "work_ids": workloads.shown_ids(worker, viewer),
        "alive": worker.alive,
        "heartbeat_at": int(worker.heartbeat_at.timestamp()),
        "model": worker.model_name or None,
        "engine_pid": worker.engine_pid,
        "engine_url": address,
        "lanes": [lane_object(lane, for_operator) for lane in worker.lanes],
    }


def lane_object(lane: dict[str, Any], for_operator: bool) -> LaneObject:
    """A lane of a worker's row (models_registry.gpu.lanes); one of an earlier version has not all fields."""
    return {
        "model": lane["model"],
        "state": lane["state"],
        "why": (lane.get("detail") if for_operator else None) or lane["why"] or None,
        "since": lane.get("since"),
        "activity": lane["activity"],
        "window": lane["window"],
        "in_flight": lane["in_flight"],
        "requests_per_second": lane["requests_per_second"],
        "addresses": [_address(one) for one in lane["addresses"]] if for_operator else [],
    }


def _address(one: dict[str, Any]) -> LaneAddress:
    until = None if one["until"] is None else int(one["until"])
    return {**{name: one[name] for name in ("url", "state", "why", "limit", "in_flight")}, "until": until}  # type: ignore[typeddict-item]


def gpu_object(worker: Worker) -> dict[str, Any]:
    """What a worker read from its GPU last, and why it takes up no work while it is idle."""
    idle = worker.state == WorkerState.IDLE
    return {**worker.health, "waiting_because": (worker.activity or None) if idle else None}
