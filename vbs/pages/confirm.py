"""Ask before something is done that cannot be undone, or that interrupts others."""

from collections.abc import Mapping, Sequence

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render


def confirm(
    request: HttpRequest,
    *,
    title: str,
    words: Sequence[str],
    button: str,
    back: str,
    fields: Mapping[str, str] | None = None,
    danger: bool = True,
) -> HttpResponse:
    """The question, whose form posts to the address at which it is asked: a GET asks, the POST does it.

    words: what it will do and interrupt, a sentence each. fields: sent along, hidden. back: where a no leads to.
    With htmx it is a dialog (`hx-get` into `#dialog`), without it a page.
    """
    context = {"title": title, "words": words, "button": button, "back": back, "fields": fields or {}, "danger": danger}
    return render(request, "_confirm.html" if getattr(request, "htmx", False) else "confirm.html", context)
