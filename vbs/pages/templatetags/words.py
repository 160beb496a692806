"""Values as the pages say them."""

from datetime import UTC, datetime

from django import template
from django.utils import timezone
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString, mark_safe

from vbs.pages import words
from vbs.places import PROGRAM

register = template.Library()
register.filter("number", words.number)
register.filter("duration", words.duration)
register.filter("size", words.size)
register.filter("price", words.price)
register.filter("money", words.money)


@register.simple_tag
def program() -> str:
    """The command, as it is typed here."""
    return PROGRAM


@register.filter
def short(name: str) -> str:
    """An id that begins with the time at which it was made: its kind, some of its time, and its end."""
    return name if len(name) <= 24 else f"{name[:14]}…{name[-6:]}"


@register.filter
def code(text: str) -> SafeString:
    """Text with `code` in it."""
    if not text:
        return mark_safe('<span class="quiet">–</span>')
    pieces = ((format_html("<code>{}</code>", one) if place % 2 else one,) for place, one in enumerate(text.split("`")))
    return format_html_join("", "{}", pieces)


@register.filter
def until(at: datetime) -> SafeString:
    """How long it is till then. So rounded that it does not change with every look."""
    text = f"in {words.about((at - timezone.now()).total_seconds())}"
    return _time(at.replace(second=0, microsecond=0), "kept", text)


@register.filter
def when(at: datetime | None) -> SafeString:
    """How long ago that was or in how long it will be, with the moment itself as its tooltip."""
    return _moment(at, "ago")


@register.filter
def exact(at: datetime | None) -> SafeString:
    """The moment itself, to the second."""
    return _moment(at, "exact")


def _moment(at: datetime | None, form: str) -> SafeString:
    """In UTC; times.js writes it in the reader's time."""
    if at is None:
        return mark_safe('<span class="quiet">–</span>')
    return _time(at, form, at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC"))


def _time(at: datetime, form: str, text: str) -> SafeString:
    return format_html('<time datetime="{}" data-form="{}">{}</time>', at.isoformat(), form, text)
