"""Operations and measurements as JSON. Every field is always there; it is null without a value. Times are Unix seconds.

Only operators see what tells of another project's work: who asked for it, and which batch it was.
"""

from typing import Any, Literal, TypedDict

from models_registry.api.wire import shown_reason
from models_registry.models import Measurement, Operation, OperationState
from vbs.openai.schema import unix


class MeasurementObject(TypedDict):
    id: str
    object: Literal["registry.measurement"]
    model: str
    kind: str
    at: int
    machine: str
    versions: dict[str, Any]
    options: dict[str, Any]
    batch_id: str | None
    endpoint: str | None
    requests: int
    failed: int
    input_tokens: int
    output_tokens: int
    unlimited: int
    unlimited_tokens: int
    seconds: float | None
    share: float
    at_once: int | None
    latency_p50: float | None
    latency_p99: float | None
    latency_mean: float | None
    load_seconds: float | None
    first_token_seconds: float | None
    memory_bytes: int | None
    predicted_bytes: int | None


class MeasurementList(TypedDict):
    object: Literal["list"]
    data: list[MeasurementObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


class OperationObject(TypedDict):
    """log: null in a list without `log=true`. log, result and asked_by: null for a key that is not an operator's.

    doing, percent: what it does and how far it is, while it runs.
    """

    id: str
    object: Literal["registry.operation"]
    kind: str
    model: str
    state: str
    priority: int
    options: dict[str, Any]
    result: dict[str, Any] | None
    error: str | None
    log: str | None
    asked_by: str | None
    doing: str | None
    percent: int | None
    attempts: int
    created_at: int
    started_at: int | None
    finished_at: int | None


class OperationList(TypedDict):
    object: Literal["list"]
    data: list[OperationObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


def measurement_object(row: Measurement, for_operator: bool) -> MeasurementObject:
    return {
        "id": str(row.pk),
        "object": "registry.measurement",
        "model": row.model.name,
        "kind": row.kind,
        "at": int(row.at.timestamp()),
        "machine": row.machine,
        "versions": row.versions,
        "options": row.options,
        "batch_id": (row.batch_id or None) if for_operator else None,
        "endpoint": row.endpoint or None,
        "requests": row.requests,
        "failed": row.failed,
        "input_tokens": row.input_tokens,
        "output_tokens": row.output_tokens,
        "unlimited": row.unlimited,
        "unlimited_tokens": row.unlimited_tokens,
        "seconds": row.seconds,
        "share": row.share,
        "at_once": row.at_once,
        "latency_p50": row.latency_p50,
        "latency_p99": row.latency_p99,
        "latency_mean": row.latency_mean,
        "load_seconds": row.load_seconds,
        "first_token_seconds": row.first_token_seconds,
        "memory_bytes": row.memory_bytes,
        "predicted_bytes": row.predicted_bytes,
    }


def operation_object(row: Operation, for_operator: bool, with_log: bool = True) -> OperationObject:
    is_running = row.state == OperationState.RUNNING
    return {
        "id": row.pk,
        "object": "registry.operation",
        "kind": row.kind,
        "model": row.model.name,
        "state": row.state,
        "priority": row.priority,
        "options": row.options if for_operator else {},
        "result": row.result if for_operator else None,
        "error": shown_reason(row.error, for_operator),
        "log": row.log if with_log and for_operator else None,
        "asked_by": (row.asked_by or None) if for_operator else None,
        "doing": (row.doing or None) if is_running else None,
        "percent": row.percent if is_running else None,
        "attempts": row.attempts,
        "created_at": int(row.created_at.timestamp()),
        "started_at": unix(row.started_at),
        "finished_at": unix(row.finished_at),
    }
