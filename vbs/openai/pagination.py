"""OpenAI's lists: newest first or oldest first, one page after an object id, never an empty page that says more."""

from collections.abc import Callable, Sequence
from typing import Any, TypedDict, TypeVar

from django.db.models import Model, QuerySet
from django.http import QueryDict

from vbs.openai import ids
from vbs.openai.errors import InvalidRequest

T = TypeVar("T", bound=Model)


class Page(TypedDict):
    object: str
    data: list[Any]
    first_id: str | None
    last_id: str | None
    has_more: bool


def single(query: QueryDict, name: str) -> str | None:
    """A parameter's text, or None. Raises InvalidRequest when it is there twice, of which all but one would be lost."""
    given = query.getlist(name)
    if len(given) > 1:
        shown = ids.shown(name)
        raise InvalidRequest(
            f"Parameter given {len(given)} times: '{shown}'. It takes one value; ask once for each.",
            param=shown,
            code="duplicate_parameter",
        )
    return given[0] if given else None


def whole_number(query: QueryDict, name: str, default: int, low: int, high: int) -> int:
    """A number from the query string. Raises InvalidRequest outside of low … high."""
    text = single(query, name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 10 and low <= int(text) <= high):
        raise InvalidRequest(
            f"Invalid '{name}': '{ids.shown(text)}'. It must be a whole number from {low} to {high}.", param=name
        )
    return int(text)


def choice(query: QueryDict, name: str, default: str, allowed: tuple[str, ...]) -> str:
    """One of the allowed words from the query string. Raises InvalidRequest for any other."""
    text = single(query, name)
    text = default if text is None else text
    if text not in allowed:
        raise InvalidRequest(
            f"Invalid '{name}': '{ids.shown(text)}'. Supported values are: {', '.join(allowed)}.", param=name
        )
    return text


def only(query: QueryDict, *known: str) -> None:
    """Raises InvalidRequest for a parameter that would silently do nothing, or that is there twice. Azure's clients put
    theirs everywhere."""
    for name in query:
        if name not in known and name != "api-version":
            takes = f"this list takes {', '.join(known)}" if known else "this list takes none"
            raise InvalidRequest(
                f"Unknown parameter: '{ids.shown(name)}'; {takes}.", param=ids.shown(name), code="unknown_parameter"
            )
        single(query, name)


def unknown_after(after: str) -> InvalidRequest:
    return InvalidRequest(f"Invalid 'after': there is no object '{ids.shown(after)}' in this list.", param="after")


def page(
    rows: QuerySet[T],
    query: QueryDict,
    wire: Callable[[T], Any],
    *,
    default: int,
    high: int,
    filters: Sequence[str] = (),
) -> Page:
    """One page of `rows`, whose primary key is the list order. Reads `after`, `limit` and `order` from the query.

    filters: the other parameters of this list, by which `rows` are chosen already.
    """
    only(query, "after", "limit", "order", *filters)
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
