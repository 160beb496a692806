"""A creation that is sent twice is done once: `Idempotency-Key` names it, and its answer is kept for a day.

The answer is written in the transaction that creates the object: a crash leaves both or neither. Of two requests at the
same time, the second waits for the row of the first and then gets the same answer.
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


class IdempotentCreation:
    """One creation. Raises InvalidRequest when its key is not a valid one."""

    def __init__(self, request: Request) -> None:
        self._key = request.headers.get(HEADER)
        if self._key is None:
            return
        if not (0 < len(self._key) <= MOST_KEY and self._key.isprintable()):
            raise InvalidRequest(
                f"Invalid '{HEADER}': it has {len(self._key)} characters. Send 1 to {MOST_KEY} printable characters.",
                param=HEADER,
            )
        self._project = project_of(request)
        place = [self._project.pk, request.method, request.path_info.rstrip("/"), self._key]
        self._id = hashlib.sha256(orjson.dumps(place)).hexdigest()
        self._body = fingerprint(request.data)

    def answer(self) -> Response | None:
        """The kept answer, or None for the first time. Call it before work that a kept answer makes needless. Raises
        Conflict when the body was another one then."""
        if self._key is None:
            return None
        return self._kept_answer(KeptAnswer.objects.filter(pk=self._id, created_at__gt=Now() - KEPT).first())

    def make(self, create: Callable[[], Response]) -> Response:
        """The answer of `create`, which makes the object in this transaction; or the kept answer."""
        with transaction.atomic():
            if self._key is None:
                return create()
            KeptAnswer.objects.filter(pk=self._id, created_at__lte=Now() - KEPT).delete()
            row = KeptAnswer(pk=self._id, project=self._project, fingerprint=self._body)
            KeptAnswer.objects.bulk_create([row], ignore_conflicts=True)  # waits while another request has the same key
            found = KeptAnswer.objects.get(pk=self._id)
            if kept := self._kept_answer(found):
                return kept
            response = create()
            KeptAnswer.objects.filter(pk=self._id).update(status=response.status_code, body=json.dumps(response.data))
            return response

    def _kept_answer(self, found: KeptAnswer | None) -> Response | None:
        if found is None:
            return None
        if found.fingerprint != self._body:
            raise Conflict(
                f"This '{HEADER}' was sent with another body before. Use a new key for each creation.",
                param=HEADER,
                code="idempotency_conflict",
            )
        return Response(json.loads(found.body), status=found.status) if found.status else None


def idempotent(handler: Callable[..., Response]) -> Callable[..., Response]:
    """Decorates a view's `post` that only creates something in the database, and takes no time for it."""

    def post(self: Any, request: Request, **named: Any) -> Response:
        return IdempotentCreation(request).make(lambda: handler(self, request, **named))

    return post


def fingerprint(data: Any) -> str:
    """A digest of a body. It does not depend on the spaces of JSON or the boundaries of a multipart form."""
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
    """Delete the answers that have been kept for a day."""
    while old := list(KeptAnswer.objects.filter(created_at__lte=Now() - KEPT).values_list("pk")[:MOST_PURGED]):
        KeptAnswer.objects.filter(pk__in=[pk for (pk,) in old]).delete()
