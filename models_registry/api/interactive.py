"""The routes that answer at once: a request goes to the engine that has its model, and its answer comes back."""

from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework.parsers import BaseParser
from rest_framework.request import Request
from rest_framework.views import APIView

from models_registry.serving import body
from models_registry.serving.forward import Forwarded, forwarded
from vbs.openai.authentication import project_of
from vbs.openai.docs import ERRORS, schema_of
from vbs.openai.raw_json import Members
from vbs.openai.schema import ErrorObject

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
        return body.read(stream)


class Interactive(APIView):
    """path: below `/v1`, for the engine as for us."""

    path = ""
    parser_classes = [RawObjectParser]

    @extend_schema(request={"application/json": OBJECT}, responses=ANSWERS)
    def post(self, request: Request) -> Forwarded:
        members: Any = request.data
        return forwarded(project_of(request), self.path, members, getattr(request, "request_id", ""))
