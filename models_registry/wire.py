"""Rows of this app as wire objects."""

from django.utils import timezone

from models_registry.gpu import STALE
from models_registry.models import Model, Worker
from vbs.openai.schema import ModelObject, WorkerObject


def model_object(model: Model, loaded: set[str]) -> ModelObject:
    return {
        "id": model.name,
        "object": "model",
        "created": int(model.created_at.timestamp()),
        "owned_by": "vbs",
        "state": "ready",
        "task": model.task,
        "context_length": model.context_length,
        "size_bytes": model.size_bytes,
        "loaded": (model.served_name if model.base else model.name) in loaded,
        "aliases": [alias.name for alias in model.aliases.all()],
        "parent": model.base.name if model.base else None,
        "tokens_per_second": None,
    }


def worker_object(worker: Worker) -> WorkerObject:
    return {
        "cluster": worker.cluster,
        "hostname": worker.hostname,
        "pid": worker.pid,
        "state": worker.state,
        "activity": worker.activity,
        "alive": timezone.now() - worker.heartbeat_at < STALE,
        "heartbeat_at": int(worker.heartbeat_at.timestamp()),
        "model": worker.model_name or None,
        "engine_pid": worker.engine_pid,
        "engine_url": worker.engine_url or None,
    }
