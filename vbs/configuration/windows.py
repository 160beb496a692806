"""Completion windows such as `24h`: their length, and the rules for a list of them."""

from typing import Any

DAY = 86400
LONGEST = 10  # characters: a batch keeps its window as it was asked for


def seconds(window: str) -> int:
    """The length of a window. Raises ValueError."""
    units = {"s": 1, "m": 60, "h": 3600, "d": DAY}
    number, unit = window[:-1], window[-1:]
    if unit not in units or not (number.isascii() and number.isdigit()) or not int(number[:20]):
        raise ValueError(f"{window!r} is not a time such as 24h, 30m or 7d")
    if len(window) > LONGEST or int(number) * units[unit] > 3650 * DAY:
        raise ValueError(f"{window[:40]!r} is longer than ten years, or than {LONGEST} characters")
    return int(number) * units[unit]


def several(given: Any) -> list[str]:
    """The windows in a text or a list, each once. Raises ValueError."""
    given = given.split(",") if isinstance(given, str) else given
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
