"""What the lanes do, in words for a terminal: the GPU of each worker, and each remote model."""

import time
from collections.abc import Mapping
from typing import Any

from models_registry.models import Worker, WorkerState
from vbs.pages.words import duration


def of_gpu(worker: Worker) -> str:
    """What the GPU of a worker does, such as `loading tiny: loading weights (50 %)`, or `idle, tiny is loaded`."""
    if worker.state != WorkerState.IDLE:
        said = worker.activity or worker.get_state_display()
        return f"{said[:1].lower()}{said[1:]}"
    loaded = f"{worker.model_name} is loaded" if worker.model_name else "no model is loaded"
    return ", ".join(filter(None, ("idle", worker.activity, loaded)))


def of_remote(lane: Mapping[str, Any]) -> str:
    """What a remote model does, and which of its addresses get no requests. One of an earlier version has not all
    fields."""
    why = lane.get("detail") or lane["why"]
    if lane["state"] == "failed":
        since = lane.get("since")
        ago = f" {duration(max(0.0, time.time() - since))} ago" if since else ""
        return f"failed{ago}: {why}"
    away = [one for one in lane["addresses"] if one["state"] != "open"]
    shut = "; ".join(f"{one['url']} {one['state']}: {one['why']}" for one in away)
    did = f"{lane['in_flight']:,} of {lane['window']:,} in flight, {lane['requests_per_second']:,g} requests/s"
    return f"{why or lane['state']}, {did}" + (f" ({shut})" if shut else "")
