"""Files, and uploads, which are files that come in parts."""

from django.db import models
from django.db.models import Q
from django.utils import timezone

from vbs.accounts.models import Project
from vbs.openai import ids


class Purpose(models.TextChoices):
    BATCH = "batch"
    BATCH_OUTPUT = "batch_output"
    FINE_TUNE = "fine-tune"
    ASSISTANTS = "assistants"
    USER_DATA = "user_data"
    EVALS = "evals"
    VISION = "vision"


UPLOAD_PURPOSES = tuple(purpose.value for purpose in Purpose if purpose is not Purpose.BATCH_OUTPUT)


class FileQuerySet(models.QuerySet["File"]):
    def visible(self, project: Project) -> "FileQuerySet":
        """What this project can see: its own, neither deleted nor expired."""
        return self.filter(Q(expires_at=None) | Q(expires_at__gt=timezone.now()), project=project, deleted_at=None)


class File(models.Model):
    id = models.CharField(primary_key=True, max_length=40, default=ids.file_id, editable=False)
    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="files")
    filename = models.CharField(max_length=500, help_text="A label; it never becomes a path")
    purpose = models.CharField(max_length=20, choices=Purpose.choices)
    bytes = models.BigIntegerField()
    created_at = models.DateTimeField(default=timezone.now)
    expires_at = models.DateTimeField(null=True, blank=True)
    deleted_at = models.DateTimeField(null=True, blank=True)
    purged_at = models.DateTimeField(null=True, blank=True, help_text="When the bytes were removed")

    objects = FileQuerySet.as_manager()

    class Meta:
        ordering = ["-id"]
        indexes = [
            models.Index(fields=["project", "-id"], name="file_by_project"),
            models.Index(fields=["expires_at"], name="file_unpurged", condition=Q(purged_at=None)),
        ]

    def __str__(self) -> str:
        return f"{self.id} ({self.filename})"

    @property
    def blob(self) -> str:
        """Where the bytes are in the storage."""
        return f"{self.id[-2:]}/{self.id}"

    def delete_softly(self) -> bool:
        """Hide it at once; the bytes go when nothing needs them. False when somebody else was first."""
        return bool(File.objects.filter(pk=self.pk, deleted_at=None).update(deleted_at=timezone.now()))


class UploadStatus(models.TextChoices):
    PENDING = "pending"
    COMPLETED = "completed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


class Upload(models.Model):
    """A file that comes in parts."""

    id = models.CharField(primary_key=True, max_length=40, default=ids.upload_id, editable=False)
    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="uploads")
    filename = models.CharField(max_length=500)
    purpose = models.CharField(max_length=20, choices=Purpose.choices)
    mime_type = models.CharField(max_length=200)
    bytes = models.BigIntegerField()
    file_seconds = models.PositiveIntegerField(null=True, help_text="expires_after of the file to be")
    status = models.CharField(max_length=10, choices=UploadStatus.choices, default=UploadStatus.PENDING)
    created_at = models.DateTimeField(default=timezone.now)
    expires_at = models.DateTimeField(db_index=True)
    file = models.OneToOneField(File, null=True, on_delete=models.SET_NULL)

    class Meta:
        ordering = ["-id"]

    def __str__(self) -> str:
        return f"{self.id} ({self.filename})"


class UploadPart(models.Model):
    id = models.CharField(primary_key=True, max_length=40, default=ids.part_id, editable=False)
    upload = models.ForeignKey(Upload, on_delete=models.CASCADE, related_name="parts")
    bytes = models.BigIntegerField()
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ["id"]

    def __str__(self) -> str:
        return self.id

    @property
    def blob(self) -> str:
        return f"parts/{self.upload_id}/{self.id}"
