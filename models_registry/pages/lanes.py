"""The lanes of remote models, as the page of the system shows them."""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from models_registry.models import Worker
from models_registry.pages.models.rows import CHANGES
from vbs.pages.parts import Part
from vbs.pages.viewer import Viewer


def lanes(workers: Iterable[Worker], viewer: Viewer) -> Part:
    """A table with a row for each lane, and for those who may know them one for each of its addresses."""
    found = [lane for worker in workers if worker.alive for lane in worker.lanes]
    rows = [_row(place, lane, viewer.may(CHANGES)) for place, lane in enumerate(found)]
    return Part("lanes", "system/_lanes.html", {}, rows)


def _row(place: int, lane: dict[str, Any], for_operator: bool) -> Part:
    """A lane of an earlier version has no `since` and no `detail`."""
    addresses, since = lane["addresses"], lane.get("since")
    counts = {"of": len(addresses), "open": sum(one["state"] == "open" for one in addresses)}
    said = (lane.get("detail") if for_operator else "") or lane["why"] or lane["activity"]
    context = lane | counts | {"addresses": addresses if for_operator else [], "said": said}
    context["failed_at"] = datetime.fromtimestamp(since, UTC) if since and lane["state"] == "failed" else None
    return Part(f"lane-{place}", "system/_lane.html", context)
