"""Which requests of a batch somebody wants to see, and which lines these are.

Nothing is counted, because the batch has the counts of its requests. The index on (batch, line) finds a page from its
first line, so the last page costs what the first one costs.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from urllib.parse import urlencode

import psycopg
from django.db import OperationalError, connection, transaction

from batches.models import Batch, BatchRequest, RequestState, SearchIndex
from batches.search import finding
from batches.search.words import MOST_QUERY, Term, terms
from vbs.pages.plain import brief

MOST_SECONDS = 5  # that looking for requests may take
MOST_CUSTOM_ID = 512  # characters
STATES = {state.name.lower(): state for state in RequestState}


class TooSlow(Exception):
    """The search took too long and was ended."""


@contextmanager
def limited(seconds: int = MOST_SECONDS) -> Iterator[None]:
    """Ends a statement in the block that takes longer. Raises TooSlow."""
    try:
        with transaction.atomic():
            with connection.cursor() as cursor:
                cursor.execute("SELECT set_config('statement_timeout', %s, true)", [f"{seconds}s"])
            yield
    except OperationalError as error:
        if isinstance(error.__cause__, psycopg.errors.QueryCanceled):
            raise TooSlow from error
        raise


@dataclass(frozen=True)
class Chosen:
    """state: one of STATES. custom_id: a part of it. words: in the prompt or the answer, as `terms` reads them. Each
    may be empty."""

    state: str = ""
    custom_id: str = ""
    words: str = ""

    @classmethod
    def of(cls, query: Mapping[str, str]) -> "Chosen":
        """What an address asks for. A value that cannot be understood is ignored."""
        state = query.get("state", "")
        return cls(
            state if state in STATES else "",
            query.get("q", "").replace("\0", "").strip()[:MOST_CUSTOM_ID],
            query.get("words", "").replace("\0", "").strip()[:MOST_QUERY],
        )

    @property
    def narrows(self) -> bool:
        return bool(self.state or self.custom_id or self.words)

    def query(self, **more: object) -> str:
        """The query string of an address that asks for it; empty when it asks for nothing."""
        given = {"state": self.state, "q": self.custom_id, "words": self.words} | more
        kept = {name: value for name, value in given.items() if value != ""}
        return f"?{urlencode(kept)}" if kept else ""

    @cached_property
    def terms(self) -> tuple[Term, ...]:
        return terms(self.words)

    @property
    def why_none(self) -> str:
        """Why the words cannot be searched for; empty when they can."""
        if not self.words or any(not term.excluded for term in self.terms):
            return ""
        if self.terms:
            return "Every word of this search is to be left out. Add one that the requests have."
        return f"“{brief(self.words, 60)}” has no letter or digit to search for. Type a word, or the beginning of one."


ALL = Chosen()


def lines(batch: Batch, chosen: Chosen, index: SearchIndex | None, place: int, backwards: bool, most: int) -> list[int]:
    """The first lines after a place, or backwards before it. index: that of the batch, for words. Raises TooSlow.

    A state or a part of a custom_id walks along the index of the requests until it has found enough, and reads each row
    that it passes (not its answer, which is stored apart when it is long). At worst that is every row of this one
    batch: for 50,000 some 50 ms, for millions seconds, which is why it is limited. An index for every part of every
    custom_id would cost each batch more than the few searches do.
    """
    state = STATES.get(chosen.state)
    with limited() if chosen.narrows else nullcontext():
        if chosen.words:
            if chosen.why_none or index is None:
                return []
            return finding.lines(index, chosen.terms, place, backwards, most, state, chosen.custom_id)
        rows = BatchRequest.objects.filter(batch=batch)
        if state is not None:
            rows = rows.filter(state=state)
        if chosen.custom_id:
            rows = rows.filter(custom_id__contains=chosen.custom_id)
        if backwards:
            rows = rows.filter(line__lt=place).order_by("-line")
        else:
            rows = rows.filter(line__gt=place).order_by("line")
        return list(rows.values_list("line", flat=True)[:most])


def searched(chosen: Chosen, batch: Batch) -> SearchIndex | None:
    """The index of a batch in which words are searched for."""
    return SearchIndex.objects.filter(batch=batch).first() if chosen.words else None
