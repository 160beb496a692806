"""Text that others wrote: `{{ text|plain }}` within an element of its own with dir="auto", `{{ text|brief:120 }}`,
`{{ text|masked|clipped:500 }}`."""

from typing import Any

from django import template
from django.utils.html import conditional_escape, format_html, format_html_join
from django.utils.safestring import SafeString

from vbs.logs import mask
from vbs.pages import plain as plainly
from vbs.pages.words import number

register = template.Library()


def _marked(text: str) -> SafeString:
    return format_html_join(
        "",
        "{}",
        (
            (format_html('<b class="sign" title="{}">{}</b>', run.title, run.text),)
            if run.sign
            else (conditional_escape(run.text),)
            for run in plainly.runs(text)
        ),
    )


@register.filter
def plain(text: Any) -> SafeString:
    """Escaped, with signs for what is invisible, and clipped. Newlines stay: show it in a <pre>."""
    clip = plainly.clip("" if text is None else str(text))
    if not clip.left:
        return _marked(clip.text)
    return format_html('{}<span class="quiet">… {} characters more</span>', _marked(clip.text), number(clip.left))


@register.filter
def visible(text: Any) -> str:
    """All of it, with its newlines, as plain text."""
    return plainly.visible("" if text is None else str(text))


@register.filter
def brief(text: Any, most: int = 120) -> str:
    """The beginning, on one line."""
    return plainly.brief("" if text is None else str(text), most)


@register.filter
def clipped(text: Any, most: int) -> str:
    """The beginning, visible, with its newlines."""
    return plainly.clip("" if text is None else str(text), most).shown


@register.filter
def masked(text: Any) -> str:
    """Without keys and bearer tokens."""
    return mask("" if text is None else str(text))
