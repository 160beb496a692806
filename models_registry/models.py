"""Models that requests can name, and the workers that serve them."""

import uuid
from typing import Any

from django.db import models
from django.db.models.functions import Now

from models_registry.engine.spec import EngineKind, EngineSpec


class Task(models.TextChoices):
    CHAT = "chat", "chat"
    COMPLETION = "completion", "completion"
    EMBEDDING = "embedding", "embedding"


class Model(models.Model):
    """A model by the name that requests use. `source` is a folder, or the URL of an OpenAI-compatible server."""

    name = models.CharField(max_length=200, unique=True)
    kind = models.CharField(
        max_length=16, choices=[(kind.value, kind.value) for kind in EngineKind], default=EngineKind.VLLM.value
    )
    source = models.CharField(max_length=1000, blank=True, help_text="Folder of the model, or URL of a remote server")
    task = models.CharField(max_length=16, choices=Task.choices, default=Task.CHAT)
    engine_args = models.JSONField(default=dict, blank=True, help_text='vLLM options, e.g. {"max-model-len": 2048}')
    remote_name = models.CharField(max_length=200, blank=True, help_text="The remote server's name for it")
    size_bytes = models.BigIntegerField(null=True, blank=True)
    context_length = models.PositiveIntegerField(null=True, blank=True)
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name

    def spec(self) -> EngineSpec:
        return EngineSpec(
            name=self.name,
            source=self.source,
            task=self.task,
            kind=EngineKind(self.kind),
            args=tuple(sorted(self.engine_args.items())),
            remote_name=self.remote_name,
        )


class WorkerState(models.TextChoices):
    IDLE = "idle", "idle"
    LOADING = "loading", "loading a model"
    RUNNING = "running", "running"


class Worker(models.Model):
    """A worker process: it writes its heartbeat here, and its id is the owner of the leases that it holds."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    cluster = models.CharField(max_length=16)
    hostname = models.CharField(max_length=255)
    pid = models.IntegerField()
    home = models.CharField(max_length=1000, blank=True, help_text="Folder of its engine")
    started_at = models.DateTimeField(db_default=Now())
    heartbeat_at = models.DateTimeField(db_default=Now())
    state = models.CharField(max_length=16, choices=WorkerState.choices, default=WorkerState.IDLE)
    activity = models.CharField(max_length=500, blank=True, help_text="What it is doing, in words")
    model_name = models.CharField(max_length=200, blank=True)
    engine_pid = models.IntegerField(null=True, blank=True)
    engine_url = models.CharField(max_length=500, blank=True)

    class Meta:
        ordering = ["cluster", "started_at"]

    def __str__(self) -> str:
        return f"{self.cluster}@{self.hostname}:{self.pid}"

    def set(self, **fields: Any) -> None:
        """Change some fields in one statement; it counts as a heartbeat."""
        for name, value in fields.items():
            setattr(self, name, value)
        type(self).objects.filter(pk=self.pk).update(heartbeat_at=Now(), **fields)
