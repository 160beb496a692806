"""Indexes requests after they have ended, a few at a time, so that a batch that runs is not slowed by it.

The end of a batch wakes this task, and the upkeep does while anything is left. A request is indexed once, whoever does
it: an io worker that dies leaves nothing half done, and two at the same time do no harm.
"""

import logging
import time
from collections.abc import Iterator, Sequence

from django.db import connection, transaction
from django.db.models import Exists, F, OuterRef, Q, QuerySet
from django.db.models.functions import Left

from batches.files import blobs, lines
from batches.files.lines import Place
from batches.models import TERMINAL, Batch, BatchRequest, RequestState, SearchedRequest, SearchIndex
from batches.search import texts, words
from vbs.broker import wake
from vbs.database import advisory
from vbs.database.outages import DATABASE_ERRORS

log = logging.getLogger(__name__)

SECONDS = 5.0  # of work in one task; then others have their turn
BUSY_SECONDS = 2.0  # of work in one task, once a minute, while an engine answers requests
AT_ONCE = 500  # requests
BYTES_AT_ONCE = 2**24  # of their lines and answers, or one request
FROZEN_SECONDS = 120  # without a statement, after which another worker goes on
PLACE = ("line", "offset", "length")
TABLE = SearchedRequest._meta.db_table


def task() -> None:
    """Index what has ended, the newest batches first. While one worker does it, another does nothing."""
    if not advisory.try_lock("search", 3, FROZEN_SECONDS, session=True):
        return
    try:
        is_done = _index_for(BUSY_SECONDS if _is_busy() else SECONDS)
    finally:
        advisory.unlock("search", 3)
    if not is_done and not _is_busy():
        wake("index")


def sweep() -> None:
    if _unfinished().exists():
        wake("index")


def _is_busy() -> bool:
    return Batch.objects.running().exists()


def _index_for(seconds: float) -> bool:
    """Whether nothing is left that can be done now. Each batch is looked at once: of one that runs, or with which
    something is wrong, the next task does the rest."""
    end = time.monotonic() + seconds
    seen: list[int] = []
    while index := _unfinished().exclude(pk__in=seen).first():
        seen.append(index.pk)
        line: int | None = 0
        try:
            while line is not None:
                if time.monotonic() > end:
                    return False
                line = step(index, line)
        except DATABASE_ERRORS:
            raise
        except blobs.troubles() as error:
            log.warning("The requests of %s are not indexed now: %r", index.batch_id, error)
        except Exception:  # it must not hold up other batches
            log.exception("The requests of %s cannot be indexed", index.batch_id)
    return True


def _unfinished() -> QuerySet[SearchIndex]:
    """Indexes of batches with requests that have ended and are not indexed, or with nothing left."""
    ended = F("batch__completed") + F("batch__failed")
    rows = SearchIndex.objects.filter(Q(batch__status__in=TERMINAL) | Q(requests__lt=ended), is_complete=False)
    return rows.select_related("batch__input_file").order_by("-batch_id")


def step(index: SearchIndex, after: int) -> int | None:
    """Index the next requests of a batch after a line. Returns the last one's line; None when there are none, and then
    an ended batch is done. Raises the storage's errors."""
    batch = index.batch
    places = [] if batch.hidden or batch.purged_at else _places(index, after)
    if not places:
        if batch.status in TERMINAL:
            SearchIndex.objects.filter(pk=index.pk).update(is_complete=True)
        return None
    vectors = list(_vectors(index, places))
    with transaction.atomic():
        if SearchIndex.objects.select_for_update().filter(pk=index.pk).first() is None:  # purged meanwhile
            return None
        with connection.cursor() as cursor:
            cursor.execute(
                f"INSERT INTO {TABLE} (index_id, line, words) "  # noqa: S608  (the table's name only)
                "SELECT %s, line, words::tsvector FROM unnest(%s::int[], %s::text[]) AS made (line, words) "
                "ON CONFLICT DO NOTHING",
                [index.pk, [line for line, _ in vectors], [vector for _, vector in vectors]],
            )
            added = cursor.rowcount
        SearchIndex.objects.filter(pk=index.pk).update(requests=F("requests") + added)
    return places[-1][0]


def _places(index: SearchIndex, after: int) -> list[Place]:
    """The places of the next requests that have ended and are not indexed."""
    indexed = SearchedRequest.objects.filter(index=index.pk, line=OuterRef("line"))
    rows = BatchRequest.objects.filter(~Exists(indexed), batch=index.batch_id, line__gt=after).order_by("line")
    if index.batch.status not in TERMINAL:  # those of an ended batch that are pending will not be run
        rows = rows.exclude(state=RequestState.PENDING)
    chosen: list[Place] = []
    left = BYTES_AT_ONCE
    for line, offset, length, size in rows.with_size().values_list(*PLACE, "size")[:AT_ONCE]:
        left -= min(length, texts.WHOLE) + min(size or 0, texts.WHOLE)
        if chosen and left < 0:
            break
        chosen.append((line, offset, length))
    return chosen


def _vectors(index: SearchIndex, places: Sequence[Place]) -> Iterator[tuple[int, str]]:
    """Each line with its words."""
    prompts = _prompts(index.batch, places)
    rows = BatchRequest.objects.filter(batch=index.batch_id, line__in=[line for line, *_ in places])
    rows = rows.with_answer(texts.WHOLE, texts.BEGINNING).annotate(why=Left("error_message", words.MOST_CHARACTERS))
    for line, state, size, read, why in rows.values_list("line", "state", "size", "read", "why"):
        said = texts.answer(read, size <= texts.WHOLE) if read else []
        if state == RequestState.FAILED and why:
            said.append(why)
        yield line, words.vector(index.pk, [*prompts.get(line, ()), *said])


def _prompts(batch: Batch, places: Sequence[Place]) -> dict[int, list[str]]:
    """Their texts by line; none where the input file was deleted. Raises the storage's errors."""
    file = batch.input_file
    if file is None or not file.is_kept:
        return {}
    lengths = {line: length for line, _, length in places}
    try:
        return {
            line: texts.prompt(text, lengths[line] <= texts.WHOLE)
            for line, text in lines.read(file.blob, places, texts.WHOLE)
        }
    except blobs.troubles():
        if blobs.is_gone(file.blob):
            return {}
        raise
