"""The page of settings as parts: each with its value, where that is from, and what it means."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from django.urls import reverse

from vbs.configuration.declared import SETTINGS, Setting
from vbs.configuration.models import Override
from vbs.configuration.runtime import at_start, valid
from vbs.live.pages import Page
from vbs.pages.parts import Part, Values, pulse
from vbs.pages.viewer import Viewer


@dataclass(frozen=True, kw_only=True)
class Row(Values):
    """A setting. origin: default, environment or here; by and at: who set it here, and when. words and default: pieces
    of text, each with whether it is code. refused: why what was set here does not hold."""

    template = "configuration/_row.html"
    name: str
    value: str
    default: tuple[tuple[bool, str], ...]
    words: tuple[tuple[bool, str], ...]
    origin: str
    by: str
    at: datetime | None
    editable: bool
    refused: bool


@dataclass(frozen=True, kw_only=True)
class Table(Values):
    template = "configuration/_table.html"
    id: str = "settings"
    names: tuple[str, ...]
    children: Sequence[Row] = field(default=(), repr=False)


def build(viewer: Viewer, query: Any) -> dict[str, Part | Values]:
    found = {row.name: row for row in Override.objects.all()}
    taken = valid(found.values())
    first = sorted(SETTINGS.values(), key=lambda setting: not setting.changes)
    rows = tuple(_row(setting, found.get(setting.name), taken) for setting in first)
    table = Table(names=tuple(row.name for row in rows), children=rows)
    return {"table": table, "pulse": pulse(url=reverse("settings-live"), every=5)}


def _row(setting: Setting, override: Override | None, taken: dict[str, Any]) -> Row:
    here = setting.name in taken
    origin = "here" if here else "environment" if setting.given else "default"
    return Row(
        id=f"setting-{setting.name}",
        name=setting.name,
        value=setting.shown(taken[setting.name] if here else at_start(setting)),
        default=pieces(setting.default),
        words=pieces(setting.words),
        origin=origin,
        by=override.changed_by if override and setting.changes else "",
        at=override.changed_at if override and setting.changes else None,
        editable=bool(setting.changes),
        refused=override is not None and bool(setting.changes) and not here,
    )


def pieces(text: str) -> tuple[tuple[bool, str], ...]:
    """Text with `code` in it, in pieces."""
    return tuple((bool(place % 2), piece) for place, piece in enumerate(text.split("`")) if piece)


PAGE = Page(build=build, topics=lambda: ("settings",), permission="configuration.view_override")
