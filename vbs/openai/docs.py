"""The OpenAPI description: pieces that every route shares, and what the apps' tables of operations add to it."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from drf_spectacular.extensions import OpenApiAuthenticationExtension
from drf_spectacular.plumbing import resolve_type_hint
from drf_spectacular.utils import OpenApiParameter

from vbs.openai.introduction import ABOUT, PATHS, SAMPLES, TAGS
from vbs.openai.schema import ErrorObject
from vbs.places import PROGRAM

JSON, FORM, BODY = "application/json", "multipart/form-data", "application/x-ndjson"
METHODS = ("get", "post", "put", "patch", "delete")

Document = dict[str, Any]


def schema_of(wire: Any) -> Any:
    """The schema of a wire object."""
    return resolve_type_hint(wire)


ERRORS = {(status, JSON): schema_of(ErrorObject) for status in (400, 401, 404, 405, 409, 413, 415, 429, 500, 503, 507)}
PAGING = [
    OpenApiParameter("after", str, description="The id of the last object of the page before"),
    OpenApiParameter("limit", int, description="How many objects a page has at most"),
    OpenApiParameter("order", str, enum=["asc", "desc"], description="desc, the default, is newest first"),
]


@dataclass(frozen=True)
class Operation:
    """What the description says of one operation, with an example. Each example is true: a test sends it and compares
    what comes back.

    route: method and path. given: parameters of the example, by name. sent: its body as JSON. form: its body as a form,
    in which `@PATH` stands for a file of the repository. answer: the answer in JSON. texts: answers in other formats.
    """

    route: str
    tag: str
    summary: str
    description: str = ""
    given: dict[str, Any] = field(default_factory=dict)
    sent: dict[str, Any] | None = None
    form: dict[str, str] | None = None
    answer: Any = None
    texts: dict[str, str] = field(default_factory=dict)
    status: int = 200


def describe(document: Document, operations: Iterable[Operation]) -> Document:
    """Adds words and examples to the document's operations, and puts these in this order behind those that were
    described before."""
    paths = document["paths"]
    for one in operations:
        method, path = one.route.split(" ")
        methods = paths[path] = paths.pop(path)
        methods[method.lower()] = operation = methods.pop(method.lower())
        operation |= {"tags": [one.tag], "summary": one.summary, "description": one.description or f"{one.summary}."}
        for parameter in operation.get("parameters", []):
            if parameter["in"] == "path":
                parameter["description"] = PATHS[parameter["name"]]
            if parameter["name"] in one.given:
                parameter["example"] = one.given[parameter["name"]]
        for kind, body in ((JSON, one.sent), (FORM, one.form)):
            if body is not None:
                operation["requestBody"]["content"][kind]["example"] = body
        answers = {JSON: one.answer, **one.texts}
        for kind, answer in answers.items():
            if answer is not None:
                operation["responses"][str(one.status)]["content"][kind]["example"] = answer
    return document


def finish(result: Document, **given: Any) -> Document:
    """The last hook of drf-spectacular: the introduction, the order of the tags, and the errors, which every operation
    has in common."""
    result["info"]["description"] = ABOUT
    result["tags"] = [{"name": name, "description": words} for name, words in TAGS.items()]
    shared: dict[str, Any] = {}
    for path, methods in result["paths"].items():
        if not path.startswith("/v1/"):
            continue
        for method in set(methods) & set(METHODS):
            responses = methods[method]["responses"]
            for status in [one for one in responses if one >= "400"]:
                words, sample = SAMPLES[status]
                shared[f"Error{status}"] = responses[status] | {"description": words}
                shared[f"Error{status}"]["content"][JSON]["example"] = sample
                responses[status] = {"$ref": f"#/components/responses/Error{status}"}
    result["components"]["responses"] = dict(sorted(shared.items()))
    return result


class BearerKey(OpenApiAuthenticationExtension):
    """Describes how a key is sent. It registers itself."""

    target_class = "vbs.openai.authentication.ApiKeyAuthentication"
    name = "ApiKey"

    def get_security_definition(self, auto_schema: Any) -> dict[str, str]:
        return {"type": "http", "scheme": "bearer", "description": f"sk-vbs-…, from '{PROGRAM} create_api_key'"}
