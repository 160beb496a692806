"""The workers, with what each does now."""

import uuid
from datetime import timedelta
from typing import Any

from django.db import models
from django.db.models.functions import Now
from django.utils import timezone

HEARTBEAT_SECONDS = 5
STALE = timedelta(seconds=4 * HEARTBEAT_SECONDS)  # a worker without a heartbeat for so long counts as dead


class WorkerState(models.TextChoices):
    IDLE = "idle", "idle"
    LOADING = "loading", "loading a model"
    RUNNING = "running", "running"


class WorkerQuerySet(models.QuerySet["Worker"]):
    def alive(self) -> "WorkerQuerySet":
        return self.filter(heartbeat_at__gt=Now() - STALE)

    def loaded(self) -> set[str]:
        """What live workers have: names of models, the engines' names of adapters, and remote models that run."""
        found = list(self.alive().values_list("model_name", "adapters", "lanes"))
        names = {name for model, adapters, _ in found if model for name in (model, *adapters)}
        running = (lane for _, _, lanes in found for lane in lanes if lane["addresses"] and lane["state"] != "failed")
        return names | {lane["model"] for lane in running}

    def loading(self) -> dict[str, str]:
        """The models that live workers are loading, with what each load does."""
        rows = self.alive().filter(state=WorkerState.LOADING).values_list("activity", flat=True)
        told = (row.removeprefix("Loading ").partition(": ") for row in rows)
        return {name: doing for name, _, doing in told}

    def asleep(self) -> set[str]:
        """Names of models whose engines sleep."""
        return {name for health in self.alive().values_list("health", flat=True) for name in health.get("asleep", ())}


class Worker(models.Model):
    """A worker process. It writes its heartbeat here, and its id is in the leases that it holds."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    cluster = models.CharField(max_length=16)
    hostname = models.CharField(max_length=255)
    pid = models.IntegerField()
    version = models.CharField(max_length=40, blank=True, help_text="Of vbs, that it runs")
    home = models.CharField(max_length=1000, blank=True, help_text="Folder of its engine")
    url = models.CharField(max_length=500, blank=True, help_text="Where other hosts reach its engine")
    started_at = models.DateTimeField(db_default=Now())
    heartbeat_at = models.DateTimeField(db_default=Now())
    state = models.CharField(max_length=16, choices=WorkerState.choices, default=WorkerState.IDLE)
    activity = models.CharField(
        max_length=500, blank=True, help_text="What it is doing, in words that everybody may read"
    )
    work_kind = models.CharField(max_length=20, blank=True, help_text="What kind of work it is at: batch, operation")
    work_id = models.CharField(max_length=40, blank=True, help_text="Of that work, for those who may know of it")
    model_name = models.CharField(max_length=200, blank=True)
    engine_pid = models.IntegerField(null=True, blank=True)
    engine_url = models.CharField(max_length=500, blank=True)
    adapters = models.JSONField(default=list, blank=True, help_text="Those that its engine has, by the engine's names")
    loading_since = models.DateTimeField(null=True, blank=True, help_text="When the start that it waits for began")
    restart_asked_at = models.DateTimeField(null=True, blank=True, help_text="Somebody wants it to end and start anew")
    lanes = models.JSONField(
        default=list, db_default=[], blank=True, help_text="The remote models that it runs at present"
    )
    asked_at = models.DateTimeField(null=True, blank=True, help_text="When its engine got an interactive request last")
    health = models.JSONField(default=dict, blank=True, help_text="Of its GPU: memory, utilisation, temperature, power")

    objects = WorkerQuerySet.as_manager()

    class Meta:
        ordering = ["cluster", "started_at"]

    def __str__(self) -> str:
        return f"{self.cluster}@{self.hostname}:{self.pid}"

    @property
    def alive(self) -> bool:
        return timezone.now() - self.heartbeat_at < STALE

    def is_eldest(self) -> bool:
        """Is it the oldest live worker of its cluster?"""
        older = models.Q(started_at__lt=self.started_at) | models.Q(started_at=self.started_at, pk__lt=self.pk)
        return not Worker.objects.alive().filter(older, cluster=self.cluster).exists()

    def ask_restart(self) -> bool:
        """Have its process end and start again, within a heartbeat. False when it gives no sign of life."""
        return bool(Worker.objects.alive().filter(pk=self.pk).update(restart_asked_at=Now()))

    def restart_asked(self) -> bool:
        """Has somebody asked for a restart since it started?"""
        return Worker.objects.filter(pk=self.pk, restart_asked_at__gte=models.F("started_at")).exists()

    def set(self, **fields: Any) -> None:
        """Change some fields in one statement, which counts as a heartbeat.

        If the row was deleted while this machine was suspended, it is made again with the same id, which is in the
        worker's leases.
        """
        for name, value in fields.items():
            setattr(self, name, value)
        rows = type(self).objects
        if not rows.filter(pk=self.pk).update(heartbeat_at=Now(), **fields) and self.pk is not None:
            self.started_at = self.heartbeat_at = Now()
            self.restart_asked_at = None
            rows.bulk_create([self], ignore_conflicts=True)  # the heartbeat and the main loop may both do this
            self.refresh_from_db(fields=["started_at", "heartbeat_at"])
