"""Leases: of any number of workers one has a row, until it releases it or is silent for too long.

A worker claims a row, renews its lease while it works on it, and releases it in the end. A lease that has run out may
be claimed by anybody, which is a takeover; whoever has lost its lease finds that out when it renews it, and stops. A
row may also be postponed: then nobody can claim it for a while. All times are the database's, because the clocks of
machines differ and jump.
"""

import uuid
from datetime import timedelta
from typing import Any, Self, TypeVar

from django.conf import settings
from django.db import models, transaction
from django.db.models import F, Q
from django.db.models.functions import Now

Row = TypeVar("Row", bound=models.Model, covariant=True)

FREE = Q(leased_until=None) | Q(leased_until__lt=Now())  # may be claimed
UNHELD = Q(leased_by=None) | Q(leased_until__lt=Now())  # no worker has it, though it may have been postponed
RELEASED: dict[str, Any] = {"leased_by": None, "leased_until": None}


def lease(seconds: float | None = None) -> models.Expression:
    """When a lease that begins now runs out; after VBS_LEASE_SECONDS unless said otherwise."""
    return Now() + timedelta(seconds=settings.VBS_LEASE_SECONDS if seconds is None else seconds)


class LeasedQuerySet(models.QuerySet[Row]):
    def free(self) -> Self:
        """Those that may be claimed."""
        return self.filter(FREE)

    def held(self) -> Self:
        """Those that a worker has."""
        return self.filter(leased_by__isnull=False, leased_until__gte=Now())

    def of(self, worker: uuid.UUID) -> Self:
        """Those whose lease this worker was the last to claim."""
        return self.filter(leased_by=worker)

    def claim(self, worker: uuid.UUID, **changes: Any) -> Row | None:
        """Give this worker the lease of the first of these, which are some that may be claimed, and change that row.

        Returns the row as it was before: with the worker that has fallen silent, if there was one. None when these are
        none any more: somebody else was faster, or it has ended.
        """
        with transaction.atomic():
            before = self.select_for_update(no_key=True, of=("self",)).first()
            if before is not None:
                taken = {"leased_by": worker, "leased_until": lease(), "attempts": F("attempts") + 1}
                self.model._base_manager.filter(pk=before.pk).update(**taken, **changes)
        return before

    def renew(self, **changes: Any) -> bool:
        """Have the leases of these last longer, and change them. False when none is left."""
        return bool(self.update(leased_until=lease(), **changes))

    def release(self, **changes: Any) -> int:
        """Let anybody claim these, and change them. How many there were."""
        return self.update(**RELEASED, **changes)

    def postpone(self, seconds: float) -> int:
        """Release these, but let nobody claim them for so long."""
        return self.update(leased_by=None, leased_until=lease(seconds))


class Leased(models.Model):
    """A row that one worker at a time has."""

    leased_by = models.UUIDField(null=True)
    leased_until = models.DateTimeField(null=True)
    attempts = models.PositiveIntegerField(default=0, help_text="How often a worker took it up")

    class Meta:
        abstract = True
