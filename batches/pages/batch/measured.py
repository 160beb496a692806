"""How fast a batch was answered, and what it used: charts, tokens and cost."""

from django.conf import settings
from django.utils import timezone

from batches import activity, cost
from batches.activity import Throughput
from batches.cost import Share
from batches.models import Batch
from vbs.pages.charts import series
from vbs.pages.parts import Part
from vbs.timed_cache import Kept

steps: Kept[list[Throughput]] = Kept()


def lasting(batch: Batch) -> float:
    """For how many seconds the charts may stay unchanged: the longer the batch has run, the less one more second
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
        first = next(iter(kinds))
        names = {
            kind: name for kind, name in kinds.items() if kind == first or any(getattr(one, name) for one in found)
        }
        rows = [series.Row(one.at, tuple(getattr(one, name) for name in names.values())) for one in found]
        made.append(series.lines(title, unit, list(names), rows))
    context = {"charts": [one for one in made if one]}
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
