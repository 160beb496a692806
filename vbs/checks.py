"""System checks: bad combinations of settings stop the server before it starts."""

import ipaddress
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, register


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


@register()
def open_only_on_loopback(**options: Any) -> list[CheckMessage]:
    if settings.VBS_API_AUTH != "open" or is_loopback(settings.VBS_HOST):
        return []
    return [
        Error(
            f"VBS_API_AUTH=open would let anybody in who reaches {settings.VBS_HOST}.",
            hint="Set VBS_API_AUTH=required, or VBS_HOST=127.0.0.1.",
            id="vbs.E001",
        )
    ]


@register()
def sizes_fit(**options: Any) -> list[CheckMessage]:
    found: list[CheckMessage] = []
    if settings.VBS_MAX_LINE_MB > settings.VBS_MAX_BATCH_MB:
        found.append(
            Error(
                f"VBS_MAX_LINE_MB={settings.VBS_MAX_LINE_MB} is more than a whole batch file may have.",
                hint=f"Lower it, or raise VBS_MAX_BATCH_MB, which is {settings.VBS_MAX_BATCH_MB}.",
                id="vbs.E003",
            )
        )
    return found


@register()
def data_path_is_short(**options: Any) -> list[CheckMessage]:
    """Unix sockets live in the data folder, and their paths are limited to 107 bytes."""
    path = str(settings.RUN_DIR / settings.VBS_WORKER_NAME / "engine-000000.sock")
    if len(path.encode()) <= 100:
        return []
    return [
        Error(
            f"VBS_DATA_DIR is too long: the engine's socket would be at {path}, which has {len(path.encode())} bytes.",
            hint="Unix sockets allow about 100; use a shorter folder.",
            id="vbs.E004",
        )
    ]
