"""OpenAI's lists: newest first or oldest first, one page of rows after an object's id."""

from collections.abc import Callable, Sequence
from typing import Any, TypedDict, TypeVar

from django.db.models import Model, QuerySet
from django.http import QueryDict

from vbs.openai import ids
from vbs.openai.errors import InvalidRequest

T = TypeVar("T", bound=Model)


class ListPage(TypedDict):
    object: str
    data: list[Any]
    first_id: str | None
    last_id: str | None
    has_more: bool


def single_value(query: QueryDict, name: str) -> str | None:
    """A parameter's text, or None. Raises InvalidRequest when the parameter is given more than once."""
    given = query.getlist(name)
    if len(given) > 1:
        shown = ids.shown(name)
        raise InvalidRequest(
            f"Parameter given {len(given)} times: '{shown}'. Give it once, and send a request for each value.",
            param=shown,
            code="duplicate_parameter",
        )
    return given[0] if given else None


def whole_number(query: QueryDict, name: str, default: int, low: int, high: int) -> int:
    """A number from the query string. Raises InvalidRequest unless it is from low to high."""
    text = single_value(query, name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 10 and low <= int(text) <= high):
        raise InvalidRequest(
            f"Invalid '{name}': '{ids.shown(text)}'. It must be a whole number from {low} to {high}.", param=name
        )
    return int(text)


def choice(query: QueryDict, name: str, default: str, allowed: tuple[str, ...]) -> str:
    """One of the allowed words from the query string. Raises InvalidRequest for any other."""
    text = single_value(query, name)
    text = default if text is None else text
    if text not in allowed:
        raise InvalidRequest(
            f"Invalid '{name}': '{ids.shown(text)}'. Supported values are: {', '.join(allowed)}.", param=name
        )
    return text


def check_parameters(query: QueryDict, *known: str) -> None:
    """Raises InvalidRequest for an unknown parameter, which would have no effect, and for one that is given twice.
    Azure's clients send `api-version` everywhere, so it is let through."""
    for name in query:
        if name not in known and name != "api-version":
            takes = f"This list takes {', '.join(known)}." if known else "This list takes no parameters."
            raise InvalidRequest(
                f"Unknown parameter: '{ids.shown(name)}'. {takes}", param=ids.shown(name), code="unknown_parameter"
            )
        single_value(query, name)


def unknown_after(after: str) -> InvalidRequest:
    return InvalidRequest(
        f"Invalid 'after': there is no object '{ids.shown(after)}' in this list. Send the last_id of a page.",
        param="after",
    )


def page(
    rows: QuerySet[T],
    query: QueryDict,
    wire: Callable[[T], Any],
    *,
    default: int,
    high: int,
    filters: Sequence[str] = (),
) -> ListPage:
    """One page of `rows`, in the order of their primary keys. Reads `after`, `limit` and `order` from the query.

    filters: the other parameters of this list; the caller has applied them to `rows`.
    """
    check_parameters(query, "after", "limit", "order", *filters)
    limit = whole_number(query, "limit", default, 1, high)
    order = choice(query, "order", "desc", ("asc", "desc"))
    if after := query.get("after"):
        if "\0" in after or not rows.filter(pk=after).exists():
            raise unknown_after(after)
        rows = rows.filter(pk__gt=after) if order == "asc" else rows.filter(pk__lt=after)
    found = list(rows.order_by("pk" if order == "asc" else "-pk")[: limit + 1])
    data = [wire(row) for row in found[:limit]]
    return {
        "object": "list",
        "data": data,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
        "has_more": len(found) > limit,
    }
