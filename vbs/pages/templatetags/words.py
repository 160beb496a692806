"""Values as the pages say them."""

from datetime import datetime

from django import template
from django.utils.html import format_html
from django.utils.safestring import SafeString, mark_safe

from vbs.pages import words

register = template.Library()
register.filter("number", words.number)
register.filter("duration", words.duration)
register.filter("size", words.size)
register.filter("price", words.price)
register.filter("money", words.money)


@register.filter
def short(name: str) -> str:
    """An id that begins with the time at which it was made: its kind, some of its time, and its end."""
    return name if len(name) <= 24 else f"{name[:14]}…{name[-6:]}"


@register.filter
def when(at: datetime | None) -> SafeString:
    """A moment, in UTC."""
    if at is None:
        return mark_safe('<span class="quiet">–</span>')
    return format_html('<time datetime="{}">{}</time>', at.isoformat(), at.strftime("%Y-%m-%d %H:%M:%S"))
