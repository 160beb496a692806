"""How fast a batch was answered, and what that took: plots, tokens and cost."""

from decimal import Decimal

from django.conf import settings
from django.utils import timezone

from batches import activity, cost
from batches.activity import Pace
from batches.cost import Share
from batches.models import Batch
from batches.pages.batch import parts
from vbs.kept import Kept
from vbs.pages.charts import plots
from vbs.pages.plain import brief

MARKED = 30  # points of a plot that have a mark each


steps: Kept[list[Pace]] = Kept()


def _lasting(batch: Batch) -> float:
    """For how many seconds the plots stay as they are: the longer it has run, the less another second shows."""
    since = batch.in_progress_at or batch.created_at
    return min(30.0, max(1.0, (timezone.now() - since).total_seconds() / 1000))


def speed(batch: Batch) -> parts.Speed:
    found = steps.get((batch.pk, batch.status), _lasting(batch), lambda: activity.series(batch))
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
    return parts.Speed(plots=tuple(one for one in made if one), ended=batch.is_terminal)


def spent(batch: Batch, shares: list[Share]) -> parts.Spent:
    whole = cost.total(shares)
    return parts.Spent(
        tokens=(
            ("Input", batch.input_tokens),
            ("of it cached", batch.cached_tokens),
            ("Output", batch.output_tokens),
            ("of it reasoning", batch.reasoning_tokens),
        ),
        cost="" if whole is None else cost.money(whole),
        charges=tuple(map(_charge, shares)),
        currency=settings.VBS_CURRENCY,
        gone=any(one.requests is None for one in shares),
    )


def prices(shares: list[Share]) -> parts.Prices:
    return parts.Prices(unpriced=tuple((brief(one.name, 200), one.pk) for one in shares if not one.priced))


def _charge(share: Share) -> parts.Charge:
    return parts.Charge(
        name=brief(share.asked, 200),
        pk=share.pk,
        requests=share.requests,
        input_tokens=share.input_tokens,
        output_tokens=share.output_tokens,
        prices=" / ".join(_plain(price) for price in (share.input_price, share.output_price)) if share.priced else "",
        cost="" if share.cost is None else cost.money(share.cost),
    )


def _plain(price: Decimal | None) -> str:
    return "–" if price is None else f"{price.normalize():f}"
