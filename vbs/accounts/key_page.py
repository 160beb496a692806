"""What the page of API keys shows: keys as plain values. Never a secret, of which only the digest is kept."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from django.urls import reverse
from django.utils import timezone

from vbs.accounts.models import ApiKey
from vbs.live.pages import Page
from vbs.pages.parts import Part, Values, pulse
from vbs.pages.viewer import Viewer

PER_PAGE = 100


@dataclass(frozen=True, kw_only=True)
class Key(Values):
    template = "system/_key.html"
    pk: int
    name: str
    prefix: str
    project: str
    operator: bool
    state: str
    created_at: datetime
    last_used_at: datetime | None
    expires_at: datetime | None


@dataclass(frozen=True, kw_only=True)
class Keys(Values):
    """ids: which keys, in which order. older: the address of more of them, or empty."""

    template = "system/_keys.html"
    id: str = "keys"
    ids: tuple[str, ...]
    newest: str
    older: str
    children: Sequence[Key] = field(default=(), repr=False)


def build(viewer: Viewer, query: Mapping[str, Any]) -> dict[str, Part | Values]:
    """?before=: the key of a key; only older ones are shown."""
    rows = viewer.own(ApiKey.objects.select_related("project")).order_by("-pk")
    before = str(query.get("before", ""))
    before = before if before.isascii() and before.isdigit() and len(before) < 19 else ""
    if before:
        rows = rows.filter(pk__lt=int(before))
    found = list(rows[: PER_PAGE + 1])
    shown = tuple(_row(key) for key in found[:PER_PAGE])
    here = reverse("keys")
    older = f"{here}?before={shown[-1].pk}" if len(found) > PER_PAGE else ""
    table = Keys(
        ids=tuple(row.id for row in shown), newest=here if before else "", older=older, children=shown
    )  # fmt: skip
    url = reverse("keys-live") + (f"?before={before}" if before else "")
    return {"table": table, "pulse": pulse(url=url, every=5)}


def _row(key: ApiKey) -> Key:
    return Key(
        id=f"key-{key.pk}",
        pk=key.pk,
        name=key.name,
        prefix=key.prefix,
        project=key.project.name,
        operator=key.operator,
        state=state_of(key),
        created_at=key.created_at,
        last_used_at=key.last_used_at,
        expires_at=key.expires_at,
    )


def state_of(key: ApiKey) -> str:
    if key.revoked_at:
        return "revoked"
    return "expired" if key.expires_at and key.expires_at <= timezone.now() else "usable"


PAGE = Page(build=build, topics=lambda: (), permission="accounts.view_apikey")
