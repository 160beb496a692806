"""Turns the errors of a serializer into the API's error: the first one, with its field and its code."""

import re
from collections.abc import Mapping
from typing import Any

from rest_framework.exceptions import ErrorDetail, ValidationError
from rest_framework.serializers import BaseSerializer

from vbs.openai.errors import InvalidRequest

CODES = {
    "required": "missing_required_parameter",
    "null": "missing_required_parameter",
    "invalid_choice": "invalid_value",
}
# What REST framework says of a value, and how it continues «Invalid 'priority' (1000): » here
WORDS = tuple(
    (re.compile(theirs), ours)
    for theirs, ours in (
        (r"Ensure this value is less than or equal to (-?\d+)\.", r"it must be at most \1."),
        (r"Ensure this value is greater than or equal to (-?\d+)\.", r"it must be at least \1."),
        (r"Ensure this field has no more than (\d+) (characters|elements)\.", r"it may have at most \1 \2."),
        (r"Ensure that there are no more than (\d+) digits in total\.", r"it may have at most \1 digits."),
        (r"Ensure that there are no more than (\d+) decimal places\.", r"it may have at most \1 decimal places."),
        (r"A valid integer is required\.", "it must be a whole number."),
        (r"A valid number is required\.", "it must be a number."),
        (r"This field may not be null\.", "it must not be null. Send a value, or leave it out."),
        (r"This field may not be blank\.", "it is empty. Send a text, or leave it out."),
        (r"This list may not be empty\.", "it is empty. Send at least one element."),
        (
            r"The submitted data was not a file\..*",
            "it must be a file: send it as a part of a form that has a file name.",
        ),
        (r"The submitted file is empty\.", "the file is empty. Send one with content."),
        (r"No filename could be determined\.", "the file has no name. Send one with it."),
        (r"Expected a list of items but got type .*", "it must be an array."),
        (r"Invalid data\. Expected a dictionary, but got .*", "it must be an object."),
    )
)


def checked(serializer: BaseSerializer[Any]) -> dict[str, Any]:
    """The validated values. Raises InvalidRequest with the first error."""
    try:
        serializer.is_valid(raise_exception=True)
    except ValidationError as error:
        param, detail = _first(error.detail, "")
        if detail.code == "required":
            raise InvalidRequest(
                f"Missing required parameter: '{param}'.", param=param, code="missing_required_parameter"
            ) from None
        code, message = detail.code or "invalid_value", _worded(str(detail))
        if not param:
            message = message.replace("No data provided", "The body must be a JSON object, not null.")
            message = message.replace("it must be an object.", "The body must be a JSON object.")
        elif message.startswith(("it ", "the ")) or not _names(message, param):
            message = f"Invalid '{param}'{_given(serializer.initial_data, param)}: {message}"
        raise InvalidRequest(message, param=param or None, code=CODES.get(code, code)) from None
    values: dict[str, Any] = serializer.validated_data
    return values


def _names(message: str, param: str) -> bool:
    """Whether the message says itself what it is about."""
    return message.startswith("Invalid") or param.rpartition(".")[2] in message


def _worded(message: str) -> str:
    for theirs, ours in WORDS:
        if found := theirs.fullmatch(message):
            return found.expand(ours)
    return message


def _given(data: Any, path: str) -> str:
    """The value at this path of the data, in brackets, when it is a short text or a number."""
    for name in path.split("."):
        data = data.get(name) if isinstance(data, Mapping) else None
    if isinstance(data, str | int | float) and len(str(data)) <= 100:
        return f" ({data!r})"
    return ""


def _first(detail: Any, path: str) -> tuple[str, ErrorDetail]:
    while isinstance(detail, (dict, list)):
        if isinstance(detail, dict):
            name, detail = next(iter(detail.items()))
            if name != "non_field_errors":
                path = f"{path}.{name}" if path else str(name)
        else:
            detail = next((one for one in detail if one), ErrorDetail("Invalid value.", "invalid_value"))
    return path, detail
