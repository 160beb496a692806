"""Models that requests can name, and the workers that serve them."""

import uuid
from typing import Any

from django.db import models
from django.db.models.functions import Now

from models_registry.engine.options import LORA_RANKS
from models_registry.engine.spec import Adapter, EngineKind, EngineSpec

USUAL_LORA_RANK = 16


class Task(models.TextChoices):
    CHAT = "chat", "chat"
    COMPLETION = "completion", "completion"
    EMBEDDING = "embedding", "embedding"


class ModelQuerySet(models.QuerySet["Model"]):
    def described(self) -> "ModelQuerySet":
        """With what is said of a model in lists: its aliases and its base."""
        return self.select_related("base").prefetch_related("aliases")


class Model(models.Model):
    """A model by the name that requests use. `source` is a folder, or the URL of an OpenAI-compatible server.

    With a `base` it is a LoRA adapter: `source` is the adapter's folder, and the base's engine serves it.
    """

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
    base = models.ForeignKey("self", null=True, blank=True, on_delete=models.PROTECT, related_name="adapters")
    lora_rank = models.PositiveSmallIntegerField(null=True, blank=True)
    revision = models.CharField(
        max_length=64, blank=True, help_text="Commit of the hub's repository, where it is known"
    )
    created_at = models.DateTimeField(db_default=Now())

    objects = ModelQuerySet.as_manager()

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name

    def spec(self) -> EngineSpec:
        """The engine that serves it: an adapter is served by its base's."""
        if self.base:
            return self.base.spec()
        return EngineSpec(
            name=self.name,
            source=self.source,
            task=self.task,
            kind=EngineKind(self.kind),
            args=tuple(sorted((self._lora_args() | self.engine_args).items())),
            remote_name=self.remote_name,
        )

    def _lora_args(self) -> dict[str, Any]:
        """So chosen that another adapter seldom changes them: an engine with other options has to be started anew."""
        ranks = [rank or 0 for rank in self.adapters.values_list("lora_rank", flat=True)]
        if not ranks:
            return {}
        most = max(USUAL_LORA_RANK, *ranks)
        return {"enable-lora": True, "max-lora-rank": next(rank for rank in LORA_RANKS if rank >= most)}

    def adapter(self) -> Adapter | None:
        return Adapter(self.served_name, self.source) if self.base else None

    @property
    def served_name(self) -> str:
        """What the engine calls it. An adapter that is removed and added anew is another one to the engine."""
        return f"@adapter-{self.pk}" if self.base else self.remote_name or self.name


class Alias(models.Model):
    """Another name for a model, which can be pointed at another one; usable wherever a model's name is."""

    name = models.CharField(max_length=200, unique=True)
    model = models.ForeignKey(Model, on_delete=models.PROTECT, related_name="aliases")
    changed_at = models.DateTimeField(db_default=Now())

    class Meta:
        ordering = ["name"]
        verbose_name_plural = "aliases"

    def __str__(self) -> str:
        return f"{self.name} → {self.model}"


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
    adapters = models.JSONField(default=list, blank=True, help_text="Those that its engine has, by the engine's names")

    class Meta:
        ordering = ["cluster", "started_at"]

    def __str__(self) -> str:
        return f"{self.cluster}@{self.hostname}:{self.pid}"

    def set(self, **fields: Any) -> None:
        """Change some fields in one statement; it counts as a heartbeat."""
        for name, value in fields.items():
            setattr(self, name, value)
        type(self).objects.filter(pk=self.pk).update(heartbeat_at=Now(), **fields)
