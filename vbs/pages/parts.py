"""A page as parts. Each part is a template with its context, and the hash of the rendered text identifies its state.

So a browser gets only the parts that changed on its screen. It says which states it has seen, and an open menu, the
focus and a half-typed text in the other parts stay.
"""

import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from django.template.loader import render_to_string
from django.utils.html import escape
from django.utils.safestring import SafeString

from vbs.pages.viewer import Viewer

# Filled in when a fragment is sent. A text that a template escapes cannot look like it.
SEEN, TOKEN, CHILDREN = SafeString("<seen>"), SafeString("<token>"), SafeString("<children>")

SOON, LATER = 1, 5  # seconds until a page polls again: while something changes, and while nothing does


@dataclass(frozen=True)
class Part:
    """The template gets the context, `viewer` and `perms`. Its outermost element has the id and contains `{{ seen }}`.
    `{{ children }}` stands where the parts are that are renewed separately, as long as they are the same ones and the
    rest stays as it is."""

    id: str
    template: str
    context: Mapping[str, Any] = field(default_factory=dict)
    children: Sequence["Part"] = ()


@dataclass(frozen=True)
class Fragment:
    """A rendered part, with places to fill in when it is sent."""

    id: str
    text: str
    children: Sequence["Fragment"]

    @cached_property
    def seen(self) -> str:
        """The mark of its state."""
        whole = "\n".join([self.text, *(child.id for child in self.children)])
        return f"{self.id}:{hashlib.sha256(whole.encode(errors='replace')).hexdigest()[:10]}"

    def html(self, token: str = "", takes_place: bool = False) -> SafeString:
        """The text with its children. token: for its forms, needed without scripts. takes_place: it replaces the
        element with its id."""
        text = self.text.replace(SEEN, f'<input type="hidden" name="seen" value="{escape(self.seen)}">')
        text = text.replace(TOKEN, token)
        if takes_place:
            text = text.replace(f' id="{self.id}"', f' id="{self.id}" hx-swap-oob="true"', 1)
        return SafeString(text.replace(CHILDREN, "".join(child.html(token) for child in self.children)))


def rendered(parts: Iterable[Part], viewer: Viewer) -> list[Fragment]:
    """The parts as such a viewer sees them."""
    shared = {"viewer": viewer, "perms": viewer.perms, "seen": SEEN, "csrf_token": TOKEN}
    return [_rendered(part, shared) for part in parts]


def _rendered(part: Part, shared: Mapping[str, Any]) -> Fragment:
    context = {**part.context, **shared, "id": part.id, "children": CHILDREN if part.children else ""}
    text = render_to_string(part.template, context)
    return Fragment(part.id, text, [_rendered(child, shared) for child in part.children])


def unseen(fragments: Iterable[Fragment], seen: Collection[str]) -> Iterator[Fragment]:
    """The parts that differ from what was seen; for an unchanged part, its changed children."""
    for fragment in fragments:
        if fragment.seen in seen:
            yield from unseen(fragment.children, seen)
        else:
            yield fragment


def whole(fragments: Iterable[Fragment]) -> Iterator[str]:
    """What a browser has seen that has all of them."""
    for fragment in fragments:
        yield fragment.seen
        yield from whole(fragment.children)


def news(fragments: Iterable[Fragment]) -> SafeString:
    """For htmx, which puts each part in place of the element with its id."""
    return SafeString("".join(f"<template>{fragment.html(takes_place=True)}</template>\n" for fragment in fragments))


def pulse(url: str, every: int = LATER) -> Part:
    """The element that gets new parts: by a socket at `url`, and while that is down by polling this address every so
    many seconds."""
    return Part("pulse", "_pulse.html", {"url": url, "every": every})
