"""What interactive requests took, read from the rows that the ledger writes."""

from datetime import timedelta

from django.db.models import Sum
from django.utils import timezone

from models_registry.models import InteractiveUsage, Model
from vbs.configuration import runtime
from vbs.pages.viewer import Viewer

DAY = timedelta(hours=24)
SUMS = ("requests", "failed", "input_tokens", "output_tokens")


def of_last_day(model: Model, viewer: Viewer) -> dict[str, int] | None:
    """The sums of the last 24 hours of the viewer's projects; None where nobody asked."""
    rows = viewer.own(InteractiveUsage.objects.filter(model=model.name, hour__gt=timezone.now() - DAY))
    found = rows.aggregate(**{name: Sum(name, default=0) for name in SUMS})
    return found if found["requests"] else None


def of_last_day_by_model() -> dict[str, dict[str, int]]:
    """The sums of the last 24 hours of all projects."""
    rows = InteractiveUsage.objects.filter(hour__gt=timezone.now() - DAY).order_by().values("model")
    found = rows.annotate(**{name: Sum(name) for name in SUMS}).values_list("model", *SUMS)
    return {model: dict(zip(SUMS, sums, strict=True)) for model, *sums in found}


def purge() -> None:
    """Delete what is older than requests are kept."""
    old = timezone.now() - timedelta(days=runtime.value("VBS_RETENTION_DAYS"))
    InteractiveUsage.objects.filter(hour__lt=old).delete()
