"""The pages of the system. Looking at workers needs an account; logs, and what changes anything, operators."""

import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from uuid import UUID

from asgiref.sync import sync_to_async
from django.contrib import messages
from django.db import transaction
from django.http import Http404, HttpResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import get_object_or_404, redirect, render, resolve_url
from django.views.decorators.http import require_GET, require_http_methods

from models_registry.catalog import disk
from models_registry.catalog.folders import ModelError
from models_registry.gpu import control
from models_registry.models import Worker
from models_registry.pages import logfiles, system, system_log
from models_registry.pages.system import OPERATES
from vbs.configuration import audit
from vbs.live.pages import Gone, show
from vbs.pages.access import Request, page
from vbs.pages.confirm import confirm
from vbs.pages.words import size

PIECE = 256 * 1024


@require_GET
@page()
def index(request: Request) -> HttpResponse:
    return show(request, "system/index.html", system.build(request.viewer, request.GET))


# What is done with a worker


@require_http_methods(["GET", "POST"])
@page(OPERATES)
def restart(request: Request, pk: UUID) -> HttpResponseBase:
    worker = _found(pk)
    others = "Every process of its cluster starts anew with it." if worker.cluster == "io" else "Its engine ends too."
    words = [
        *control.doing(worker, request.viewer),
        f"{others} That takes up to half a minute; nothing is lost.",
        "What watches over it starts it again: 'manage.py up', or your service manager. One that was started by hand "
        "stays away.",
    ]
    done = f"{worker} starts anew within 5 seconds, or as soon as what it does can be put back."
    return _ask(request, worker, "restart", f"Restart {worker}?", words, done, lambda: control.restart(worker))


@require_http_methods(["GET", "POST"])
@page(OPERATES)
def engine(request: Request, pk: UUID) -> HttpResponseBase:
    worker, user = _found(pk), request.user.get_username()
    words = [
        *control.doing(worker, request.viewer),
        f"The engine of {worker.model_name} ends and is started again, before everything that waits.",
    ]
    done = f"The engine of {worker.model_name} starts again."
    return _ask(
        request,
        worker,
        "restart-engine",
        f"Restart the engine of {worker}?",
        words,
        done,
        lambda: control.restart_engine(worker, user),
    )


@require_http_methods(["GET", "POST"])
@page(OPERATES)
def free(request: Request, pk: UUID) -> HttpResponseBase:
    worker, user = _found(pk), request.user.get_username()
    words = [
        *control.doing(worker, request.viewer),
        f"{worker.model_name} is taken off the GPU.",
        "A batch that waits, or was interrupted, loads its model again at once. To keep the memory free, pause the "
        "queue first.",
    ]
    done = f"{worker.model_name} is taken off the GPU."
    return _ask(request, worker, "free", f"Free the GPU of {worker}?", words, done, lambda: control.free(worker, user))


def _ask(
    request: Request, worker: Worker, verb: str, title: str, words: list[str], done: str, step: Callable[[], object]
) -> HttpResponseBase:
    """The question; and once it is answered, the step."""
    if request.method == "GET":
        button = title.partition(" of ")[0].removesuffix("?") if verb != "restart" else "Restart it"
        return confirm(request, title=title, words=words, button=button, back=resolve_url("system"))
    try:
        with transaction.atomic():
            step()
            detail = f"{worker.model_name}: {words[0]}" if verb != "restart" else words[0]
            audit.record(request, f"worker.{verb}", str(worker), detail)
    except ModelError as error:
        messages.error(request, str(error))
    else:
        messages.success(request, done)
    return redirect("system")


def _found(pk: UUID) -> Worker:
    return get_object_or_404(Worker, pk=pk)


# Logs


@require_GET
@page(system_log.PERMISSION)
def log(request: Request) -> HttpResponse:
    """`still`: as it is now, without going on."""
    try:
        parts = system_log.build(request.viewer, request.GET)
        key, _, _ = system_log.chosen(request.GET)
    except Gone:
        raise Http404 from None
    return show(
        request,
        "system/log.html",
        parts,
        sources=system_log.sources(),
        key=key,
        still="still" in request.GET,
        may_download=request.viewer.may(system_log.WHOLE) and not parts["log"].context["missing"],
    )


@require_GET
@page(system_log.WHOLE)
def download(request: Request) -> HttpResponseBase:
    """The whole of it, without keys."""
    try:
        _, name, path = system_log.chosen(request.GET)
        if path is None:
            raise Gone
        with logfiles.opened(path):
            pass
    except (Gone, OSError):
        raise Http404 from None
    audit.record(request, "log.download", name, path.name)
    response = StreamingHttpResponse(_pieces(path), content_type="text/plain; charset=utf-8")
    response.headers["Content-Disposition"] = f'attachment; filename="{path.name}"'
    response.headers["X-Content-Type-Options"] = "nosniff"
    return response


async def _pieces(path: Path) -> AsyncIterator[bytes]:
    """Up to its present end. Whole lines where these are not endless, so that a key is not cut in two."""
    with logfiles.opened(path) as file:
        left = os.fstat(file.fileno()).st_size
        while left > 0:
            data = await sync_to_async(file.read)(min(PIECE, left))
            rest = await sync_to_async(file.readline)(PIECE) if data and not data.endswith(b"\n") else b""
            if not data:
                return
            left -= len(data) + len(rest)
            yield logfiles.masked(data + rest)


# The disk


@require_http_methods(["GET", "POST"])
@page(OPERATES)
def clean(request: Request) -> HttpResponseBase:
    """What the disk holds, and what can go; and letting it go."""
    if request.method == "GET":
        return _disk(request)
    mine = {cleaner.name for cleaner in disk.CLEANERS if _may_clean(request, cleaner)}
    names = set(request.POST.getlist("what"))
    if not names or not names <= mine:
        return _disk(request, "Tick what is to go." if not names else "That is not among what you can clean.", 422)
    done = disk.clean(names)
    freed, count = sum(use.bytes for use in done.values()), sum(use.files for use in done.values())
    detail = ", ".join(f"{name}: {use.files:,} files, {size(use.bytes)}" for name, use in done.items())
    audit.record(request, "disk.clean", "", detail)
    more = " There is more of it: clean again." if any(use.more for use in done.values()) else ""
    messages.success(request, f"{count:,} files are deleted, and {size(freed)} are free again.{more}")
    return redirect("system-disk")


def _disk(request: Request, error: str = "", status: int = 200) -> HttpResponse:
    found = disk.report()
    cleaners = [(cleaner, use) for cleaner, use in found.cleaners if _may_clean(request, cleaner)]
    nothing = not any(use.files for _, use in cleaners)
    context = {"report": found, "cleaners": cleaners, "nothing": nothing, "error": error}
    return render(request, "system/disk.html", context, status=status)


def _may_clean(request: Request, cleaner: disk.Cleaner) -> bool:
    return not cleaner.permission or request.viewer.may(cleaner.permission)
