"""The parts of the settings' page: each setting with its value, its origin and its meaning, by subject."""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from django.urls import reverse
from django.utils.text import slugify

from vbs.configuration.declared import SETTINGS, Setting
from vbs.configuration.models import Override
from vbs.configuration.runtime import at_start, valid
from vbs.live.pages import Page
from vbs.pages.parts import Part, pulse
from vbs.pages.viewer import Viewer


def build(viewer: Viewer, query: Any) -> dict[str, Part]:
    found = {row.name: row for row in Override.objects.all()}
    taken = valid(found.values())
    groups = [_group(subject, of_it, found, taken) for subject, of_it in subjects().items()]
    return {
        "groups": Part("settings", "configuration/_groups.html", {}, groups),
        "pulse": pulse(reverse("settings-live")),
    }


def subjects() -> dict[str, list[Setting]]:
    """The settings by what they are about; of each subject those first that can be changed here."""
    found = defaultdict(list)
    for setting in sorted(SETTINGS.values(), key=lambda setting: not setting.changes):
        found[setting.subject].append(setting)
    return {subject: found[subject] for subject in dict.fromkeys(one.subject for one in SETTINGS.values())}


def anchor(subject: str) -> str:
    return f"about-{slugify(subject)}"


def _group(subject: str, of_it: list[Setting], found: Mapping[str, Override], taken: Mapping[str, Any]) -> Part:
    rows = [_row(setting, found.get(setting.name), taken) for setting in of_it]
    return Part(anchor(subject), "configuration/_group.html", {"subject": subject}, rows)


def _row(setting: Setting, override: Override | None, taken: Mapping[str, Any]) -> Part:
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
