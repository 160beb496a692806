"""The reference of the API for people: what /openapi.json describes, with a command to copy for each operation."""

import json
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from http import HTTPStatus
from typing import Any
from urllib.parse import quote, urlencode

from drf_spectacular.generators import SchemaGenerator

from vbs.help import markdown

METHODS = ("get", "post", "put", "patch", "delete")
JSON = "application/json"
SERVER = "https://server.invalid"  # replaced by the address that a browser has asked
MOST_NESTED = 4  # levels of objects that a table of fields goes into

Node = dict[str, Any]


@dataclass(frozen=True)
class Field:
    """A parameter, or a field of a body. place: path, query, header, or empty for a body."""

    name: str
    kind: str
    words: str
    required: bool = False
    place: str = ""


@dataclass(frozen=True)
class Body:
    """An answer of a status in one format. id: of the example on the page."""

    id: str
    status: str
    kind: str
    example: str
    fields: tuple[Field, ...]


@dataclass(frozen=True)
class Command:
    """A request as a command line. id: of the command on the page."""

    id: str
    title: str
    code: str


@dataclass(frozen=True)
class Shown:
    """An operation on the page. id: its anchor."""

    id: str
    method: str
    path: str
    summary: str
    words: str
    needs_key: bool
    parameters: tuple[Field, ...]
    bodies: tuple[tuple[str, tuple[Field, ...]], ...]
    commands: tuple[Command, ...]
    answers: tuple[Body, ...]
    errors: tuple[str, ...]


@dataclass(frozen=True)
class Group:
    id: str
    name: str
    words: str
    operations: tuple[Shown, ...]


@dataclass(frozen=True)
class Error:
    status: str
    name: str
    words: str
    example: str


@dataclass(frozen=True)
class Reference:
    """introduction: HTML without anything of a person."""

    introduction: markdown.Rendered
    groups: tuple[Group, ...]
    errors: tuple[Error, ...]


@cache
def reference() -> Reference:
    """The reference of this server's routes, whose address in the commands is SERVER."""
    return of(SchemaGenerator().get_schema(request=None, public=True), SERVER)


def of(document: Node, server: str) -> Reference:
    """The reference of this document. server: scheme and host, as the commands have them."""
    grouped: dict[str, list[Shown]] = {tag["name"]: [] for tag in document["tags"]}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            if method in METHODS:
                grouped[operation["tags"][0]].append(_shown(document, server, method, path, operation))
    words = {tag["name"]: tag["description"] for tag in document["tags"]}
    groups = (Group(markdown.anchor(name), name, _html(words[name]), tuple(found)) for name, found in grouped.items())
    introduction = markdown.render(document["info"]["description"], lambda address: None)
    return Reference(introduction, tuple(groups), tuple(_errors(document)))


def _shown(document: Node, server: str, method: str, path: str, operation: Node) -> Shown:
    name = operation["operationId"]
    content = operation.get("requestBody", {}).get("content", {})
    answers = [
        (status, kind, body)
        for status, answer in operation["responses"].items()
        for kind, body in answer.get("content", {}).items()
        if "example" in body
    ]
    return Shown(
        id=name,
        method=method.upper(),
        path=path,
        summary=operation["summary"],
        words=_html(operation["description"]),
        needs_key=bool(operation.get("security")),
        parameters=tuple(
            Field(
                one["name"],
                _kind(document, one["schema"]),
                one.get("description", ""),
                one.get("required", False),
                one["in"],
            )
            for one in operation.get("parameters", [])
        ),
        bodies=tuple(
            (kind, tuple(_fields(document, body["schema"]))) for kind, body in content.items() if "example" in body
        ),
        commands=tuple(
            Command(f"send-{name}-{number}", title, code)
            for number, (title, code) in enumerate(_commands(server, method, path, operation), 1)
        ),
        answers=tuple(
            Body(f"get-{name}-{number}", status, kind, _text(body["example"]), tuple(_fields(document, body["schema"])))
            for number, (status, kind, body) in enumerate(answers, 1)
        ),
        errors=tuple(sorted(status for status in operation["responses"] if status >= "400")),
    )


def _commands(server: str, method: str, path: str, operation: Node) -> Iterator[tuple[str, str]]:
    """A title, which is the format of the body, and a command for each body; one command where there is none."""
    words = ["curl -s"]
    content = {
        kind: body["example"]
        for kind, body in operation.get("requestBody", {}).get("content", {}).items()
        if "example" in body
    }
    if method != ("post" if content else "get"):
        words.append(f"-X {method.upper()}")
    words.append(shlex.quote(server + _address(path, operation)))
    if operation.get("security"):
        words.append('-H "Authorization: Bearer $KEY"')
    start = " ".join(words)
    for kind, body in content.items():
        if kind == JSON:
            sent = f'-H "Content-Type: {JSON}" \\\n     -d {shlex.quote(json.dumps(body, ensure_ascii=False))}'
        else:
            sent = " ".join(f"-F {shlex.quote(f'{name}={value}')}" for name, value in body.items())
        yield kind, f"{start} \\\n     {sent}"
    if not content:
        yield "", start


def _address(path: str, operation: Node) -> str:
    """The path with the example's parameters in it."""
    query = {}
    for one in operation.get("parameters", []):
        if "example" in one and one["in"] == "path":
            path = path.replace(f"{{{one['name']}}}", quote(one["example"]))
        elif "example" in one and one["in"] == "query":
            value = one["example"]
            query[one["name"]] = str(value).lower() if isinstance(value, bool) else value
    return f"{path}?{urlencode(query, safe='/')}" if query else path


def _errors(document: Node) -> Iterator[Error]:
    for name, one in document["components"]["responses"].items():
        status = name.removeprefix("Error")
        yield Error(status, HTTPStatus(int(status)).phrase, one["description"], _text(one["content"][JSON]["example"]))


def _text(example: Any) -> str:
    return example if isinstance(example, str) else json.dumps(example, indent=2, ensure_ascii=False)


def _html(words: str) -> str:
    return markdown.render(words, lambda address: None).html


def _fields(document: Node, schema: Node, before: str = "", level: int = 1) -> Iterator[Field]:
    """The fields of an object, those of objects within it after it: `data[].id`."""
    schema = _resolved(document, schema)
    while schema.get("type") == "array":
        schema, before = _resolved(document, schema["items"]), f"{before}[]"
    required = schema.get("required", [])
    for name, given in schema.get("properties", {}).items():
        one, path = _resolved(document, given), f"{before}.{name}" if before else name
        yield Field(path, _kind(document, one), given.get("description", ""), name in required)
        if level < MOST_NESTED:
            yield from _fields(document, one, path, level + 1)


def _resolved(document: Node, schema: Node) -> Node:
    """The schema behind a reference, or behind one that stands in `allOf` beside other keys."""
    for whole in (schema, *schema.get("allOf", [])):
        if "$ref" in whole:
            name = whole["$ref"].rsplit("/", 1)[-1]
            return {key: value for key, value in schema.items() if key not in ("$ref", "allOf")} | _resolved(
                document, document["components"]["schemas"][name]
            )
    return schema


def _kind(document: Node, schema: Node) -> str:
    """What values a field takes, in words."""
    schema = _resolved(document, schema)
    words = {"integer": "whole number", "boolean": "true or false", "array": "list", "string": "text"}
    name = str(schema.get("type") or "any value")
    kind = words.get(name, name)
    if schema.get("format") == "binary":
        kind = "file"
    if choices := [str(one) for one in schema.get("enum", []) if one not in (None, "")]:
        kind = ", ".join(choices)
    return f"{kind}, or null" if schema.get("nullable") else kind
