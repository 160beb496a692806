"""Maintenance: while a pause lasts no batch is run. The one that runs stops, and goes on afterwards where it was."""

from django.db import transaction
from django.db.models.functions import Now

from batches.models import Pause
from vbs.broker import wake


def current() -> Pause | None:
    """The pause that holds the queue."""
    return Pause.objects.filter(ended_at=None).first()


def pause(by: str, reason: str = "") -> Pause:
    """Hold the queue. When it is held already, the pause that holds it, as it was asked for."""
    while True:
        # Of two at once one makes the row. Again when that was ended before the other has read it.
        Pause.objects.bulk_create([Pause(asked_by=by[:150], reason=reason[:500])], ignore_conflicts=True)
        if found := current():
            return found


def resume(by: str) -> bool:
    """Let batches run again. False when they could already."""
    with transaction.atomic():
        ended = Pause.objects.filter(ended_at=None).update(ended_at=Now(), ended_by=by[:150])
        if ended:
            wake("gpu")
    return bool(ended)
