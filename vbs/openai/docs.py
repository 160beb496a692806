"""Pieces of the OpenAPI description that every route shares."""

from typing import Any

from drf_spectacular.extensions import OpenApiAuthenticationExtension
from drf_spectacular.plumbing import resolve_type_hint
from drf_spectacular.utils import OpenApiParameter

from vbs.openai.schema import ErrorObject
from vbs.places import PROGRAM

BODY = "application/x-ndjson"


def schema_of(wire: Any) -> Any:
    """The schema of a wire object."""
    return resolve_type_hint(wire)


ERRORS = {
    (status, "application/json"): schema_of(ErrorObject)
    for status in (400, 401, 404, 405, 409, 413, 415, 429, 500, 503, 507)
}
PAGING = [
    OpenApiParameter("after", str, description="The id of the last object of the page before"),
    OpenApiParameter("limit", int),
    OpenApiParameter("order", str, enum=["asc", "desc"]),
]


class BearerKey(OpenApiAuthenticationExtension):
    """Describes how a key is sent, for /openapi.json and for the button of /docs. It registers itself."""

    target_class = "vbs.openai.authentication.ApiKeyAuthentication"
    name = "ApiKey"

    def get_security_definition(self, auto_schema: Any) -> dict[str, str]:
        return {"type": "http", "scheme": "bearer", "description": f"sk-vbs-…, from '{PROGRAM} create_api_key'"}
