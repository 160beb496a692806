"""Models that requests can name, their aliases, downloads, operations and measurements, and the workers."""

from models_registry.models.downloads import OPEN_DOWNLOADS, Download, DownloadState, HubToken
from models_registry.models.measurements import InteractiveUsage, Measurement, MeasurementKind
from models_registry.models.operations import OPEN_OPERATIONS, Operation, OperationKind, OperationState
from models_registry.models.registered import (
    ASKED_LATELY,
    CHECK_KEPT,
    NO_FAILURE,
    READING,
    SPARE_ADAPTERS,
    UNCHECKED,
    USUAL_LORA_RANK,
    Alias,
    Model,
    ModelQuerySet,
    ModelState,
    Task,
)
from models_registry.models.workers import HEARTBEAT_SECONDS, STALE, Worker, WorkerQuerySet, WorkerState

__all__ = [
    "ASKED_LATELY",
    "CHECK_KEPT",
    "HEARTBEAT_SECONDS",
    "NO_FAILURE",
    "OPEN_DOWNLOADS",
    "OPEN_OPERATIONS",
    "READING",
    "SPARE_ADAPTERS",
    "STALE",
    "UNCHECKED",
    "USUAL_LORA_RANK",
    "Alias",
    "Download",
    "DownloadState",
    "HubToken",
    "InteractiveUsage",
    "Measurement",
    "MeasurementKind",
    "Model",
    "ModelQuerySet",
    "ModelState",
    "Operation",
    "OperationKind",
    "OperationState",
    "Task",
    "Worker",
    "WorkerQuerySet",
    "WorkerState",
]
