"""Asks before an action that cannot be undone or interrupts others."""

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
    no: str = "Cancel",
) -> HttpResponse:
    """The question. A GET asks it, and its form posts to the same address, where the POST does the action.

    words: sentences about what the action does and interrupts. fields: hidden values of the form. back: the address for
    a no, and no: what its button says. With htmx it is a dialog (`hx-get` into `#dialog`), else a page.
    """
    context = {
        "title": title,
        "words": words,
        "button": button,
        "back": back,
        "fields": fields or {},
        "danger": danger,
        "no": no,
    }
    return render(request, "_confirm.html" if getattr(request, "htmx", False) else "confirm.html", context)
