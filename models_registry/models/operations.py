"""Operations: what somebody asks of a model on the GPU."""

from django.db import models
from django.utils import timezone

from models_registry.models.registered import Model
from vbs.leases import Leased, LeasedQuerySet
from vbs.openai import ids


class OperationKind(models.TextChoices):
    LOAD = "load", "load"
    UNLOAD = "unload", "unload"
    TEST = "test", "test"
    BENCHMARK = "benchmark", "benchmark"
    TUNE = "tune", "tune"


class OperationState(models.TextChoices):
    QUEUED = "queued", "queued"
    RUNNING = "running", "running"
    SUCCEEDED = "succeeded", "succeeded"
    FAILED = "failed", "failed"
    CANCELLED = "cancelled", "cancelled"


OPEN_OPERATIONS = (OperationState.QUEUED, OperationState.RUNNING)


class Operation(Leased):
    """Something that somebody asked a worker to do with a model on the GPU. It waits in the queue with the batches."""

    id = models.CharField(primary_key=True, max_length=40, default=ids.operation_id, editable=False)
    kind = models.CharField(max_length=10, choices=OperationKind.choices)
    model = models.ForeignKey(Model, on_delete=models.CASCADE, related_name="operations")
    state = models.CharField(max_length=10, choices=OperationState.choices, default=OperationState.QUEUED)
    priority = models.SmallIntegerField(default=0, help_text="As of batches; above 100 it interrupts what runs")
    options = models.JSONField(default=dict, blank=True)
    result = models.JSONField(null=True, blank=True)
    error = models.TextField(blank=True)
    log = models.TextField(blank=True, help_text="What it did, a line each, with the time of day")
    doing = models.CharField(max_length=200, blank=True, default="", db_default="", help_text="What it does now")
    percent = models.PositiveSmallIntegerField(null=True, blank=True, help_text="How far it is, where that is known")
    asked_by = models.CharField(max_length=150, blank=True)
    created_at = models.DateTimeField(default=timezone.now)
    started_at = models.DateTimeField(null=True)
    finished_at = models.DateTimeField(null=True)
    worker = models.UUIDField(null=True, blank=True, help_text="The one that is to do it; any, where there is none")

    objects = LeasedQuerySet.as_manager()

    class Meta:
        ordering = ["-id"]
        indexes = [
            models.Index(
                fields=["-priority", "created_at"], name="operation_open", condition=models.Q(state__in=OPEN_OPERATIONS)
            )
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.model} ({self.id})"
