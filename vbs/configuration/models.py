"""The settings that were changed in the browser, and the audit log."""

from django.conf import settings
from django.db import models
from django.utils import timezone


class Override(models.Model):
    """The value of a setting that replaces the environment's until it is reset."""

    name = models.CharField(max_length=60, primary_key=True)
    value = models.JSONField()
    changed_at = models.DateTimeField(default=timezone.now)
    changed_by = models.CharField(max_length=150)

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return f"{self.name} = {self.value!r}"


class AuditEntry(models.Model):
    """One action of somebody. It stays unchanged when the account or the object is gone."""

    at = models.DateTimeField(default=timezone.now)
    user = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL, related_name="+")
    username = models.CharField(max_length=150)
    action = models.CharField(max_length=60, help_text="What was done, e.g. batch.cancel")
    target = models.CharField(max_length=200, blank=True, help_text="To what: an id or a name")
    detail = models.TextField(blank=True)
    project = models.ForeignKey("accounts.Project", null=True, on_delete=models.SET_NULL, related_name="+")

    class Meta:
        ordering = ["-at", "-id"]
        indexes = [
            models.Index(fields=["at", "id"], name="audit_when"),
            models.Index(fields=["username", "at", "id"], name="audit_who"),
            models.Index(
                fields=["action", "at"], name="audit_what", opclasses=["varchar_pattern_ops", "timestamptz_ops"]
            ),
            models.Index(fields=["target"], name="audit_object", opclasses=["varchar_pattern_ops"]),
        ]
        verbose_name_plural = "audit entries"

    def __str__(self) -> str:
        return f"{self.at:%Y-%m-%d %H:%M:%S} {self.username} {self.action} {self.target}"
