"""The playground: models are asked from the browser, by the same way and within the same limits as by the API."""

from collections.abc import Callable
from functools import wraps
from typing import Any

from django.http import HttpResponse, JsonResponse
from django.http.response import HttpResponseBase
from django.shortcuts import render
from django.views.decorators.http import require_GET, require_POST

from models_registry.pages.playground import code as codes
from models_registry.pages.playground.draft import Draft
from models_registry.pages.playground.page import build, models
from models_registry.serving import body
from models_registry.serving.forward import forwarded
from vbs.accounts.models import Project
from vbs.openai import routes
from vbs.openai.errors import ApiError, NotFound
from vbs.pages.access import Request, View, page
from vbs.pages.viewer import Viewer

MAY = "models_registry.use_playground"


@require_GET
@page(MAY)
def index(request: Request) -> HttpResponse:
    return show(request, Draft())


def show(request: Request, draft: Draft, project: int | None = None, **context: Any) -> HttpResponse:
    """The page with this request in it."""
    return render(request, "playground/index.html", build(request.viewer, draft, project) | context)


@require_GET
@page(MAY)
def choose(request: Request) -> HttpResponse:
    """The models as they are now; those that are chosen stay so."""
    return render(request, "playground/_models.html", models(request.GET.getlist("model")))


def api(view: Callable[..., HttpResponseBase]) -> View:
    """Gives the view the endpoint that is asked for, and words an error as the API does."""

    @wraps(view)
    def answered(request: Request) -> HttpResponseBase:
        route = request.GET.get("endpoint", "")
        try:
            if route not in routes.INTERACTIVE:
                raise NotFound(f"The playground asks nothing at {route[:100]!r}.", code="unknown_route")
            return view(request, route)
        except ApiError as error:
            return JsonResponse(error.body(), status=error.status_code, headers=error.headers())

    return answered


@require_POST
@page(MAY)
@api
def ask(request: Request, route: str) -> HttpResponseBase:
    project = _project(request.viewer, request.GET.get("project", ""))
    request_id = getattr(request, "request_id", "")
    return forwarded(project, route.removeprefix("/v1"), body.read(request), request_id)


@require_POST
@page(MAY)
@api
def code(request: Request, route: str) -> HttpResponseBase:
    """The request in the body as something to copy."""
    return JsonResponse(codes.codes(f"{request.scheme}://{request.get_host()}", route, body.read(request)))


def _project(viewer: Viewer, given: str) -> Project:
    """Raises NotFound, also for a project that the viewer may not see."""
    found = given.isascii() and given.isdigit() and len(given) < 10
    project = viewer.all_own(Project.objects.filter(pk=int(given)), "pk").first() if found else None
    if project is None:
        raise NotFound("Choose one of your projects: the request counts for it.", param="project")
    return project
