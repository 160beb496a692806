"""Pauses the queue for maintenance: no batch is run then. A running batch stops, and goes on later where it stopped."""

from django.db import transaction
from django.db.models.functions import Now

from batches.models import Pause
from vbs.broker import wake


def current() -> Pause | None:
    """The present pause, or None."""
    return Pause.objects.filter(ended_at=None).first()


def pause(by: str, reason: str = "") -> Pause:
    """Pause the queue. When it is paused already, returns the present pause unchanged."""
    while True:
        # Of two at once, one makes the row. The loop repeats when that pause was ended before it could be read.
        Pause.objects.bulk_create([Pause(asked_by=by[:150], reason=reason[:500])], ignore_conflicts=True)
        if found := current():
            return found


def resume(by: str) -> bool:
    """Let batches run again. False when the queue was not paused."""
    with transaction.atomic():
        ended = Pause.objects.filter(ended_at=None).update(ended_at=Now(), ended_by=by[:150])
        if ended:
            wake("gpu")
    return bool(ended)
