"""The parts of the page of logs: the end of one log, live."""

from collections.abc import Iterable
from pathlib import Path
from urllib.parse import urlencode
from uuid import UUID

from django.http import QueryDict
from django.urls import reverse

from models_registry.models import Worker
from models_registry.pages.logs import files
from vbs.live.pages import Page, PageGone
from vbs.pages.parts import Part, pulse
from vbs.pages.viewer import Viewer
from vbs.places import PROGRAM

PERMISSION = "accounts.view_project"  # whoever sees all projects, for a log names batches of any
WHOLE = "models_registry.delete_worker"  # admins may download a whole log


def sources() -> list[tuple[str, str]]:
    """The logs that a viewer can choose, with their titles. Engines come first."""
    found = [(str(worker.pk), f"Engine of {worker}") for worker in _engines() if files.of_engine(worker)]
    return found + [(name, name) for name in files.PROGRAMS]


def chosen(query: QueryDict) -> tuple[str, str, Path | None]:
    """The chosen log, else the first: its key, its title and its file. Raises PageGone."""
    key = query.get("of") or sources()[0][0]
    if key in files.PROGRAMS:
        return key, key, files.of_program(key)
    try:
        worker = Worker.objects.filter(pk=UUID(key), cluster="gpu").first()
    except ValueError:
        raise PageGone(key) from None
    if worker is None:
        raise PageGone(key)
    return key, f"Engine of {worker}", files.of_engine(worker)


def build(viewer: Viewer, query: QueryDict) -> dict[str, Part]:
    key, name, path = chosen(query)
    missing, tail = "", files.LogTail((), 0, False)
    try:
        if path is None:
            missing = "No log on this machine: the engine has not started yet, or runs elsewhere."
        else:
            tail = files.tail(path)
            missing = "" if tail.lines else "The log is empty."
    except FileNotFoundError:
        missing = f"No log yet. Programs that '{PROGRAM} up' did not start write their logs elsewhere."
    except OSError as error:
        missing = f"The log cannot be read: {error.strerror or error}."
    about = {"name": name, "file": path.name if path else "", "tail": tail, "missing": missing}
    return {
        "log": Part("log", "system/_log.html", about),
        "lines": Part("lines", "system/_lines.html", about),
        "pulse": pulse(f"{reverse('system-log-live')}?{urlencode({'of': key})}", every=2),
    }


def _engines() -> Iterable[Worker]:
    return Worker.objects.filter(cluster="gpu").order_by("-heartbeat_at")[:20]


PAGE = Page(build=build, topics=lambda: ("workers",), permission=PERMISSION)
