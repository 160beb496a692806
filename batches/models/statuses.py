"""The states of a batch, and its priorities."""

from django.db import models


class BatchStatus(models.TextChoices):
    VALIDATING = "validating"  # being read, or read and queued (then validated_at is set)
    FAILED = "failed"  # because of a bad line, or a model that cannot be loaded
    IN_PROGRESS = "in_progress"  # has had a turn on the GPU; it may be waiting for the next
    FINALIZING = "finalizing"  # its files are being written; `outcome` is the status that follows
    COMPLETED = "completed"
    EXPIRED = "expired"
    CANCELLING = "cancelling"  # nothing new starts; its files are being written
    CANCELLED = "cancelled"


TERMINAL = (BatchStatus.FAILED, BatchStatus.COMPLETED, BatchStatus.EXPIRED, BatchStatus.CANCELLED)
RUNNABLE = (BatchStatus.VALIDATING, BatchStatus.IN_PROGRESS)
CLOSING = (BatchStatus.FINALIZING, BatchStatus.CANCELLING)
PRIORITIES = range(-100, 101)
