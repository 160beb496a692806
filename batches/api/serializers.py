"""Checks the parameters of each route of the API. `wire` has the objects that are answered."""

import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import orjson
from django.utils import timezone
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers
from rest_framework.exceptions import ErrorDetail, ValidationError

from batches.intake.validate import REQUIRED
from batches.models import MOST_NAME, PRIORITIES, UPLOAD_PURPOSES
from vbs.configuration import runtime
from vbs.openai import ids
from vbs.openai.errors import InvalidRequest
from vbs.openai.fields import PlainObject, PlainText
from vbs.openai.raw_json import kind_of

ENDPOINTS = tuple(REQUIRED)
MAX_UPLOAD = 8 * 2**30
MAX_PART = 64 * 2**20
MAX_TEMPLATE = 100_000  # characters
WHOLE = re.compile(r"[+-]?[0-9]{1,3}")

# What /docs says of parameters that several routes have
PURPOSE = "batch for an input file of a batch; other purposes are kept, and nothing is done with them"
EXPIRY = "When the file is deleted; by default an input file after 30 days, and another one only when you delete it"
WINDOW = "How long the batch may take; what is not run by then expires"
PRIORITY = "From -100 to 100; a higher one goes first"


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
    anchor = ChoiceText(("created_at",), help_text="From when on the time counts")
    seconds = serializers.IntegerField(min_value=3600, max_value=2_592_000, help_text="From an hour to 30 days")


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
    file = serializers.FileField(allow_empty_file=True, use_url=False, help_text="The file itself")
    purpose = ChoiceText(UPLOAD_PURPOSES, help_text=PURPOSE)
    expires_after = ExpiresAfter(required=False, allow_null=True, help_text=EXPIRY)


class UploadCreate(serializers.Serializer[Any]):
    filename = PlainText(max_length=500, help_text="What the file is called")
    purpose = ChoiceText(UPLOAD_PURPOSES, help_text=PURPOSE)
    bytes = serializers.IntegerField(min_value=1, max_value=MAX_UPLOAD, help_text="How long the whole file will be")
    mime_type = PlainText(max_length=200, help_text="What kind of file it is; it is not checked")
    expires_after = ExpiresAfter(required=False, allow_null=True, help_text=EXPIRY)


class PartCreate(serializers.Serializer[Any]):
    data = serializers.FileField(use_url=False, help_text="The bytes of the part")  # type: ignore[assignment]  # the name is OpenAI's


class UploadComplete(serializers.Serializer[Any]):
    part_ids = serializers.ListField(
        child=PlainText(max_length=100), allow_empty=False, max_length=100_000, help_text="In the order of the file"
    )
    md5 = PlainText(
        required=False, allow_null=True, max_length=32, help_text="Of the whole file, in hex; another one is refused"
    )


@extend_schema_field({"type": "object", "additionalProperties": {"type": "string"}})
class Metadata(serializers.Field[Any, Any, Any, Any]):
    """Up to 16 pairs of strings."""

    def to_internal_value(self, data: Any) -> dict[str, str]:
        if not isinstance(data, dict):
            raise ValidationError(
                f"Invalid 'metadata': it must be an object of strings, not {kind_of(data)}.", "invalid_type"
            )
        if len(data) > 16:
            raise ValidationError(
                f"Invalid 'metadata': it has {len(data)} pairs, and at most 16 are allowed.", "invalid_value"
            )
        for key, value in data.items():
            shown = repr(key[:64])
            if not isinstance(value, str):
                message = f"Invalid 'metadata.{key[:64]}': it must be a string, not {kind_of(value)}."
                raise ValidationError({key[:64]: [ErrorDetail(message, "invalid_type")]})
            if len(key) > 64:
                message = f"Invalid 'metadata': the key {shown}… has {len(key)} characters, and at most 64 are allowed."
                raise ValidationError(message, "string_above_max_length")
            if len(value) > 512:
                message = f"Invalid 'metadata.{key}': it has {len(value)} characters, and at most 512 are allowed."
                raise ValidationError({key: [ErrorDetail(message, "string_above_max_length")]})
            if any(one == "\0" or "\ud800" <= one <= "\udfff" for one in key + value):
                raise ValidationError(
                    f"Invalid 'metadata': {shown} has a NUL or half a character (a lone surrogate). Leave it out.",
                    "invalid_value",
                )
        return data

    def to_representation(self, value: Any) -> Any:
        return value


