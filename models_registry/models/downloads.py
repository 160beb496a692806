"""Downloads of models' files, and the access tokens of the hub."""

from django.db import models
from django.db.models.functions import Now

from models_registry.models.registered import Model
from vbs.leases import Leased, LeasedQuerySet


class HubToken(models.Model):
    """An access token of the hub. `secret` is encrypted with the server's secret key (models_registry.hub.tokens)."""

    name = models.CharField(max_length=100, unique=True)
    secret = models.TextField(editable=False)
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name


class DownloadState(models.TextChoices):
    QUEUED = "queued", "queued"
    RUNNING = "running", "running"
    PAUSED = "paused", "paused"
    CANCELLED = "cancelled", "cancelled"
    FAILED = "failed", "failed"
    DONE = "done", "done"


OPEN_DOWNLOADS = (DownloadState.QUEUED, DownloadState.RUNNING, DownloadState.PAUSED)


class Download(Leased):
    """The download of a model's files. Files on the disk are found again, so it may stop at any instant."""

    model = models.OneToOneField(Model, on_delete=models.CASCADE, related_name="download")
    state = models.CharField(max_length=10, choices=DownloadState.choices, default=DownloadState.QUEUED)
    reason = models.TextField(blank=True, help_text="Why it failed, and what to do")
    commit = models.CharField(max_length=64, blank=True)
    files = models.JSONField(default=list, help_text="path, size and sha256 (or null) of each")
    bytes_total = models.BigIntegerField(default=0)
    bytes_done = models.BigIntegerField(default=0)
    bytes_per_second = models.FloatField(null=True)
    created_at = models.DateTimeField(db_default=Now())
    started_at = models.DateTimeField(null=True)
    finished_at = models.DateTimeField(null=True)

    objects = LeasedQuerySet.as_manager()

    class Meta:
        ordering = ["created_at"]
        indexes = [
            models.Index(fields=["created_at"], name="download_open", condition=models.Q(state__in=OPEN_DOWNLOADS))
        ]

    def __str__(self) -> str:
        return f"{self.model}: {self.state}"
