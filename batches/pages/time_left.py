"""How long a running batch still takes, in the words that every page has for it."""

from django.utils import timezone

from batches.models import Batch
from batches.queue.snapshot import Forecast
from vbs.pages.words import about

NOTHING_ANSWERED = "No estimate yet: no request has been answered."
UNKNOWN = "No estimate yet."


def words(batch: Batch, expected: Forecast, own: bool) -> str:
    """`about 3 min left`, or that nobody knows and why. own: the viewer may know more of the batch than numbers."""
    if expected.completion_at:
        return f"{about((expected.completion_at - timezone.now()).total_seconds())} left"
    if own and expected.why:
        return f"No estimate: {expected.why}"
    return UNKNOWN if batch.answered else NOTHING_ANSWERED
