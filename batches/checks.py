"""System checks of this app's settings."""

from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, register

from vbs.configuration.windows import seconds


@register()
def windows_can_be_read(**options: Any) -> list[CheckMessage]:
    found: list[CheckMessage] = []
    for window in settings.VBS_COMPLETION_WINDOWS:
        try:
            seconds(window)
        except ValueError as error:
            found.append(
                Error(
                    f"VBS_COMPLETION_WINDOWS: {error}.",
                    hint="For example: VBS_COMPLETION_WINDOWS=24h,7d",
                    id="vbs.E002",
                )
            )
    if not settings.VBS_COMPLETION_WINDOWS:
        found.append(Error("VBS_COMPLETION_WINDOWS is empty.", hint="The default is 24h.", id="vbs.E002"))
    return found
