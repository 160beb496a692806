"""The pages of the documents, and of the API's routes."""

from functools import cache

from django.http import Http404, HttpResponse
from django.shortcuts import render
from django.template.loader import render_to_string
from django.utils.html import escape
from django.utils.safestring import SafeString
from django.views.decorators.http import require_GET

from vbs.configuration import runtime
from vbs.help import documents
from vbs.help import parts as samples
from vbs.help import reference as routes
from vbs.pages import recipes
from vbs.pages.access import Request, page, strict
from vbs.pages.viewer import viewer_of

MOST_ASKED = 200  # characters


@require_GET
@page()
def start(request: Request) -> HttpResponse:
    """The recipes, or with `q` the search result."""
    asked = request.GET.get("q", "").replace("\0", "").strip()[:MOST_ASKED]
    context = {"parts": documents.parts(), "asked": asked, "pieces": asked.split()}
    if asked:
        return render(request, "help/found.html", context | {"hits": documents.search(asked)})
    model = recipes.model()
    server = f"{request.scheme}://{request.get_host()}"
    context |= {
        "server": server,
        "model": model,
        "recipes": recipes.recipes(server, model, runtime.value("VBS_COMPLETION_WINDOWS")[0]),
    }
    return render(request, "help/index.html", context)


@require_GET
@strict
def reference(request: Request) -> HttpResponse:
    """Every route of the API, also for who has not signed in."""
    if request.user.is_authenticated:
        request.viewer = viewer_of(request.user, request.session)
    shown = routes.reference()
    address = escape(f"{request.scheme}://{request.get_host()}")
    context = {
        "reference": shown,
        "introduction": SafeString(shown.introduction.html),
        "operations": SafeString(_operations().replace(routes.SERVER, address)),
    }
    return render(request, "help/reference.html", context)


@cache
def _operations() -> str:
    """The operations as HTML, which is the same for everybody but for the server's address."""
    return render_to_string("help/_operations.html", {"groups": routes.reference().groups})


@require_GET
@page()
def parts(request: Request) -> HttpResponse:
    """Every part that pages are made of."""
    return render(request, "help/parts.html", samples.context())


@require_GET
@page()
def document(request: Request, name: str) -> HttpResponse:
    if (found := documents.document(name)) is None:
        raise Http404
    shown = SafeString(found.rendered.html)  # the renderer lets no HTML of the document through
    return render(request, "help/document.html", {"parts": documents.parts(), "document": found, "shown": shown})
