"""What the settings that can be changed while vbs runs may be. The environment and the page are held to the same.

Known to vbs.settings, so it asks Django for nothing. The upper bounds keep sums of times within what a calendar holds.
"""

from collections.abc import Callable
from typing import Any

from marshmallow import fields, validate
from marshmallow.exceptions import ValidationError

DAY = 86400
LONGEST_WINDOW = 10  # characters: a batch keeps its window as it was asked for

WHOLE = {
    "VBS_MAX_BATCH_REQUESTS": validate.Range(1, 10_000_000),
    "VBS_RETENTION_DAYS": validate.Range(1, 36_500),
    "VBS_MAX_WAIT_MINUTES": validate.Range(1, 10_000_000),
    "VBS_REQUEST_SECONDS": validate.Range(1, 365 * DAY),
    "VBS_REQUEST_ATTEMPTS": validate.Range(1, 1000),
    "VBS_DEFAULT_MAX_TOKENS": validate.Range(0, 10_000_000),
    "VBS_GPU_MAX_CELSIUS": validate.Range(1, 1000),
    "VBS_GPU_MAX_USED_PERCENT": validate.Range(1, 100),
}


def seconds(window: str) -> int:
    """Seconds of a completion window such as `24h`, `30m` or `7d`. Raises ValueError."""
    units = {"s": 1, "m": 60, "h": 3600, "d": DAY}
    number, unit = window[:-1], window[-1:]
    if unit not in units or not (number.isascii() and number.isdigit()) or not int(number[:20]):
        raise ValueError(f"{window!r} is not a time such as 24h, 30m or 7d")
    if len(window) > LONGEST_WINDOW or int(number) * units[unit] > 3650 * DAY:
        raise ValueError(f"{window[:40]!r} is longer than ten years, or than {LONGEST_WINDOW} characters")
    return int(number) * units[unit]


def _whole(name: str) -> Callable[[Any], int]:
    field = fields.Int(validate=WHOLE[name])

    def check(value: Any) -> int:
        try:
            if isinstance(value, bool | float) or (isinstance(value, str) and len(value) > 40):
                raise ValidationError("Not a valid integer.")
            return int(field.deserialize(value.strip() if isinstance(value, str) else value))
        except ValidationError as error:
            raise ValueError(" ".join(map(str, error.messages))) from None

    return check


def _windows(value: Any) -> list[str]:
    given = value.split(",") if isinstance(value, str) else value
    if not isinstance(given, list) or not all(isinstance(one, str) for one in given):
        raise ValueError("Not a valid list.")
    found = list(dict.fromkeys(one.strip() for one in given if one.strip()))
    if not found:
        raise ValueError("VBS_COMPLETION_WINDOWS is empty. The default is 24h.")
    if len(found) > 20:
        raise ValueError(f"There are {len(found)} windows; at most 20 go.")
    for one in found:
        try:
            seconds(one)
        except ValueError as error:
            raise ValueError(f"VBS_COMPLETION_WINDOWS: {error}. For example: 24h,7d") from None
    return found


# By name: gives the value as it is used, from text or from what JSON holds; raises ValueError with what is wrong.
CHECKS: dict[str, Callable[[Any], Any]] = {name: _whole(name) for name in WHOLE} | {"VBS_COMPLETION_WINDOWS": _windows}
