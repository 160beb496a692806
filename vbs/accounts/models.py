"""Projects, their API keys, and the kept answers of creations."""

import hashlib
import secrets
from datetime import datetime, timedelta

from django.conf import settings
from django.db import models, transaction
from django.db.models.functions import Now
from django.utils import timezone

from vbs.database.written import Given, Written

PREFIX = "sk-vbs-"
DEFAULT_PROJECT = "default"


class Project(models.Model):
    """Every file and batch belongs to a project, and is visible to that project only."""

    name = models.CharField(max_length=100, unique=True)
    created_at = models.DateTimeField(db_default=Now())
    members = models.ManyToManyField(
        settings.AUTH_USER_MODEL, blank=True, related_name="projects", help_text="Who sees it in the browser"
    )

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name

    def rename(self, name: str) -> bool:
        """Returns False when that is its name already. Raises IntegrityError when another project has the name."""
        if name == self.name:
            return False
        self.name = name
        self.save(update_fields=["name"])
        return True


def digest(secret: str) -> str:
    """SHA-256 is enough here, and fast: a key has 256 random bits, so nobody can guess it."""
    return hashlib.sha256(secret.encode()).hexdigest()


class ApiKeyQuerySet(models.QuerySet["ApiKey"]):
    def usable(self) -> "ApiKeyQuerySet":
        return self.filter(models.Q(expires_at=None) | models.Q(expires_at__gt=Now()), revoked_at=None)

    def issue(
        self, project: Project, name: str, expires_at: datetime | None = None, operator: bool = False
    ) -> tuple["ApiKey", str]:
        """Make a key. Returns its secret, which is not kept. operator: the key may also change the registry."""
        secret = PREFIX + secrets.token_urlsafe(32)
        key = self.create(
            project=project,
            name=name,
            prefix=secret[: len(PREFIX) + 6],
            digest=digest(secret),
            expires_at=expires_at,
            operator=operator,
        )
        return key, secret

    def authenticate(self, secret: str) -> "ApiKey | None":
        """The usable key with this secret, or None. Writes down the time of its use, at most once a minute."""
        key = _BY_DIGEST.first(digest=digest(secret))
        if key:
            now = timezone.now()
            minute_ago = now - timedelta(minutes=1)
            if key.last_used_at is None or key.last_used_at < minute_ago:
                free = ApiKey.objects.select_for_update(skip_locked=True, no_key=True).filter(pk=key.pk)
                with transaction.atomic():  # a change of the key at the same time does not make requests wait
                    self.filter(pk__in=free.values("pk")).update(last_used_at=now)
        return key


class ApiKey(models.Model):
    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="keys")
    name = models.CharField(max_length=100)
    prefix = models.CharField(max_length=20, editable=False, help_text="The beginning of the key, to tell keys apart")
    digest = models.CharField(max_length=64, unique=True, editable=False)
    created_at = models.DateTimeField(db_default=Now())
    expires_at = models.DateTimeField(null=True, blank=True)
    last_used_at = models.DateTimeField(null=True, blank=True, editable=False)
    revoked_at = models.DateTimeField(null=True, blank=True)
    operator = models.BooleanField(default=False, help_text="May also change the registry of models")

    objects = ApiKeyQuerySet.as_manager()

    class Meta:
        ordering = ["-created_at"]
        verbose_name = "API key"

    def __str__(self) -> str:
        return f"{self.name} ({self.prefix}…)"

    def revoke(self) -> bool:
        """Returns False when it was revoked before; the time of that stays."""
        now = timezone.now()
        done = ApiKey.objects.filter(pk=self.pk, revoked_at=None).update(revoked_at=now)
        if done:
            self.revoked_at = now
        return bool(done)

    def change(self, name: str, expires_at: datetime | None) -> str:
        """Change its name and the time until which it works. Returns in words what changed, or an empty text."""
        words = []
        if name != self.name:
            words.append(f"renamed from “{self.name}”")
        if expires_at != self.expires_at:
            words.append(f"works until {expires_at:%Y-%m-%d %H:%M} UTC" if expires_at else "works without an end")
        self.name, self.expires_at = name, expires_at
        if words:
            self.save(update_fields=["name", "expires_at"])
        return ", ".join(words)


_BY_DIGEST = Written(lambda: ApiKey.objects.usable().select_related("project").filter(digest=Given("digest")))


class KeptAnswer(models.Model):
    """The answer to a creation that was sent with an `Idempotency-Key` (vbs/openai/idempotency.py), or what a form has
    made (vbs/pages/once.py)."""

    id = models.CharField(primary_key=True, max_length=64, help_text="Digest of the project, the route and the key")
    project = models.ForeignKey(
        Project, null=True, on_delete=models.CASCADE, related_name="+", help_text="None for a form that has none"
    )
    fingerprint = models.CharField(max_length=64, help_text="Digest of the body")
    status = models.PositiveSmallIntegerField(null=True, help_text="None while its transaction lasts")
    body = models.TextField(blank=True, help_text="JSON")
    created_at = models.DateTimeField(db_default=Now(), db_index=True)

    KEPT = timedelta(hours=24)

    def __str__(self) -> str:
        return self.id
