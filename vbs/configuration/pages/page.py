"""The parts of the settings' page: each setting with its value, its origin and its meaning."""

from typing import Any

from django.urls import reverse

from vbs.configuration.declared import SETTINGS, Setting
from vbs.configuration.models import Override
from vbs.configuration.runtime import at_start, valid
from vbs.live.pages import Page
from vbs.pages.parts import Part, pulse
from vbs.pages.viewer import Viewer


def build(viewer: Viewer, query: Any) -> dict[str, Part]:
    found = {row.name: row for row in Override.objects.all()}
    taken = valid(found.values())
    first = sorted(SETTINGS.values(), key=lambda setting: not setting.changes)
    rows = [_row(setting, found.get(setting.name), taken) for setting in first]
    return {
        "table": Part("settings", "configuration/_table.html", {}, rows),
        "pulse": pulse(reverse("settings-live")),
    }


def _row(setting: Setting, override: Override | None, taken: dict[str, Any]) -> Part:
    """override: who set it in the browser, and when. origin: default, environment or here. refused: the value that was
    set here is not valid any more."""
    override = override if setting.changes else None
    here = setting.name in taken
    context = {
        "setting": setting,
        "override": override,
        "value": setting.shown(taken[setting.name] if here else at_start(setting)),
        "origin": "here" if here else "environment" if setting.given else "default",
        "refused": override is not None and not here,
    }
    return Part(f"setting-{setting.name}", "configuration/_row.html", context)


PAGE = Page(build=build, topics=lambda: ("settings",), permission="configuration.view_override")
