"""The routes that answer at once: a request goes to the engine that has its model, and its answer comes back."""

from typing import Any

from django.conf import settings
from drf_spectacular.utils import extend_schema
from rest_framework.parsers import BaseParser
from rest_framework.request import Request
from rest_framework.views import APIView

from models_registry.serving import body, swap
from models_registry.serving.forward import Asked, Forwarded
from vbs.openai import raw_json
from vbs.openai.authentication import project_of
from vbs.openai.docs import ERRORS, schema_of
from vbs.openai.errors import InvalidRequest, TooLarge
from vbs.openai.raw_json import Members, NotAnObject
from vbs.openai.schema import ErrorObject
from vbs.web.limits import MB

OBJECT = {"type": "object", "additionalProperties": True}
ANSWERS: dict[Any, Any] = {
    (200, "application/json"): OBJECT,
    (200, "text/event-stream"): {"type": "string"},
    **ERRORS,
    **{(status, "application/json"): schema_of(ErrorObject) for status in (502, 504)},
}


class RawObjectParser(BaseParser):
    """Parses a JSON object whose members stay as they were sent."""

    media_type = "application/json"

    def parse(self, stream: Any, media_type: str | None = None, parser_context: Any = None) -> Members:
        most = settings.VBS_MAX_LINE_MB * MB
        text = stream.read(most + 1)
        if len(text) > most:
            raise TooLarge(f"The request body has more than {most} bytes (VBS_MAX_LINE_MB).")
        try:
            return raw_json.members(text)
        except NotAnObject as error:
            raise InvalidRequest(f"The body must be a JSON object: {error}", code="invalid_body") from error


class Interactive(APIView):
    """path: below `/v1`, for the engine as for us."""

    path = ""
    parser_classes = [RawObjectParser]

    @extend_schema(request={"application/json": OBJECT}, responses=ANSWERS)
    def post(self, request: Request) -> Forwarded:
        members: Any = request.data
        body.check(self.path, members)
        name = body.model_name(members)
        project, request_id = project_of(request), getattr(request, "request_id", "")
        return Forwarded(Asked(project, self.path, name, members, swap.find_or_load(name, project), request_id))
