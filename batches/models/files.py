"""Files, and uploads, which are files that come in parts. A file's status changes by its methods only."""

from datetime import datetime, timedelta
from pathlib import PurePath
from typing import Any

from django.contrib.auth.models import User
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


class FileStatus(models.TextChoices):
    PENDING = "pending"  # being written, or prepared in the browser: for nobody but who does that, and for an hour
    AVAILABLE = "available"  # its project sees it, until it expires
    DELETED = "deleted"  # nobody sees it; the bytes go when no batch needs them


class FileFormat(models.TextChoices):
    JSONL = "jsonl"  # JSON, one object a line
    CSV = "csv"  # a table, separated by whatever its first rows say
    XLSX = "xlsx"  # a table: a workbook of Excel
    ROWS = "rows"  # a table: a JSON object a line, which are no requests
    OTHER = "other"  # whatever the server does not read itself


BATCH_FILE_DAYS = timedelta(days=30)
PENDING_FOR = timedelta(hours=1)  # since it was last used
UPLOAD_PURPOSES = tuple(purpose.value for purpose in Purpose if purpose is not Purpose.BATCH_OUTPUT)


class FileQuerySet(models.QuerySet["File"]):
    def current(self) -> "FileQuerySet":
        """What has not expired."""
        return self.filter(Q(expires_at=None) | Q(expires_at__gt=timezone.now()))

    def visible(self, project: Project) -> "FileQuerySet":
        """What this project can see: its own, available and not expired."""
        return self.current().filter(project=project, status=FileStatus.AVAILABLE)

    def usable_by(self, user: User) -> "FileQuerySet":
        """What this person may make a batch of in the browser: what they prepare there themselves, and what is
        available. The caller says in which projects."""
        theirs = Q(status=FileStatus.PENDING, created_by=user)
        return self.current().filter(theirs | Q(status=FileStatus.AVAILABLE), purged_at=None)

    def prolong(self) -> None:
        """Those that are pending stay so for another while."""
        self.filter(status=FileStatus.PENDING, purged_at=None).update(expires_at=timezone.now() + PENDING_FOR)


class File(models.Model):
    id = models.CharField(primary_key=True, max_length=40, default=ids.file_id, editable=False)
    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="files")
    filename = models.CharField(max_length=500, help_text="A label; it never becomes a path")
    purpose = models.CharField(max_length=20, choices=Purpose.choices)
    format = models.CharField(max_length=10, choices=FileFormat.choices, help_text="What the bytes are")
    bytes = models.BigIntegerField()
    status = models.CharField(max_length=10, choices=FileStatus.choices)
    created_by = models.ForeignKey(
        User, null=True, blank=True, on_delete=models.SET_NULL, related_name="+", help_text="Who made it in the browser"
    )
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
        constraints = [
            models.CheckConstraint(
                name="file_times_of_status",
                condition=Q(status=FileStatus.PENDING, deleted_at=None, expires_at__isnull=False)
                | Q(status=FileStatus.AVAILABLE, deleted_at=None)
                | Q(status=FileStatus.DELETED, deleted_at__isnull=False),
            )
        ]

    def __str__(self) -> str:
        return f"{self.id} ({self.filename})"

    @property
    def stem(self) -> str:
        """Its name without the ending."""
        return PurePath(self.filename).stem

    @property
    def blob(self) -> str:
        """Where the bytes are in the storage."""
        return f"{self.id[-2:]}/{self.id}"

    @property
    def is_kept(self) -> bool:
        """Whether its project may still read the bytes, unless it has expired."""
        return self.status == FileStatus.AVAILABLE and self.purged_at is None

    def publish(self, expires_at: datetime | None = None, project: Project | None = None) -> "File":
        """Make a pending file available, in another project if one is named. Without a time of its own the input of
        batches expires after 30 days. Raises FileNotFoundError when it was pending for too long and is cleaned up, and
        when it is not pending any more."""
        if expires_at is None and self.purpose == Purpose.BATCH:
            expires_at = timezone.now() + BATCH_FILE_DAYS
        becomes: dict[str, Any] = {
            "status": FileStatus.AVAILABLE,
            "expires_at": expires_at,
            "project": project or self.project,
        }
        if not File.objects.filter(pk=self.pk, status=FileStatus.PENDING, purged_at=None).update(**becomes):
            raise FileNotFoundError(f"{self.pk} was cleaned up before it was taken in, or is taken in already")
        for name, value in becomes.items():
            setattr(self, name, value)
        return self

    def delete_softly(self) -> bool:
        """Nobody sees it any more; the bytes go when nothing needs them. False when somebody else was first."""
        available = File.objects.filter(pk=self.pk, status=FileStatus.AVAILABLE)
        return bool(available.update(status=FileStatus.DELETED, deleted_at=timezone.now()))


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
