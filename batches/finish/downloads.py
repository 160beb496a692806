"""Streams a file, or a batch's output or error lines, to a client of the API or the pages."""

import re
from collections.abc import AsyncIterator, Collection

from asgiref.sync import sync_to_async
from django.http import HttpRequest, HttpResponse, HttpResponseBase, JsonResponse, StreamingHttpResponse
from django.utils.http import content_disposition_header, parse_etags
from rest_framework.request import Request

from batches.files import blobs
from batches.finish import outputs
from batches.models import Batch, File, RequestState
from vbs.openai.docs import BODY
from vbs.openai.errors import NotFound, envelope


def named(filename: str) -> dict[str, str]:
    """Headers with which a browser saves the content under this name, and does not guess its type."""
    disposition = content_disposition_header(True, filename) or "attachment"
    return {"Content-Disposition": disposition, "X-Content-Type-Options": "nosniff"}


def content(
    request: HttpRequest | Request, file: File, content_type: str = "application/octet-stream"
) -> HttpResponseBase:
    """The bytes of a file, or the range that was asked for. A file never changes, so its id is its ETag."""
    etag = f'"{file.pk}"'
    headers = {"ETag": etag, "Accept-Ranges": "bytes"} | named(file.filename)
    if {"*", etag} & {one.removeprefix("W/") for one in parse_etags(request.headers.get("If-None-Match", ""))}:
        return HttpResponse(status=304, headers=headers)
    start, stop, status = 0, file.bytes, 200
    asked = re.fullmatch(r"bytes=(\d{0,18})-(\d{0,18})", request.headers.get("Range", "").strip())
    first, last = asked.groups() if asked else ("", "")
    if last and int(first or 0) > int(last):
        first = last = ""  # a malformed range is ignored
    if (first or last) and request.headers.get("If-Range", etag) == etag:
        if first:
            start, stop = int(first), min(int(last) + 1 if last else file.bytes, file.bytes)
        else:
            start = max(0, file.bytes - int(last))
        if start >= stop:
            headers["Content-Range"] = f"bytes */{file.bytes}"
            message = f"The range '{request.headers['Range'].strip()}' is beyond the file's {file.bytes:,} bytes."
            body = envelope(message, "invalid_request_error", "Range", "range_not_satisfiable")
            return JsonResponse(body, status=416, headers=headers)
        status = 206
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{file.bytes}"
    headers["Content-Length"] = str(stop - start)
    return StreamingHttpResponse(
        blobs.stream(file.blob, start, stop - start), status=status, content_type=content_type, headers=headers
    )


async def lines(batch: Batch, states: Collection[RequestState]) -> AsyncIterator[bytes]:
    """The output lines of the requests that are committed so far."""
    found = await sync_to_async(outputs.page)(batch, states, 0)
    while found:
        yield b"".join(outputs.output_line(row) for row in found)
        found = await sync_to_async(outputs.page)(batch, states, found[-1].line)


def results(
    request: HttpRequest | Request, batch: Batch, file: File | None, states: Collection[RequestState]
) -> HttpResponseBase:
    """The lines of requests in these states: from the file once it is written, before that from the rows."""
    if file and file.is_kept:
        return content(request, file, BODY)
    if file and batch.purged_at:
        raise NotFound("These lines are no longer kept: the batch ended long ago.", param="id", code="results_expired")
    kind = "output" if RequestState.COMPLETED in states else "errors"
    return StreamingHttpResponse(lines(batch, states), content_type=BODY, headers=named(f"{batch.pk}_{kind}.jsonl"))


def output(request: HttpRequest | Request, batch: Batch) -> HttpResponseBase:
    """The lines of requests that were answered so far. Raises NotFound."""
    return results(request, batch, batch.output_file, [RequestState.COMPLETED])


def errors(request: HttpRequest | Request, batch: Batch) -> HttpResponseBase:
    """The lines of requests that have failed, or will not be run. Raises NotFound."""
    return results(request, batch, batch.error_file, RequestState.in_error_file())
