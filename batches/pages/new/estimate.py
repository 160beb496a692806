"""What a batch will take that is not made yet: tokens, time and cost, as far as measurements and prices are known."""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import chain
from typing import Any

from django.conf import settings

from batches.cost import MILLION
from batches.files import blobs
from batches.files.kinds import BOM
from batches.intake import submit
from batches.intake.sample import HEAD, Sample, body_of
from batches.models import File
from batches.pages.new import tokens
from batches.queue import forecast
from batches.queue.forecast import Forecast
from models_registry.catalog import aliases
from models_registry.speed import speeds
from vbs.accounts.models import Project
from vbs.configuration import runtime
from vbs.openai.lengths import LENGTHS, is_unlimited


@dataclass(frozen=True)
class Estimate:
    """input_tokens: worked out by `tokens.rate`; input_source: a sentence that says of what. output_tokens: as many as
    this model wrote in measured requests; with `at_most` the limit of the requests, because nothing was measured; None
    where there is no limit either. cost: None without a price, or without tokens."""

    requests: int
    input_tokens: int
    input_source: str
    output_tokens: int | None
    at_most: bool
    forecast: Forecast
    cost: Decimal | None
    currency: str


def of(project: Project, options: dict[str, Any], bodies: Sequence[dict[str, Any]], requests: int) -> Estimate | None:
    """bodies: of the first requests; all others are taken to be like these. options: as of `submit.draft`. None without
    a request."""
    if not bodies or not requests:
        return None
    endpoint, name = options["endpoint"], bodies[0].get("model") or options.get("default_model") or ""
    model = aliases.resolve(name) if isinstance(name, str) else None
    times = requests / len(bodies)
    texts = [list(tokens.texts_of(body)) for body in bodies]
    rate = tokens.rate(project, model, endpoint, list(chain.from_iterable(texts)))
    read = round(times * sum(map(rate.tokens, texts)))
    limit = runtime.value("VBS_DEFAULT_MAX_TOKENS") or None
    limits = [_limit(endpoint, body) or limit for body in bodies]
    measured = speeds.of(model).output_tokens if model else None
    written: float | None = 0
    at_most = False
    if endpoint in LENGTHS:
        written, at_most = _written(limits, measured)
    unlimited = sum(is_unlimited(endpoint, body) for body in bodies)
    seen = Sample(name, requests, unlimited=round(times * unlimited))
    draft = submit.draft(project, "", **options)
    total = None if written is None else round(times * written)
    cost = None
    if model and (model.input_price is not None or model.output_price is not None) and total is not None:
        cost = (read * (model.input_price or 0) + total * (model.output_price or 0)) / Decimal(MILLION)
    expected = forecast.of_sample(draft, seen)
    return Estimate(requests, read, rate.source, total, at_most, expected, cost, settings.VBS_CURRENCY)


def _written(limits: Sequence[int | None], measured: float | None) -> tuple[float | None, bool]:
    """The tokens that are written for these requests, and whether that is only what they allow."""
    if measured:
        return sum(min(measured, limit) if limit else measured for limit in limits), False
    known = [limit for limit in limits if limit]
    return (sum(known), True) if len(known) == len(limits) else (None, False)


def _limit(endpoint: str, body: dict[str, Any]) -> int | None:
    given = [body.get(name) for name in LENGTHS.get(endpoint, ((), False))[0]]
    return min((one for one in given if isinstance(one, int)), default=None)


def first_bodies(file: File) -> list[dict[str, Any]]:
    """The bodies of the first requests of a batch file, as far as they are whole. Raises OSError or the storage's
    exceptions."""
    head = blobs.part(file.blob, 0, HEAD)
    whole = head if len(head) >= file.bytes else head[: head.rfind(b"\n") + 1]
    return [body for line in whole.removeprefix(BOM).split(b"\n") if (body := body_of(line)) is not None]
