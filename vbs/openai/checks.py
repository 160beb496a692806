"""Turn what a serializer found into the API's error: the first problem, with its place and its code."""

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
        code = detail.code or "invalid_value"
        raise InvalidRequest(str(detail), param=param or None, code=CODES.get(code, code)) from None
    values: dict[str, Any] = serializer.validated_data
    return values


def _first(detail: Any, path: str) -> tuple[str, ErrorDetail]:
    while isinstance(detail, (dict, list)):
        if isinstance(detail, dict):
            name, detail = next(iter(detail.items()))
            if name != "non_field_errors":
                path = f"{path}.{name}" if path else str(name)
        else:
            detail = next((one for one in detail if one), ErrorDetail("Invalid value.", "invalid_value"))
    return path, detail
