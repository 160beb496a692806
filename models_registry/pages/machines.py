"""The workers that serve models, with the state of their machines. Every page where something runs shows them."""

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from django.utils.html import format_html

from models_registry.fit import formula
from models_registry.gpu import control
from models_registry.models import Worker, WorkerState
from vbs.configuration import runtime
from vbs.pages.parts import Part
from vbs.pages.plain import visible
from vbs.pages.templatetags.words import when
from vbs.pages.viewer import Viewer

LOST_SECONDS = 86_400  # for which the end of an idle engine is told


@dataclass(frozen=True)
class Reading:
    """One number of a machine. percent: of the maximum, where there is one. warns: the value is too high."""

    name: str
    text: str
    percent: int | None = None
    warns: bool = True


def machines(workers: Iterable[Worker], viewer: Viewer) -> Part:
    return Part("machines", "models/_machines.html", {}, [_machine(worker, viewer) for worker in workers])


def busy(workers: Iterable[Worker]) -> bool:
    return any(worker.state != WorkerState.IDLE for worker in workers)


def _machine(worker: Worker, viewer: Viewer) -> Part:
    """doing: a sentence, unless the worker is idle. waits: why an idle worker takes up no work. lost: a sentence when
    its engine ended while it was idle."""
    said = control.activity(worker, viewer)
    idle = worker.state == WorkerState.IDLE
    context = {
        "host": worker.hostname if viewer.may("models_registry.change_worker") else "",
        "doing": "" if idle else said or worker.get_state_display(),
        "waits": said if idle else "",
        "model": worker.model_name,
        "lost": _lost(worker.health),
        "readings": list(readings(worker.health)),
    }
    return Part(f"machine-{worker.pk}", "models/_machine.html", context)


def _lost(health: Mapping[str, Any]) -> str:
    """A sentence when an idle engine ended by itself within the last day."""
    last = (health.get("losses") or {}).get("last")
    if not last or time.time() - last["at"] > LOST_SECONDS:
        return ""
    at = when(datetime.fromtimestamp(last["at"], UTC))
    words = "The idle engine of {} ended {}: {}. The next request starts it again."
    return format_html(words, visible(last["model"]), at, last["how"])


def readings(health: Mapping[str, Any]) -> Iterator[Reading]:
    """The readings of each GPU, or of the machine without one, from models_registry.gpu.health."""
    devices = health.get("devices") or []
    for place, device in enumerate(devices):
        yield from _of_device(device, f"GPU {place}" if len(devices) > 1 else "GPU")
    if health and not devices:
        yield from _of_device(health, "Main", "Processors")
    if window := health.get("window"):
        size, usual, why = f"{window['size']:,}", f"{window['usual']:,}", window["why"]
        yield Reading("Requests at once", f"{size}, not {usual}: {why}" if why else size)


def _of_device(one: Mapping[str, Any], name: str, busy: str = "") -> Iterator[Reading]:
    used, total = one.get("memory_used"), one.get("memory_total")
    if used is not None and total:
        yield Reading(f"{name} memory", f"{formula.size(used)} of {formula.size(total)}", round(100 * used / total))
    if (percent := one.get("utilization")) is not None:
        yield Reading(busy or f"{name} use", f"{percent:.0f} %", round(percent), warns=False)
    if (celsius := one.get("temperature")) is not None:
        part = round(100 * celsius / runtime.value("VBS_GPU_MAX_CELSIUS"))
        yield Reading(f"{name} temperature", f"{celsius} °C", part, warns=part > 90)  # most of the way is as usual
    if (watts := one.get("power_watts")) is not None:
        limit = one.get("power_limit_watts")
        shown = f"{watts:.0f} W" + (f" of {limit:.0f} W" if limit else "")
        yield Reading(f"{name} power", shown, round(100 * watts / limit) if limit else None, warns=False)
