"""Finds the requests of a batch that have words in their prompt or answer."""

from collections.abc import Sequence
from typing import Any

from django.db import connection

from batches.models import BatchRequest, RequestState, SearchedRequest, SearchIndex
from batches.search.words import Term, tsquery

NEAR = 1000  # requests from where a page begins that are looked through one by one
TABLE = SearchedRequest._meta.db_table
REQUESTS = BatchRequest._meta.db_table


def lines(
    index: SearchIndex,
    wanted: Sequence[Term],
    place: int,
    backwards: bool,
    most: int,
    state: RequestState | None = None,
    custom_id: str = "",
) -> list[int]:
    """The first lines after a place, or backwards before it. state, custom_id: as the request must have them, too. Must
    run in a transaction, in which it forbids to read a whole table.

    The requests near the place are looked through first, which finds what is frequent. When they are not enough, what
    matches is taken from the index and put in order afterwards; that is little, for it was not frequent.
    """
    beyond, order = ("<", "DESC") if backwards else (">", "ASC")
    given: dict[str, Any] = {
        "index": index.pk, "place": place, "query": tsquery(index.pk, wanted), "most": most,
        "batch": index.batch_id, "state": None if state is None else state.value, "custom_id": custom_id,
    }  # fmt: skip
    also = ""
    if state is not None:
        also += " AND request.state = %(state)s"
    if custom_id:
        also += " AND strpos(request.custom_id, %(custom_id)s) > 0"
    if also:
        of_line = "request.batch_id = %(batch)s AND request.line = found.line"
        also = f"AND EXISTS (SELECT FROM {REQUESTS} request WHERE {of_line}{also})"
    # The second names no index, for the words begin with its key: so PostgreSQL can use the index of words only.
    places = f"line {beyond} %(place)s"
    sources = (
        f"(SELECT line, words FROM {TABLE} WHERE index_id = %(index)s AND {places} ORDER BY line {order} LIMIT {NEAR})",  # noqa: S608
        f"(SELECT line, words FROM {TABLE} WHERE words @@ %(query)s::tsquery AND {places} OFFSET 0)",  # noqa: S608
    )
    found: list[int] = []
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL enable_seqscan TO off")
        for source in sources:
            cursor.execute(
                f"SELECT line FROM {source} found WHERE words @@ %(query)s::tsquery {also} "  # noqa: S608
                f"ORDER BY line {order} LIMIT %(most)s",
                given,
            )
            found = [line for (line,) in cursor.fetchall()]
            if len(found) == most:
                break
    return found
