"""The API's objects as JSON. Every field is always there; it is null without a value. Times are Unix seconds."""

from datetime import datetime
from typing import Any, Literal, TypedDict


def unix(moment: datetime | None) -> int | None:
    return None if moment is None else int(moment.timestamp())


class ErrorBody(TypedDict):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorObject(TypedDict):
    error: ErrorBody


class Deleted(TypedDict):
    id: str
    object: str
    deleted: bool


class FileObject(TypedDict):
    id: str
    object: Literal["file"]
    bytes: int
    created_at: int
    expires_at: int | None
    filename: str
    purpose: str
    status: Literal["uploaded", "processed", "error"]
    status_details: str | None


class FileList(TypedDict):
    object: Literal["list"]
    data: list[FileObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


class UploadObject(TypedDict):
    id: str
    object: Literal["upload"]
    bytes: int
    created_at: int
    expires_at: int
    filename: str
    purpose: str
    status: str
    file: FileObject | None


class PartObject(TypedDict):
    id: str
    object: Literal["upload.part"]
    created_at: int
    upload_id: str


class BatchErrorItem(TypedDict):
    code: str
    line: int | None
    message: str
    param: str | None


class BatchErrors(TypedDict):
    object: Literal["list"]
    data: list[BatchErrorItem]


class RequestCounts(TypedDict):
    total: int
    completed: int
    failed: int


class InputTokensDetails(TypedDict):
    cached_tokens: int


class OutputTokensDetails(TypedDict):
    reasoning_tokens: int


class Usage(TypedDict):
    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: OutputTokensDetails
    total_tokens: int


class Progress(TypedDict):
    """phase: what happens to the batch now: validating, queued, loading, running, writing or cancelling; null
    once it has ended."""

    phase: str | None
    percent: float
    tokens_per_second: float | None
    requests_per_second: float | None
    eta_seconds: int | None


class ResolvedModel(TypedDict):
    """The model that a name meant when the batch started its requests."""

    asked: str
    model: str
    revision: str | None


class Estimate(TypedDict):
    """The forecast for the requests that are left. `reason`: why a value is null."""

    seconds: int | None
    starts_in_seconds: int | None
    requests: int | None
    model: str | None
    measurements: int
    reason: str | None


class BatchObject(TypedDict):
    id: str
    object: Literal["batch"]
    endpoint: str
    errors: BatchErrors | None
    input_file_id: str
    completion_window: str
    status: str
    output_file_id: str | None
    error_file_id: str | None
    created_at: int
    in_progress_at: int | None
    expires_at: int
    finalizing_at: int | None
    completed_at: int | None
    failed_at: int | None
    expired_at: int | None
    cancelling_at: int | None
    cancelled_at: int | None
    request_counts: RequestCounts
    metadata: dict[str, str] | None
    model: str | None
    usage: Usage | None
    # Ours
    name: str | None
    not_run: int
    priority: int
    progress: Progress
    queue_position: int | None
    estimated_start_at: int | None
    estimated_completion_at: int | None
    estimate: Estimate | None
    attempts: int
    resolved_models: list[ResolvedModel]


class BatchList(TypedDict):
    object: Literal["list"]
    data: list[BatchObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


class InteractiveState(TypedDict):
    """Whether a request that is sent now would be answered directly, and what there is to say about it."""

    available: bool
    reason: str | None


class ServerObject(TypedDict):
    """What was true when the server of a remote model was asked last. state: unchecked until it is asked, then ready or
    failed. failed_at: since when it fails. reason: why; only an operator sees the address."""

    state: str
    asked_at: int | None
    failed_at: int | None
    reason: str | None


class ModelObject(TypedDict):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    # Ours
    state: str
    checked_at: int | None
    task: str
    context_length: int | None
    size_bytes: int | None
    loaded: bool
    interactive: InteractiveState
    server: ServerObject | None
    aliases: list[str]
    parent: str | None
    reason: str | None
    license: str | None
    revision: str | None
    quantization: str | None
    trust_remote_code: bool
    tokens_per_second: float | None
    input_tokens_per_second: float | None
    requests_per_second: float | None
    load_seconds: float | None
    measurements: int
    measured_at: int | None


class ModelList(TypedDict):
    object: Literal["list"]
    data: list[ModelObject]


class LaneAddress(TypedDict):
    """One address of a remote model. state: open, held (it asked for patience, or is busy), lost, or trial (it gets one
    request, to see). until: when it is tried again, where it gets none now."""

    url: str
    state: str
    why: str
    limit: int
    in_flight: int
    until: int | None


class LaneObject(TypedDict):
    """A remote model that a worker runs beside its engine. state: running, loading, waiting (`why` says for what),
    failed (its server did when it was asked last: `why`, and `since` when) or idle. window: how many requests it gets
    at once. addresses: for operators only."""

    model: str
    state: str
    why: str | None
    since: int | None
    activity: str
    window: int
    in_flight: int
    requests_per_second: float
    addresses: list[LaneAddress]


class WorkerObject(TypedDict):
    cluster: str
    hostname: str | None
    pid: int
    state: str
    activity: str
    work_kind: str | None
    work_id: str | None
    work_ids: list[str]
    alive: bool
    heartbeat_at: int
    model: str | None
    engine_pid: int | None
    engine_url: str | None
    lanes: list[LaneObject]


class QueueItem(TypedDict):
    """A batch in the queue. Of another project's batch it shows only numbers.

    in_flight: its requests on the engine now. share_percent: of all that the engine has in flight for batches.
    """

    id: str | None
    name: str | None
    status: str
    priority: int
    models: list[str]
    total: int
    completed: int
    failed: int
    progress: Progress
    position: int | None
    in_flight: int | None
    share_percent: float | None
    estimated_start_at: int | None
    estimated_completion_at: int | None


class PauseObject(TypedDict):
    """Why the queue is paused; `reason` may be empty."""

    since: int
    reason: str


class QueueObject(TypedDict):
    """`gpu`: what each worker read from its GPU last, with `waiting_because`: why it takes up no work, or null.
    `validating_total`: batches whose lines are still being read, and that wait after that. `paused`: null unless the
    queue is paused."""

    object: Literal["queue"]
    workers: list[WorkerObject]
    gpu: list[dict[str, Any]]
    loaded_model: str | None
    running: list[QueueItem]
    waiting: list[QueueItem]
    waiting_total: int
    validating_total: int
    paused: PauseObject | None


def only_v1(endpoints: list[Any]) -> list[Any]:
    """Keeps the routes of the API, and none of the pages, for /openapi.json."""
    return [one for one in endpoints if one[0].startswith(("/v1/", "/health", "/ready"))]
