"""The view that chooses the project which pages show."""

from django.http import HttpResponse, HttpResponseBadRequest, HttpResponseRedirect
from django.views.decorators.http import require_POST

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
