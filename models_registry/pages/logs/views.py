"""The page of logs, for people who see all projects; and the download of a whole log, for admins."""

import os
from collections.abc import AsyncIterator
from pathlib import Path

from asgiref.sync import sync_to_async
from django.http import Http404, HttpResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.views.decorators.http import require_GET

from models_registry.pages.logs import files
from models_registry.pages.logs.page import PERMISSION, WHOLE, build, chosen, sources
from vbs.configuration import audit
from vbs.live.pages import PageGone, show
from vbs.pages.access import Request, page

PIECE = 256 * 1024


@require_GET
@page(PERMISSION)
def log(request: Request) -> HttpResponse:
    """`still`: the log as it is now, without updates."""
    try:
        parts = build(request.viewer, request.GET)
        key, _, _ = chosen(request.GET)
    except PageGone:
        raise Http404 from None
    return show(
        request,
        "system/log.html",
        parts,
        sources=sources(),
        key=key,
        still="still" in request.GET,
        may_download=request.viewer.may(WHOLE) and not parts["log"].context["missing"],
    )


@require_GET
@page(WHOLE)
def download(request: Request) -> HttpResponseBase:
    """The whole log, without keys."""
    try:
        _, name, path = chosen(request.GET)
        if path is None:
            raise PageGone
        with files.opened(path):
            pass
    except (PageGone, OSError):
        raise Http404 from None
    audit.record(request, "log.download", name, path.name)
    response = StreamingHttpResponse(_pieces(path), content_type="text/plain; charset=utf-8")
    response.headers["Content-Disposition"] = f'attachment; filename="{path.name}"'
    response.headers["X-Content-Type-Options"] = "nosniff"
    return response


async def _pieces(path: Path) -> AsyncIterator[bytes]:
    """The file up to its present end, in whole lines where they are not endless, so that no key is cut in two."""
    with files.opened(path) as file:
        left = os.fstat(file.fileno()).st_size
        while left > 0:
            data = await sync_to_async(file.read)(min(PIECE, left))
            rest = await sync_to_async(file.readline)(PIECE) if data and not data.endswith(b"\n") else b""
            if not data:
                return
            left -= len(data) + len(rest)
            yield files.masked(data + rest)
