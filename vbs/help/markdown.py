"""Renders Markdown as HTML for a page: with no HTML of the document, no resource from elsewhere, and no style.

Headings have anchors, code has a button that copies it, tables scroll. Knows neither files nor requests.
"""

import html
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from markdown_it import MarkdownIt
from markdown_it.token import Token

COMMENT = re.compile(r"(?m)^<!--.*?-->\n?")  # a line of its own: marks for programs
OUTSIDE = re.compile(r"(?i)https?://")
PREFIX = "h-"  # of anchors, which share the page with our own ids

Resolve = Callable[[str], str | None]


@dataclass(frozen=True)
class Heading:
    level: int
    text: str
    anchor: str


@dataclass(frozen=True)
class Section:
    """The text under a heading, up to the next one, without markup."""

    heading: Heading
    text: str


@dataclass(frozen=True)
class Rendered:
    """html: safe for a page. title: the text of the first heading."""

    html: str
    title: str
    sections: tuple[Section, ...]

    @property
    def contents(self) -> tuple[Heading, ...]:
        """The headings for a table of contents."""
        return tuple(one.heading for one in self.sections if one.heading.level in (2, 3))


def render(source: str, resolve: Resolve) -> Rendered:
    """resolve: gives the address for a link inside the documents; for None, only the link's text is shown."""
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    parser.add_render_rule("fence", _fence)
    parser.add_render_rule("code_block", _fence)
    tokens = parser.parse(COMMENT.sub("", source))
    headings = _anchor(tokens)
    for token in tokens:
        if token.type in ("th_open", "td_open") and (style := token.attrs.pop("style", "")):
            if style == "text-align:right":
                token.attrs["class"] = "number"
        elif token.children is not None:
            token.children = _inline(token.children, resolve)
    made = parser.renderer.render(_framed(tokens), parser.options, {})
    sections = _sections(tokens, headings)
    return Rendered(made, headings[0].text if headings else "", sections)


def anchor(text: str) -> str:
    """The anchor that GitHub makes of a heading's text."""
    kept = "".join(
        one for one in unicodedata.normalize("NFC", text).lower() if one.isalnum() or one in " -_" or one.isspace()
    )
    return PREFIX + kept.strip().replace(" ", "-")


def _anchor(tokens: Sequence[Token]) -> list[Heading]:
    """Gives every heading an id. A repeated text gets a number, as on GitHub."""
    headings: list[Heading] = []
    taken: dict[str, int] = {}
    for opened, inline in pairwise(tokens):
        if opened.type != "heading_open":
            continue
        text = _plain(inline)
        name = anchor(text)
        count = taken[name] = taken.get(name, -1) + 1
        opened.attrs["id"] = f"{name}-{count}" if count else name
        headings.append(Heading(int(opened.tag[1]), text, str(opened.attrs["id"])))
    return headings


def _inline(children: Sequence[Token], resolve: Resolve) -> list[Token]:
    """Gives links their address on this server, and shows pictures as their text."""
    kept, leads = [], []
    for token in children:
        if token.type == "image":
            token = Token("text", "", 0, content=_plain(token))
        elif token.type == "link_open":
            target = _target(token, resolve)
            leads.append(target is not None)
            if target is None:
                continue
            token.attrs = target
        elif token.type == "link_close" and not leads.pop():
            continue
        kept.append(token)
    return kept


def _target(link: Token, resolve: Resolve) -> dict[str, str | int | float] | None:
    """The attributes of a link."""
    address = str(link.attrs.get("href", ""))
    if OUTSIDE.match(address):
        return {"href": address, "rel": "noopener noreferrer"}
    found = resolve(address)
    return None if found is None else {"href": found}


def _framed(tokens: Sequence[Token]) -> list[Token]:
    """Puts every table in a frame that scrolls."""
    framed: list[Token] = []
    for token in tokens:
        if token.type == "table_open":
            attrs: dict[str, str | int | float] = {"class": "scroll", "tabindex": 0, "role": "region"}
            framed.append(Token("frame_open", "div", 1, attrs=attrs | {"aria-label": "Table"}, block=True))
        elif token.type == "th_open":
            token.attrs["scope"] = "col"
        framed.append(token)
        if token.type == "table_close":
            framed.append(Token("frame_close", "div", -1, block=True))
    return framed


def _fence(self: object, tokens: Sequence[Token], index: int, options: object, env: dict[str, int]) -> str:
    number = env["codes"] = env.get("codes", 0) + 1
    return (
        f'<div class="copied"><pre id="code-{number}" tabindex="0">{html.escape(tokens[index].content)}</pre>'
        f'<button type="button" data-copies="#code-{number}">Copy</button></div>\n'
    )


def _sections(tokens: Sequence[Token], headings: Sequence[Heading]) -> tuple[Section, ...]:
    texts: list[list[str]] = []
    for place, token in enumerate(tokens):
        if token.type == "heading_open":
            texts.append([])
        elif texts and token.type in ("fence", "code_block"):
            texts[-1].append(token.content)
        elif texts and token.type == "inline" and tokens[place - 1].type != "heading_open":
            texts[-1].append(_plain(token))
    return tuple(
        Section(heading, " ".join(" ".join(parts).split())) for heading, parts in zip(headings, texts, strict=True)
    )


def _plain(token: Token) -> str:
    return "".join(" " if one.type.endswith("break") else one.content or _plain(one) for one in token.children or ())
