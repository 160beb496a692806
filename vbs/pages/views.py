"""The views that every page uses: they choose the project that pages show, and find what to jump to."""

from django.http import HttpRequest, HttpResponse, HttpResponseBadRequest, HttpResponseRedirect, JsonResponse
from django.templatetags.static import static
from django.views.decorators.http import require_GET, require_POST

from vbs.pages import jump as jumping
from vbs.pages.access import Request, page, way_back
from vbs.pages.viewer import CHOSEN, choices


@require_POST
@page()
def choose_project(request: Request) -> HttpResponse:
    """Shows this project only, or for an empty value all visible ones; then returns to the page before."""
    chosen = request.POST.get("project", "")
    if not chosen:
        request.session.pop(CHOSEN, None)
    elif (found := next((one for one in choices(request.viewer) if str(one.pk) == chosen), None)) is not None:
        request.session[CHOSEN] = found.pk
    else:
        return HttpResponseBadRequest("'project' must be one of yours.", content_type="text/plain")
    return HttpResponseRedirect(way_back(request, request.POST.get("next", "")) or "/")


@require_GET
def icon(request: HttpRequest) -> HttpResponse:
    """For pages of other packages, which name no icon."""
    return HttpResponseRedirect(static("favicon.svg"))


@require_GET
@page()
def jump(request: Request) -> JsonResponse:
    """What `q` finds, in all projects of the viewer: batches, models, pages and documents."""
    return JsonResponse({"found": jumping.found(request.viewer, request.GET.get("q", ""))})
