"""Fields of serializers that take JSON's own types and what a database can hold. They convert nothing."""

import json
from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers
from rest_framework.exceptions import ValidationError
from rest_framework.fields import empty

from vbs.openai.raw_json import kind_of

MOST_JSON = 200_000  # characters
MOST_LEVELS = 20


class PlainText(serializers.CharField):
    """A string that a database can hold. It is kept as it was sent."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"trim_whitespace": False} | options)

    def to_internal_value(self, data: Any) -> str:
        if not isinstance(data, str):
            raise ValidationError(f"it must be a string, not {kind_of(data)}.", "invalid_type")
        if "\0" in data or any("\ud800" <= one <= "\udfff" for one in data):
            raise ValidationError("it has a NUL or half a character (a lone surrogate). Leave it out.", "invalid_value")
        return str(super().to_internal_value(data))


class Flag(serializers.BooleanField):
    """true or false, but no word or number in their place. A form without the field has no value, not false."""

    default_empty_form_html = empty

    def to_internal_value(self, data: Any) -> bool:
        if not isinstance(data, bool):
            raise ValidationError(f"it must be true or false, not {kind_of(data)}.", "invalid_type")
        return data


@extend_schema_field({"type": "object", "additionalProperties": {}})
class PlainObject(serializers.Field[Any, Any, Any, Any]):
    """A JSON object that a database can hold, of a bounded size and depth."""

    def to_internal_value(self, data: Any) -> dict[str, Any]:
        if not isinstance(data, dict):
            raise ValidationError(f"it must be an object, not {kind_of(data)}.", "invalid_type")
        if _levels(data) > MOST_LEVELS:
            raise ValidationError(f"it is nested more than {MOST_LEVELS} levels deep.", "invalid_value")
        text = json.dumps(data)
        if len(text) > MOST_JSON or "\\u0000" in text:
            raise ValidationError(f"it may have at most {MOST_JSON:,} characters, and no NUL.", "invalid_value")
        return data

    def to_representation(self, value: Any) -> Any:
        return value


def _levels(data: Any) -> int:
    """How deep it is, counted level by level: a recursion could overflow the stack."""
    levels, here = 0, [data]
    while here and levels <= MOST_LEVELS:
        levels += 1
        lists = [one.values() if isinstance(one, dict) else one for one in here if isinstance(one, dict | list)]
        here = [inner for one in lists for inner in one]
    return levels
