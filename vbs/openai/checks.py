"""Turns the errors of a serializer into the API's error: the first one, with its field and its code."""

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
        code, message = detail.code or "invalid_value", str(detail)
        if not param:
            message = message.replace("No data provided", "The body must be a JSON object, not null.")
        elif not message.startswith("Invalid") and param.rpartition(".")[2] not in message:
            message = f"Invalid '{param}'{_given(serializer.initial_data, param)}: {message}"
        raise InvalidRequest(message, param=param or None, code=CODES.get(code, code)) from None
    values: dict[str, Any] = serializer.validated_data
    return values


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
