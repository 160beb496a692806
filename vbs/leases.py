"""Leases: one worker at a time has the right to work on a row.

A worker claims a row, renews its lease while it works on the row, and releases it in the end. When a lease has run out,
any worker may take the row over. The worker that lost its lease notices this when it renews it, and stops. A row may
also be postponed: then nobody can claim it for a while. All times are the database's, because the clocks of machines
differ and jump.
"""

import uuid
from datetime import timedelta
from typing import Any, Self, TypeVar

from django.conf import settings
from django.db import models, transaction
from django.db.models import ExpressionWrapper, F, Q
from django.db.models.functions import Now

Row = TypeVar("Row", bound=models.Model, covariant=True)

HELD = Q(leased_by__isnull=False, leased_until__gte=Now())  # a worker has it
FREE = Q(leased_until=None) | Q(leased_until__lt=Now())  # a worker may claim it
UNHELD = Q(leased_by=None) | Q(leased_until__lt=Now())  # no worker has it, but it may be postponed
RELEASED: dict[str, Any] = {"leased_by": None, "leased_until": None}


def lease(seconds: float | None = None) -> models.Expression:
    """The time at which a lease that begins now runs out; VBS_LEASE_SECONDS from now by default."""
    return Now() + timedelta(seconds=settings.VBS_LEASE_SECONDS if seconds is None else seconds)


class LeasedQuerySet(models.QuerySet[Row]):
    def free(self) -> Self:
        """The rows that a worker may claim."""
        return self.filter(FREE)

    def held(self) -> Self:
        """The rows that a worker has."""
        return self.filter(HELD)

    def with_holding(self) -> Self:
        """The same rows; each knows in `is_held` whether a worker had it when it was read."""
        return self.annotate(is_held=ExpressionWrapper(HELD, models.BooleanField()))

    def of(self, worker: uuid.UUID) -> Self:
        """The rows whose lease this worker claimed last, even if it has run out."""
        return self.filter(leased_by=worker)

    def claim(self, worker: uuid.UUID, **changes: Any) -> Row | None:
        """Give this worker the lease of the first of these rows, and make the changes to that row. The caller has
        filtered the rows to those that may be claimed.

        Returns the row as it was before, with the worker that lost its lease, if there was one. Returns None when no
        row is left: another worker was faster, or the work has ended.
        """
        with transaction.atomic():
            before = self.select_for_update(no_key=True, of=("self",)).first()
            if before is not None:
                taken = {"leased_by": worker, "leased_until": lease(), "attempts": F("attempts") + 1}
                self.model._base_manager.filter(pk=before.pk).update(**taken, **changes)
        return before

    def renew(self, **changes: Any) -> bool:
        """Make the leases of these rows last longer, and make the changes. False when no row is left."""
        return bool(self.update(leased_until=lease(), **changes))

    def release(self, **changes: Any) -> int:
        """Let any worker claim these rows, and make the changes. Returns how many rows there were."""
        return self.update(**RELEASED, **changes)

    def postpone(self, seconds: float) -> int:
        """Release these rows, but let nobody claim them for so many seconds."""
        return self.update(leased_by=None, leased_until=lease(seconds))


class Leased(models.Model):
    """A row that one worker at a time can lease."""

    leased_by = models.UUIDField(null=True)
    leased_until = models.DateTimeField(null=True)
    attempts = models.PositiveIntegerField(default=0, help_text="How often a worker took it up")
    is_held: bool | None = None  # known only when the row was read `with_holding`

    class Meta:
        abstract = True
