"""Why requests of a batch failed: its failures by cause, with how many there are of each."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from django.db.models import Count, Min
from django.db.models.functions import Left

from batches.models import Batch, BatchRequest, RequestState
from batches.pages.batch.measured import lasting
from batches.pages.request.chosen import TooSlow, limited
from vbs.pages.parts import Part
from vbs.timed_cache import Kept

LOOKED_AT = 10_000  # failed requests, the first of the batch
MESSAGE = 300  # characters by which messages are told apart
KINDS = 500  # different messages that are read
SHOWN = 5  # causes
SECONDS = 2  # that looking may take
_DIFFERS = re.compile(r"\b[0-9a-f]{8,}\b|\b[0-9a-f-]{36}\b|\d+(?:[.,]\d+)*")

kept: Kept[tuple["Cause", ...]] = Kept()


@dataclass(frozen=True)
class Cause:
    """message: that of one of them. alike: all have this very message. line: the first one."""

    code: str
    message: str
    count: int
    line: int
    alike: bool = True


def of(batch: Batch) -> Part:
    failed = batch.counts.failures
    causes = kept.get((batch.pk, failed, batch.is_terminal), lasting(batch), lambda: _causes(batch)) if failed else ()
    told = sum(cause.count for cause in causes)
    context = {
        "batch": batch,
        "failed": failed,
        "causes": causes[:SHOWN],
        "more": len(causes) - SHOWN,
        "first": told if told < failed and not batch.purged_at else 0,
    }
    return Part("failures", "batches/detail/_failures.html", context)


def _causes(batch: Batch) -> tuple[Cause, ...]:
    """The most frequent first. Numbers and ids, which differ between messages, do not make them two causes."""
    if batch.purged_at:
        return ()
    found: dict[tuple[str, str], Cause] = {}
    try:
        with limited(SECONDS):
            read = list(_messages(batch))
    except TooSlow:
        return ()
    for one in read:
        shape = (one.code, _DIFFERS.sub("…", one.message))
        known = found.get(shape)
        if known is None:
            found[shape] = one
        else:
            found[shape] = Cause(known.code, known.message, known.count + one.count, min(known.line, one.line), False)
    return tuple(sorted(found.values(), key=lambda cause: (-cause.count, cause.line)))


def _messages(batch: Batch) -> Iterator[Cause]:
    failed = BatchRequest.objects.filter(batch=batch, state=RequestState.FAILED).order_by("line")
    first = failed.values("pk")[:LOOKED_AT]
    alike = BatchRequest.objects.filter(pk__in=first).values("error_code", said=Left("error_message", MESSAGE))
    counted = alike.annotate(count=Count("pk"), first=Min("line")).order_by("-count", "first")
    for row in counted[:KINDS]:
        yield Cause(row["error_code"] or "", row["said"] or "", row["count"], row["first"])
