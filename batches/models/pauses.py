"""Pauses of the queue."""

from django.db import models
from django.db.models import Q
from django.utils import timezone


class Pause(models.Model):
    """A time in which no batch is run, for maintenance. A pause without an end lasts now."""

    began_at = models.DateTimeField(default=timezone.now)
    ended_at = models.DateTimeField(null=True, blank=True)
    asked_by = models.CharField(max_length=150, blank=True)
    ended_by = models.CharField(max_length=150, blank=True)
    reason = models.CharField(max_length=500, blank=True)

    class Meta:
        ordering = ["-began_at"]
        constraints = [
            models.UniqueConstraint(
                models.ExpressionWrapper(Q(ended_at=None), output_field=models.BooleanField()),
                name="pause_once",
                condition=Q(ended_at=None),
            )
        ]

    def __str__(self) -> str:
        return f"paused at {self.began_at:%Y-%m-%d %H:%M}" + ("" if self.ended_at else ", still")
