"""The pages of workers and of the disk. Seeing workers needs an account; changing something needs an operator."""

from collections.abc import Callable
from uuid import UUID

from django.contrib import messages
from django.db import transaction
from django.http import HttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import get_object_or_404, redirect, render, resolve_url
from django.views.decorators.http import require_GET, require_http_methods

from models_registry.catalog import disk
from models_registry.catalog.folders import ModelError
from models_registry.gpu import control
from models_registry.models import Worker
from models_registry.pages.system.page import OPERATES, build
from vbs.configuration import audit
from vbs.live.pages import show
from vbs.pages.access import Request, page
from vbs.pages.confirm import confirm
from vbs.pages.words import size
from vbs.places import PROGRAM


@require_GET
@page()
def index(request: Request) -> HttpResponse:
    return show(request, "system/index.html", build(request.viewer, request.GET))


# What is done with a worker


@require_http_methods(["GET", "POST"])
@page(OPERATES)
def restart(request: Request, pk: UUID) -> HttpResponseBase:
    worker = _found(pk)
    others = "Every process of its cluster restarts with it." if worker.cluster == "io" else "Its engine ends too."
    words = [
        *control.doing(worker, request.viewer),
        f"{others} That takes up to half a minute; nothing is lost.",
        f"What watches over it starts it again: '{PROGRAM} up', or your service manager. One that was started by hand "
        "stays away.",
    ]
    done = f"{worker} restarts within 5 seconds, or as soon as its work can be handed back."
    title, step = f"Restart {worker}?", lambda: control.restart(worker)
    return _ask(request, worker, "restart", title, "Restart the worker", words, done, step)


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
        "Restart the engine",
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
    title, step = f"Free the GPU memory of {worker}?", lambda: control.free(worker, user)
    return _ask(request, worker, "free", title, "Free the GPU memory", words, done, step)


def _ask(
    request: Request,
    worker: Worker,
    verb: str,
    title: str,
    button: str,
    words: list[str],
    done: str,
    step: Callable[[], object],
) -> HttpResponseBase:
    """Asks first; once the person has agreed, does the step. Nothing is lost by it, so nothing is red."""
    if request.method == "GET":
        back = resolve_url("system")
        return confirm(request, title=title, words=words, button=button, back=back, danger=False)
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


# The disk


@require_http_methods(["GET", "POST"])
@page(OPERATES)
def clean(request: Request) -> HttpResponseBase:
    """Shows what the disk holds and what can be deleted, and deletes it."""
    if request.method == "GET":
        return _disk(request)
    mine = {cleaner.name for cleaner in disk.CLEANERS if _may_clean(request, cleaner)}
    names = set(request.POST.getlist("what"))
    if not names or not names <= mine:
        return _disk(
            request,
            "Choose what to delete." if not names else "This cannot be deleted here: choose from the list.",
            422,
        )
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
