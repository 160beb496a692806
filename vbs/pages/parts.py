"""A page as parts: each is a template with what it shows, and known by the hash of what comes out.

So only what has changed on the screen is sent. A browser tells what it has seen, and is given the parts that are new:
an open menu, a focus and what is being typed elsewhere stay as they are.
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

# What is filled in when a fragment is sent. No text that a template escapes can look like it.
SEEN, TOKEN, CHILDREN = SafeString("<seen>"), SafeString("<token>"), SafeString("<children>")

SOON, LATER = 1, 5  # seconds until a page asks again: while something moves, and while nothing does


@dataclass(frozen=True)
class Part:
    """The template shows the context, and knows `viewer` and `perms`. Its outermost element has the id; `{{ seen }}`
    stands within it, and `{{ children }}` where the parts are that are renewed by themselves, as long as they are the
    same ones and the rest of it stays as it is."""

    id: str
    template: str
    context: Mapping[str, Any] = field(default_factory=dict)
    children: Sequence["Part"] = ()


@dataclass(frozen=True)
class Fragment:
    """A part as it was rendered, but for what is filled in."""

    id: str
    text: str
    children: Sequence["Fragment"]

    @cached_property
    def seen(self) -> str:
        """Its mark."""
        whole = "\n".join([self.text, *(child.id for child in self.children)])
        return f"{self.id}:{hashlib.sha256(whole.encode(errors='replace')).hexdigest()[:10]}"

    def html(self, token: str = "", takes_place: bool = False) -> SafeString:
        """With its children. token: for its forms, needed where there are no scripts. takes_place: of what has its id
        on the screen."""
        text = self.text.replace(SEEN, f'<input type="hidden" name="seen" value="{escape(self.seen)}">')
        text = text.replace(TOKEN, token)
        if takes_place:
            text = text.replace(f' id="{self.id}"', f' id="{self.id}" hx-swap-oob="true"', 1)
        return SafeString(text.replace(CHILDREN, "".join(child.html(token) for child in self.children)))


def rendered(parts: Iterable[Part], viewer: Viewer) -> list[Fragment]:
    """As such a viewer sees them."""
    shared = {"viewer": viewer, "perms": viewer.perms, "seen": SEEN, "csrf_token": TOKEN}
    return [_rendered(part, shared) for part in parts]


def _rendered(part: Part, shared: Mapping[str, Any]) -> Fragment:
    context = {**part.context, **shared, "id": part.id, "children": CHILDREN if part.children else ""}
    text = render_to_string(part.template, context)
    return Fragment(part.id, text, [_rendered(child, shared) for child in part.children])


def unseen(fragments: Iterable[Fragment], seen: Collection[str]) -> Iterator[Fragment]:
    """Those that are not as they were seen; of one that is, its children."""
    for fragment in fragments:
        if fragment.seen in seen:
            yield from unseen(fragment.children, seen)
        else:
            yield fragment


def whole(fragments: Iterable[Fragment]) -> Iterator[str]:
    """What has been seen by whoever has all of them."""
    for fragment in fragments:
        yield fragment.seen
        yield from whole(fragment.children)


def news(fragments: Iterable[Fragment]) -> SafeString:
    """For htmx, which puts each in the place of what has its id."""
    return SafeString("".join(f"<template>{fragment.html(takes_place=True)}</template>\n" for fragment in fragments))


def pulse(url: str, every: int = LATER) -> Part:
    """What hears of new parts: by a socket at `url`, and where that is down by asking there every so many seconds."""
    return Part("pulse", "_pulse.html", {"url": url, "every": every})
