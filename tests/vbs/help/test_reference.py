"""/docs: the routes of the API for people, from the description that programs read."""

import re

import pytest
from django.test import Client

from tests.people import text
from vbs.help import reference

DOCUMENT = {
    "info": {"description": "About.\n\n## Keys\nSend `one`."},
    "tags": [{"name": "Things", "description": "What there is."}],
    "paths": {
        "/v1/things/{name}": {
            "put": {
                "operationId": "things_put", "tags": ["Things"], "summary": "Set a thing",
                "description": "It is `kept`.",
                "security": [{"ApiKey": []}],
                "parameters": [
                    {"name": "name", "in": "path", "required": True, "schema": {"type": "string"}, "example": "a b"},
                    {"name": "dry", "in": "query", "schema": {"type": "boolean"}, "example": True},
                    {"name": "limit", "in": "query", "schema": {"type": "integer"}},
                ],
                "requestBody": {"content": {
                    "application/json": {"schema": {"$ref": "#/components/schemas/Thing"}, "example": {"it": "it's"}},
                    "multipart/form-data": {"schema": {"type": "object"}, "example": {"file": "@a b.csv"}},
                }},
                "responses": {
                    "200": {"content": {"application/json": {
                        "schema": {"type": "object", "properties": {"data": {
                            "type": "array", "items": {"$ref": "#/components/schemas/Thing"}}}},
                        "example": {"data": [{"it": "ü"}]},
                    }}},
                    "404": {"$ref": "#/components/responses/Error404"},
                },
            }
        }
    },
    "components": {
        "schemas": {"Thing": {"type": "object", "required": ["it"], "properties": {
            "it": {"type": "string", "nullable": True, "description": "What it is"},
            "kind": {"allOf": [{"$ref": "#/components/schemas/Kind"}]},
        }}, "Kind": {"type": "string", "enum": ["good", "bad", ""]}},
        "responses": {"Error404": {"description": "Not there", "content": {"application/json": {
            "example": {"error": {"message": "No."}}}}}},
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def operation():
    return reference.of(DOCUMENT, "http://h:1").groups[0].operations[0]


def test_a_command_for_each_body(operation):
    first, second = operation.commands
    start = "curl -s -X PUT 'http://h:1/v1/things/a%20b?dry=true' -H \"Authorization: Bearer $KEY\" \\\n     "
    assert first.code == start + '-H "Content-Type: application/json" \\\n     -d \'{"it": "it\'"\'"\'s"}\''
    assert second.code == start + "-F 'file=@a b.csv'"
    assert (first.title, second.title) == ("application/json", "multipart/form-data")


def test_fields_in_words(operation):
    assert [(one.name, one.kind, one.required) for one in operation.parameters] == [
        ("name", "text", True), ("dry", "true or false", False), ("limit", "whole number", False),
    ]  # fmt: skip
    (_, fields), (_, none) = operation.bodies
    assert [(one.name, one.kind, one.words, one.required) for one in fields] == [
        ("it", "text, or null", "What it is", True), ("kind", "good, bad", "", False),
    ]  # fmt: skip
    (answer,) = operation.answers
    assert [one.name for one in answer.fields] == ["data", "data[].it", "data[].kind"] and not none
    assert answer.example == '{\n  "data": [\n    {\n      "it": "ü"\n    }\n  ]\n}' and operation.errors == ("404",)


def test_the_page_is_for_everybody_and_runs_nothing_of_others(db):
    answer = Client().get("/docs", headers={"Host": "localhost:4080"})
    policy = answer.headers["Content-Security-Policy"]
    assert answer.status_code == 200 and "unsafe" not in policy and "default-src 'self'" in policy
    page = text(answer)
    assert "http://localhost:4080/v1/batches" in page and reference.SERVER not in page
    assert not re.search(r"""(?:src|href)=["'](?:https?:|//)|<script>| style=""", page)
    for words in ("Authentication", "Authorization: Bearer sk-vbs-…", "Create a batch", "An example of each error"):
        assert words in page, words


def test_each_operation_has_an_address_of_its_own(db):
    page = text(Client().get("/docs"))
    ids = re.findall(r' id="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert {f"#{one}" for one in ids} >= set(re.findall(r'href="(#[^"]+)"', page))
    shown = [one for group in reference.reference().groups for one in group.operations]
    assert len(shown) > 50 and {one.id for one in shown} <= set(ids)
