"""How fast a batch was answered, and what it used: plots, tokens and cost."""

from django.conf import settings
from django.utils import timezone

from batches import activity, cost
from batches.activity import Throughput
from batches.cost import Share
from batches.models import Batch
from vbs.pages.charts import plots
from vbs.pages.parts import Part
from vbs.timed_cache import Kept

MARKED = 30  # points of a plot that have a mark each


steps: Kept[list[Throughput]] = Kept()


def lasting(batch: Batch) -> float:
    """For how many seconds the plots may stay unchanged: the longer the batch has run, the less one more second
    changes."""
    since = batch.in_progress_at or batch.created_at
    return min(30.0, max(1.0, (timezone.now() - since).total_seconds() / 1000))


def speed(batch: Batch) -> Part:
    found = steps.get((batch.pk, batch.status), lasting(batch), lambda: activity.series(batch))
    drawn = (
        ("Requests per second", "requests/s", {"completed": "requests", "failed": "failures"}),
        ("Tokens per second", "tokens/s", {"output": "output_tokens", "input": "input_tokens"}),
    )
    made = []
    for title, unit, kinds in drawn:
        points = [
            plots.Point(one.at, getattr(one, name), kind)
            for kind, name in kinds.items()
            for one in found
            if kind in ("completed", "output") or any(getattr(each, name) for each in found)
        ]
        made.append(plots.plot(title, unit, points, marked=len(found) <= MARKED))
    context = {"plots": [one for one in made if one], "ended": batch.is_terminal}
    return Part("speed", "batches/detail/_speed.html", context)


def spent(batch: Batch, shares: list[Share]) -> Part:
    context = {
        "batch": batch,
        "shares": shares,
        "cost": cost.total(shares),
        "currency": settings.VBS_CURRENCY,
        "gone": any(one.requests is None for one in shares),
    }
    return Part("spent", "batches/detail/_spent.html", context)
