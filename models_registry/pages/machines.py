"""The machines that workers run on, and the workers that serve models, as the pages of models and of the system show
them."""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby
from pathlib import PurePath
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
HOT = 90  # per cent of the highest temperature; most of the way there is as usual


@dataclass(frozen=True)
class Reading:
    """One number of a machine. percent: of the maximum, where there is one. warns: being near the maximum is bad."""

    name: str
    text: str
    percent: int | None = None
    warns: bool = False


@dataclass(frozen=True)
class Serving:
    """What a worker that serves models does. name: tells it apart from others of its machine. doing: a sentence, unless
    it is idle. waits: why an idle one takes up no work. window: how many requests its engine gets at once. lost: a
    sentence when its engine ended while it was idle."""

    name: str
    doing: str
    waits: str
    model: str
    window: str
    lost: str


def machines(workers: Iterable[Worker], viewer: Viewer) -> Part:
    """A card for each machine: what its workers do, and how it is."""
    found = by_machine(workers)
    hosts = len(found) > 1 and viewer.may("models_registry.change_worker")
    cards = [_machine(f"machine-{place}", there, viewer, hosts) for place, there in enumerate(found)]
    return Part("machines", "models/_machines.html", {}, cards)


def by_machine(workers: Iterable[Worker]) -> list[list[Worker]]:
    """The workers of each machine, those with a GPU first."""
    in_order = sorted(workers, key=lambda worker: (worker.hostname, worker.cluster, worker.started_at))
    return [list(there) for _, there in groupby(in_order, key=lambda worker: worker.hostname)]


def busy(workers: Iterable[Worker]) -> bool:
    return any(worker.state != WorkerState.IDLE for worker in workers)


def _machine(name: str, workers: Sequence[Worker], viewer: Viewer, hosts: bool) -> Part:
    context = {
        "host": workers[0].hostname if hosts else "",
        "workers": [_serving(worker, viewer, len(workers) > 1) for worker in workers],
        "readings": readings(workers),
    }
    return Part(name, "models/_machine.html", context)


def _serving(worker: Worker, viewer: Viewer, named: bool) -> Serving:
    said = control.activity(worker, viewer)
    idle = worker.state == WorkerState.IDLE
    return Serving(
        name=PurePath(worker.home).name if named else "",
        doing="" if idle else said or worker.get_state_display(),
        waits=said if idle else "",
        model=worker.model_name,
        window=window(worker),
        lost=_lost(worker.health),
    )


def window(worker: Worker) -> str:
    """How many requests its engine gets at once, and why not more; empty while it gets none."""
    found = worker.health.get("window")
    if not found:
        return ""
    size = f"{found['size']:,} requests at once"
    return f"{size}, not {found['usual']:,}: {found['why']}" if found["why"] else size


def _lost(health: Mapping[str, Any]) -> str:
    """A sentence when an idle engine ended by itself within the last day."""
    last = (health.get("losses") or {}).get("last")
    if not last or time.time() - last["at"] > LOST_SECONDS:
        return ""
    at = when(datetime.fromtimestamp(last["at"], UTC))
    words = "The idle engine of {} ended {}: {}. The next request starts it again."
    return format_html(words, visible(last["model"]), at, last["how"])


def readings(workers: Iterable[Worker]) -> list[Reading]:
    """How their machine is, once, however many of them look at it: its GPUs, its memory and its processors.

    Each worker reads the same machine (models_registry.gpu.health), but may see other GPUs than its neighbours.
    """
    found = [worker.health for worker in workers if worker.health]
    if not found:
        return []
    devices = {device.get("uuid") or (place, at): device for place, at, device in _devices(found)}
    shown: list[Reading] = []
    for number, device in enumerate(devices.values()):
        shown += _of_device(device, f"GPU {number}" if len(devices) > 1 else "GPU")
    return shown + list(_of_machine(max(found, key=lambda health: health.get("at", 0))))


def _devices(found: Iterable[Mapping[str, Any]]) -> Iterator[tuple[int, int, Mapping[str, Any]]]:
    for place, health in enumerate(found):
        for at, device in enumerate(health.get("devices") or ()):
            yield place, at, device


def _of_device(device: Mapping[str, Any], name: str) -> Iterator[Reading]:
    """An engine takes what memory it is given, and work keeps a GPU busy: neither is a warning."""
    used, total = device.get("memory_used"), device.get("memory_total")
    if used is not None and total:
        yield Reading(f"{name} memory", f"{formula.size(used)} of {formula.size(total)}", round(100 * used / total))
    if (percent := device.get("utilization")) is not None:
        yield Reading(f"{name} use", f"{percent:.0f} %", round(percent))
    if (celsius := device.get("temperature")) is not None:
        part = round(100 * celsius / runtime.value("VBS_GPU_MAX_CELSIUS"))
        yield Reading(f"{name} temperature", f"{celsius} °C", part, warns=part > HOT)
    if (watts := device.get("power_watts")) is not None:
        limit = device.get("power_limit_watts")
        shown = f"{watts:.0f} W" + (f" of {limit:.0f} W" if limit else "")
        yield Reading(f"{name} power", shown, round(100 * watts / limit) if limit else None)


def _of_machine(health: Mapping[str, Any]) -> Iterator[Reading]:
    used, total = health.get("memory_used"), health.get("memory_total")
    if used is not None and total:
        text = f"{formula.size(used)} of {formula.size(total)}"
        yield Reading("Memory", text, round(100 * used / total), warns=True)
    if (percent := health.get("utilization")) is not None:
        yield Reading("Processors", f"{percent:.0f} %", round(percent))
