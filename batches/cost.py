"""The cost of a batch, by the present prices of its models. Cached tokens cost the same as others."""

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal

from django.db.models import Count, Sum

from batches.models import Batch, BatchRequest, RequestState
from models_registry.models import Alias, Model
from vbs.timed_cache import Kept

MILLION = 1_000_000
RUNNING_SECONDS, ENDED_SECONDS = 10.0, 600.0  # for which the tokens by model are told again


@dataclass(frozen=True)
class Share:
    """What one model did of a batch. asked: its name in the requests. pk: in the registry, None when it is not there
    any more. requests, input_tokens, output_tokens: None where they cannot be told apart by model any more."""

    asked: str
    name: str
    pk: int | None
    revision: str
    requests: int | None
    input_tokens: int | None
    output_tokens: int | None
    input_price: Decimal | None
    output_price: Decimal | None

    @property
    def priced(self) -> bool:
        return self.input_price is not None or self.output_price is not None

    @property
    def cost(self) -> Decimal | None:
        """The cost; None where a price or a number of tokens is not known."""
        if not self.priced or self.input_tokens is None or self.output_tokens is None:
            return None
        cost = Decimal(0)
        for tokens, price in ((self.input_tokens, self.input_price), (self.output_tokens, self.output_price)):
            if tokens and price is None:
                return None
            cost += tokens * (price or 0) / Decimal(MILLION)
        return cost


def shares(batch: Batch) -> list[Share]:
    """The share of each of its models, in the order in which its file names them."""
    models = _models(batch.pinned_names())
    revisions = {one["asked"]: one.get("revision") or "" for one in batch.resolved}
    counts = _counts(batch)
    found = []
    for index, (asked, name) in enumerate(zip(batch.model_names, batch.pinned_names(), strict=True)):
        model = models.get(name)
        requests, read, written = (None, None, None) if counts is None else counts.get(index, (0, 0, 0))
        found.append(
            Share(
                asked=asked,
                name=model.name if model else name,
                pk=model.pk if model else None,
                revision=revisions.get(asked, ""),
                requests=requests,
                input_tokens=read,
                output_tokens=written,
                input_price=model.input_price if model else None,
                output_price=model.output_price if model else None,
            )
        )
    return found


def total(found: Iterable[Share]) -> Decimal | None:
    """The sum of the costs; None when one of them is not known."""
    costs = [one.cost for one in found]
    known = [cost for cost in costs if cost is not None]
    return sum(known, Decimal(0)) if known and len(known) == len(costs) else None


def _models(names: Iterable[str]) -> dict[str, Model]:
    """By the names that were asked for."""
    wanted = set(names)
    rows = Model.objects.filter(name__in=wanted).only("pk", "name", "input_price", "output_price")
    found = {model.name: model for model in rows}
    if others := wanted - found.keys():
        for alias in Alias.objects.filter(name__in=others).select_related("model"):
            found[alias.name] = alias.model
    return found


Counts = dict[int, tuple[int, int, int]]
by_model: Kept[Counts] = Kept()


def _counts(batch: Batch) -> Counts | None:
    """Requests that have ended, tokens in and tokens out, by the model's place. Of several models the requests' rows
    have to be added up, which is not done for everybody who looks."""
    if len(batch.model_names) == 1:
        return {0: (batch.completed + batch.failed, batch.input_tokens, batch.output_tokens)}
    if batch.purged_at:
        return None
    seconds = ENDED_SECONDS if batch.is_terminal else RUNNING_SECONDS
    return by_model.get((batch.pk, batch.status), seconds, lambda: _added_up(batch))


def _added_up(batch: Batch) -> Counts:
    rows = BatchRequest.objects.filter(batch=batch).exclude(state=RequestState.PENDING).order_by("model_index")
    sums = rows.values("model_index").annotate(
        requests=Count("pk"),
        read=Sum("input_tokens", default=0),
        written=Sum("output_tokens", default=0),
    )
    return {one["model_index"]: (one["requests"], one["read"], one["written"]) for one in sums}
