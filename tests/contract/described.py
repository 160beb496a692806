"""The description of the API as JSON Schema, for tests that hold answers to it."""

from typing import Any

METHODS = ("get", "post", "put", "patch", "delete")


def with_errors(document: dict[str, Any]) -> dict[str, Any]:
    """The document with the answers that several operations have in common in each of these."""
    for methods in document["paths"].values():
        for operation in (methods[name] for name in METHODS if name in methods):
            for status, answer in operation["responses"].items():
                if "$ref" in answer:
                    name = answer["$ref"].removeprefix("#/components/responses/")
                    operation["responses"][status] = document["components"]["responses"][name]
    return document


def resolved(schema: Any, document: dict[str, Any]) -> Any:
    """OpenAPI 3.0's schema as JSON Schema: `nullable` is a type."""
    if isinstance(schema, list):
        return [resolved(one, document) for one in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return resolved(document["components"]["schemas"][schema["$ref"].rsplit("/", 1)[-1]], document)
    made = {key: resolved(value, document) for key, value in schema.items() if key != "nullable"}
    return {"anyOf": [made, {"type": "null"}]} if schema.get("nullable") else made


def strict(schema: Any) -> Any:
    """Every field that is sent is described."""
    if isinstance(schema, list):
        return [strict(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: strict(value) for key, value in schema.items()}
    return made | {"additionalProperties": False} if "properties" in made else made
