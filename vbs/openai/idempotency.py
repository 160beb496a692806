"""A creation that is sent twice is done once: `Idempotency-Key` names it, and its answer is kept for a day.

The answer is written in the transaction that creates the object: either both are there or neither, whenever we die.
Of two at the same time the second waits at the row of the first, and answers what that has answered.
"""

import hashlib
import json
from collections.abc import Callable
from typing import Any

import orjson
from django.core.files.uploadedfile import UploadedFile
from django.db import transaction
from django.db.models.functions import Now
from django.http import QueryDict
from drf_spectacular.utils import OpenApiParameter
from rest_framework.request import Request
from rest_framework.response import Response

from vbs.accounts.models import KeptAnswer
from vbs.openai.authentication import project_of
from vbs.openai.errors import Conflict, InvalidRequest

HEADER = "Idempotency-Key"
KEPT = KeptAnswer.KEPT
MOST_KEY = 255  # characters
MOST_PURGED = 10_000  # at once

PARAMETER = OpenApiParameter(
    HEADER,
    str,
    OpenApiParameter.HEADER,
    description="The same creation sent again with it within 24 hours is done once",
)


class Once:
    """One creation. Raises InvalidRequest when its key cannot be one."""

    def __init__(self, request: Request) -> None:
        self._key = request.headers.get(HEADER)
        if self._key is None:
            return
        if not (0 < len(self._key) <= MOST_KEY and self._key.isprintable()):
            raise InvalidRequest(
                f"Invalid '{HEADER}': it has {len(self._key)} characters; it must have 1 to {MOST_KEY}, all printable.",
                param=HEADER,
            )
        self._project = project_of(request)
        place = [self._project.pk, request.method, request.path_info.rstrip("/"), self._key]
        self._id = hashlib.sha256(orjson.dumps(place)).hexdigest()
        self._body = fingerprint(request.data)

    def answer(self) -> Response | None:
        """What was answered the first time, or None: ask before work that would be in vain. Raises Conflict."""
        if self._key is None:
            return None
        return self._told(KeptAnswer.objects.filter(pk=self._id, created_at__gt=Now() - KEPT).first())

    def make(self, create: Callable[[], Response]) -> Response:
        """The answer of `create`, which makes the object in this transaction; or what was answered the first time."""
        with transaction.atomic():
            if self._key is None:
                return create()
            KeptAnswer.objects.filter(pk=self._id, created_at__lte=Now() - KEPT).delete()
            row = KeptAnswer(pk=self._id, project=self._project, fingerprint=self._body)
            KeptAnswer.objects.bulk_create([row], ignore_conflicts=True)  # waits for whoever does the same just now
            found = KeptAnswer.objects.get(pk=self._id)
            if told := self._told(found):
                return told
            response = create()
            KeptAnswer.objects.filter(pk=self._id).update(status=response.status_code, body=json.dumps(response.data))
            return response

    def _told(self, found: KeptAnswer | None) -> Response | None:
        if found is None:
            return None
        if found.fingerprint != self._body:
            raise Conflict(
                f"This '{HEADER}' was sent with another body before: use a new one for each creation.",
                param=HEADER,
                code="idempotency_conflict",
            )
        return Response(json.loads(found.body), status=found.status) if found.status else None


def once(handler: Callable[..., Response]) -> Callable[..., Response]:
    """For a view's `post` that does nothing but create, quickly and in the database alone."""

    def post(self: Any, request: Request, **named: Any) -> Response:
        return Once(request).make(lambda: handler(self, request, **named))

    return post


def fingerprint(data: Any) -> str:
    """Of a body, however its JSON is spaced and its multipart form is cut."""
    digest = hashlib.sha256()
    if not isinstance(data, QueryDict):
        try:
            digest.update(orjson.dumps(data, option=orjson.OPT_SORT_KEYS))
        except TypeError as error:
            raise InvalidRequest(f"The body is nested too deeply: {error}") from None
        return digest.hexdigest()
    for name in sorted(data):
        for value in data.getlist(name):
            shown = ["file", value.name, _content(value)] if isinstance(value, UploadedFile) else ["text", value]
            digest.update(orjson.dumps([name, *shown]))
    return digest.hexdigest()


def _content(file: UploadedFile) -> str:
    digest = hashlib.sha256()
    for chunk in file.chunks():
        digest.update(chunk)
    file.seek(0)
    return digest.hexdigest()


def purge() -> None:
    """What is kept no longer."""
    while old := list(KeptAnswer.objects.filter(created_at__lte=Now() - KEPT).values_list("pk")[:MOST_PURGED]):
        KeptAnswer.objects.filter(pk__in=[pk for (pk,) in old]).delete()
