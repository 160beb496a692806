"""Checks the parameters of each route of the API. `wire` has the objects that are answered."""

import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import orjson
from django.utils import timezone
from rest_framework import serializers
from rest_framework.exceptions import ErrorDetail, ValidationError

from batches.intake.validate import REQUIRED
from batches.models import MOST_NAME, PRIORITIES, UPLOAD_PURPOSES
from vbs.configuration import runtime
from vbs.openai import ids
from vbs.openai.errors import InvalidRequest
from vbs.openai.fields import PlainObject, PlainText

ENDPOINTS = tuple(REQUIRED)
MAX_UPLOAD = 8 * 2**30
MAX_PART = 64 * 2**20
MAX_TEMPLATE = 100_000  # characters
WHOLE = re.compile(r"[+-]?[0-9]{1,3}")


class ChoiceText(PlainText):
    """One of some words; any other gets OpenAI's message."""

    def __init__(self, allowed: Any, **options: Any) -> None:
        super().__init__(**options)
        self.allowed = allowed

    def to_internal_value(self, data: Any) -> str:
        text = super().to_internal_value(data)
        allowed = self.allowed() if callable(self.allowed) else self.allowed
        if text not in allowed:
            shown = ", ".join(f"'{one}'" for one in allowed)
            raise ValidationError(
                f"Invalid value: '{ids.shown(text)}'. Supported values are: {shown}.", "invalid_value"
            )
        return text


class ExpiresAfter(serializers.Serializer[Any]):
    anchor = ChoiceText(("created_at",))
    seconds = serializers.IntegerField(min_value=3600, max_value=2_592_000)


class OutputExpiresAfter(ExpiresAfter):
    pass


def nested(data: Any, name: str) -> Any:
    """The data with `name[key]` fields of a multipart form, or JSON under `name`, as an object under `name`."""
    if not isinstance(data, Mapping):
        return data
    plain: dict[str, Any] = {key: data[key] for key in data if not key.startswith(f"{name}[")}
    parts = {key[len(name) + 1 : -1]: data[key] for key in data if key.startswith(f"{name}[") and key.endswith("]")}
    whole = plain.pop(name, None) or None
    if isinstance(whole, str):
        try:
            whole = orjson.loads(whole)
        except orjson.JSONDecodeError as error:
            message = f"Invalid '{name}': it is not valid JSON ({error}). Send a JSON object, or {name}[key] fields."
            raise InvalidRequest(message, param=name) from None
    if parts:
        whole = (whole if isinstance(whole, dict) else {}) | parts
    return plain if whole is None else plain | {name: whole}


class FileCreate(serializers.Serializer[Any]):
    file = serializers.FileField(allow_empty_file=True, use_url=False)
    purpose = ChoiceText(UPLOAD_PURPOSES)
    expires_after = ExpiresAfter(required=False, allow_null=True)


class UploadCreate(serializers.Serializer[Any]):
    filename = PlainText(max_length=500)
    purpose = ChoiceText(UPLOAD_PURPOSES)
    bytes = serializers.IntegerField(min_value=1, max_value=MAX_UPLOAD)
    mime_type = PlainText(max_length=200)
    expires_after = ExpiresAfter(required=False, allow_null=True)


class PartCreate(serializers.Serializer[Any]):
    data = serializers.FileField(use_url=False)  # type: ignore[assignment]  # the name is OpenAI's


class UploadComplete(serializers.Serializer[Any]):
    part_ids = serializers.ListField(child=PlainText(max_length=100), allow_empty=False, max_length=100_000)
    md5 = PlainText(required=False, allow_null=True, max_length=32)


class Metadata(serializers.Field[Any, Any, Any, Any]):
    """Up to 16 pairs of strings."""

    def to_internal_value(self, data: Any) -> dict[str, str]:
        if not isinstance(data, dict):
            raise ValidationError("Invalid type for 'metadata': expected an object of strings.", "invalid_type")
        if len(data) > 16:
            raise ValidationError(f"Invalid 'metadata': {len(data)} pairs; at most 16 are allowed.", "invalid_value")
        for key, value in data.items():
            shown = repr(key[:64])
            if not isinstance(value, str):
                message = f"Invalid type for 'metadata.{key[:64]}': expected a string, got {type(value).__name__}."
                raise ValidationError({key[:64]: [ErrorDetail(message, "invalid_type")]})
            if len(key) > 64:
                message = f"Invalid 'metadata': the key {shown}… has {len(key)} characters; at most 64 are allowed."
                raise ValidationError(message, "string_above_max_length")
            if len(value) > 512:
                message = f"Invalid 'metadata.{key}': {len(value)} characters; at most 512 are allowed."
                raise ValidationError({key: [ErrorDetail(message, "string_above_max_length")]})
            if any(one == "\0" or "\ud800" <= one <= "\udfff" for one in key + value):
                raise ValidationError(f"Invalid 'metadata': NUL and lone surrogates in {shown}.", "invalid_value")
        return data

    def to_representation(self, value: Any) -> Any:
        return value


class BatchOptions(serializers.Serializer[Any]):
    """The parameters that both ways to create a batch have."""

    name = PlainText(required=False, allow_null=True, allow_blank=True, trim_whitespace=True, max_length=MOST_NAME)
    metadata = Metadata(required=False, allow_null=True)
    priority = serializers.IntegerField(min_value=-100, max_value=100, required=False, allow_null=True)
    output_expires_after = OutputExpiresAfter(required=False, allow_null=True)

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        """`metadata.priority` is taken as `priority`, for clients that cannot send other fields. If it is not a
        priority, it is only metadata."""
        given = (attrs.get("metadata") or {}).get("priority", "")
        if attrs.get("priority") is None and WHOLE.fullmatch(given) and int(given) in PRIORITIES:
            attrs["priority"] = int(given)
        return attrs


class BatchCreate(BatchOptions):
    input_file_id = PlainText(max_length=200)
    endpoint = ChoiceText(ENDPOINTS)
    completion_window = ChoiceText(lambda: runtime.value("VBS_COMPLETION_WINDOWS"))


class BatchChange(serializers.Serializer[Any]):
    """What can be changed of a batch: its name, and as long as it has not ended its priority."""

    name = PlainText(required=False, trim_whitespace=True, max_length=MOST_NAME)
    priority = serializers.IntegerField(min_value=PRIORITIES[0], max_value=PRIORITIES[-1], required=False)

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if not attrs:
            message = "There is nothing to change: send 'name', 'priority', or both."
            raise ValidationError(message, "missing_required_parameter")
        return attrs


class BatchSubmit(BatchOptions):
    """Upload and create in one call. `prompt`, `system`, `id_column` and `parameters` are for tables."""

    file = serializers.FileField(allow_empty_file=True, use_url=False)
    endpoint = ChoiceText(ENDPOINTS, required=False)
    completion_window = ChoiceText(lambda: runtime.value("VBS_COMPLETION_WINDOWS"), required=False)
    model = PlainText(required=False, allow_blank=True, max_length=200)
    prompt = PlainText(required=False, allow_blank=True, max_length=MAX_TEMPLATE)
    system = PlainText(required=False, allow_blank=True, max_length=MAX_TEMPLATE)
    id_column = PlainText(required=False, allow_blank=True, max_length=500)
    parameters = PlainObject(required=False, allow_null=True)


def expiry(options: dict[str, Any] | None, default: timedelta | None = None) -> Any:
    """When a file with these `expires_after` options expires; None for never."""
    wait = timedelta(seconds=options["seconds"]) if options else default
    return timezone.now() + wait if wait else None
