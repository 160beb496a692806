"""What the page of API keys shows. It never shows a secret: the database has only its digest."""

from collections.abc import Mapping
from typing import Any

from django.urls import reverse
from django.utils import timezone

from vbs.accounts.models import ApiKey
from vbs.live.pages import Page
from vbs.pages.parts import Part, pulse
from vbs.pages.viewer import Viewer

PER_PAGE = 100


def build(viewer: Viewer, query: Mapping[str, Any]) -> dict[str, Part]:
    """?before=: the primary key of an API key; the page shows older ones."""
    rows = viewer.own(ApiKey.objects.select_related("project")).order_by("-pk")
    before = str(query.get("before", ""))
    before = before if before.isascii() and before.isdigit() and len(before) < 19 else ""
    if before:
        rows = rows.filter(pk__lt=int(before))
    found = list(rows[: PER_PAGE + 1])
    shown = found[:PER_PAGE]
    here = reverse("keys")
    older = f"{here}?before={shown[-1].pk}" if len(found) > PER_PAGE else ""
    context = {"newest": here if before else "", "older": older}
    keys = [Part(f"key-{key.pk}", "system/_key.html", {"key": key, "state": state_of(key)}) for key in shown]
    url = reverse("keys-live") + (f"?before={before}" if before else "")
    return {"table": Part("keys", "system/_keys.html", context, keys), "pulse": pulse(url)}


def state_of(key: ApiKey) -> str:
    if key.revoked_at:
        return "revoked"
    return "expired" if key.expires_at and key.expires_at <= timezone.now() else "usable"


PAGE = Page(build=build, topics=lambda: (), permission="accounts.view_apikey")