class BatchOptions(serializers.Serializer[Any]):
    """The parameters that both ways to create a batch have."""

    name = PlainText(
        required=False,
        allow_null=True,
        allow_blank=True,
        trim_whitespace=True,
        max_length=MOST_NAME,
        help_text="By default the name of the file without its ending",
    )
    metadata = Metadata(required=False, allow_null=True, help_text="Up to 16 texts of your own, by name")
    priority = serializers.IntegerField(
        min_value=-100, max_value=100, required=False, allow_null=True, help_text=PRIORITY
    )
    output_expires_after = OutputExpiresAfter(
        required=False, allow_null=True, help_text="When the output files are deleted"
    )

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        """`metadata.priority` is taken as `priority`, for clients that cannot send other fields. If it is not a
        priority, it is only metadata."""
        given = (attrs.get("metadata") or {}).get("priority", "")
        if attrs.get("priority") is None and WHOLE.fullmatch(given) and int(given) in PRIORITIES:
            attrs["priority"] = int(given)
        return attrs


class BatchCreate(BatchOptions):
    input_file_id = PlainText(max_length=200, help_text="The id of an uploaded file with the purpose batch")
    endpoint = ChoiceText(ENDPOINTS, help_text="The url of every line of the file")
    completion_window = ChoiceText(lambda: runtime.value("VBS_COMPLETION_WINDOWS"), help_text=WINDOW)


class BatchChange(serializers.Serializer[Any]):
    """What can be changed of a batch: its name, and as long as it has not ended its priority."""

    name = PlainText(required=False, trim_whitespace=True, max_length=MOST_NAME, help_text="What it is called")
    priority = serializers.IntegerField(
        min_value=PRIORITIES[0], max_value=PRIORITIES[-1], required=False, help_text=PRIORITY
    )

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if not attrs:
            message = "There is nothing to change: send 'name', 'priority', or both."
            raise ValidationError(message, "missing_required_parameter")
        return attrs


class BatchSubmit(BatchOptions):
    """Upload and create in one call. `prompt`, `system`, `id_column` and `parameters` are for tables."""

    file = serializers.FileField(allow_empty_file=True, use_url=False, help_text="A file of requests, or a table")
    endpoint = ChoiceText(ENDPOINTS, required=False, help_text="By default as the lines, or the columns, tell it")
    completion_window = ChoiceText(lambda: runtime.value("VBS_COMPLETION_WINDOWS"), required=False, help_text=WINDOW)
    model = PlainText(required=False, allow_blank=True, max_length=200, help_text="The model of lines that name none")
    prompt = PlainText(
        required=False,
        allow_blank=True,
        max_length=MAX_TEMPLATE,
        help_text="For a table: the prompt, in which {column} stands for the text of that column",
    )
    system = PlainText(
        required=False, allow_blank=True, max_length=MAX_TEMPLATE, help_text="For a table: the system prompt"
    )
    id_column = PlainText(
        required=False, allow_blank=True, max_length=500, help_text="For a table: the column with the custom_id"
    )
    parameters = PlainObject(
        required=False, allow_null=True, help_text="For a table: parameters of each request, as a JSON object"
    )


def expiry(options: dict[str, Any] | None, default: timedelta | None = None) -> Any:
    """When a file with these `expires_after` options expires; None for never."""
    wait = timedelta(seconds=options["seconds"]) if options else default
    return timezone.now() + wait if wait else None
