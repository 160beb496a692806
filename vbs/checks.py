"""System checks: the server does not start with wrong settings."""

import ipaddress
from pathlib import Path
from typing import Any

from django.apps import apps
from django.conf import settings
from django.contrib import admin
from django.core.checks import CheckMessage, Error, Warning, register

from vbs.accounts import roles
from vbs.outgoing.addresses import AddressError, split_url
from vbs.run import private


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
            f"VBS_API_AUTH=open lets anybody who reaches {settings.VBS_HOST} use this server.",
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
    if settings.VBS_MAX_SPOOL_MB < 2 * settings.VBS_MAX_FILE_MB + 2:
        found.append(
            Error(
                f"VBS_MAX_SPOOL_MB={settings.VBS_MAX_SPOOL_MB} is too little for the largest file: one address may use "
                f"half of it, and VBS_MAX_FILE_MB is {settings.VBS_MAX_FILE_MB}.",
                hint=f"Set VBS_MAX_SPOOL_MB to {2 * settings.VBS_MAX_FILE_MB + 2} or more, or lower VBS_MAX_FILE_MB.",
                id="vbs.E009",
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
            hint="The path of a Unix socket may have about 100 bytes: choose a folder with a shorter path.",
            id="vbs.E004",
        )
    ]


@register()
def model_roots_are_folders(**options: Any) -> list[CheckMessage]:
    """A relative path would mean a different folder in each process. With a misspelt one no model could be added."""
    return [
        Error(
            f"VBS_MODEL_ROOTS names {root!r}, which is not a folder's absolute path.",
            hint="Give absolute paths of existing folders, with commas between them, or leave it empty.",
            id="vbs.E005",
        )
        for root in settings.VBS_MODEL_ROOTS
        if not Path(root).is_absolute() or not Path(root).is_dir()
    ]


@register()
def the_secret_key_is_secret(**options: Any) -> list[CheckMessage]:
    """The file is made with mode 600, but a copy or a volume of another machine may have another mode."""
    path = settings.VBS_DATA_DIR / "secret_key"
    if not path.exists() or not path.stat().st_mode & 0o077:
        return []
    return [
        Warning(
            f"Other users of this machine can read {path}. With it they can forge sessions and read the hub's access "
            "tokens.",
            hint=f"Run 'chmod 600 {path}'. If somebody may have read it, put another random text into it: then "
            "everybody signs in again, and the access tokens have to be entered again.",
            id="vbs.W002",
        )
    ]


@register()
def the_data_folder_is_closed(**options: Any) -> list[CheckMessage]:
    """Every start takes other users' rights to it away (vbs/run/private.py), but only its owner can do that."""
    return [
        Warning(
            f"Other users of this machine can read {path}, which may hold prompts and answers.",
            hint="It belongs to another user: give VBS_DATA_DIR to the user that runs this server, or run 'chmod go=' "
            "on it.",
            id="vbs.W003",
        )
        for path in private.readable(settings.VBS_DATA_DIR)
    ]


@register()
def nobody_schedules_functions(**options: Any) -> list[CheckMessage]:
    """Somebody who can write rows of the task queue can make a worker call any function, `os.system` for example."""
    found: list[CheckMessage] = []
    usual: dict[str, Any] = settings.Q_CLUSTER
    others: dict[str, dict[str, Any]] = usual.get("ALT_CLUSTERS", {})
    for name, cluster in {usual["name"]: usual, **others}.items():
        if (usual | cluster).get("scheduler", True):
            found.append(
                Error(
                    f"The cluster {name} calls any function that a row of its schedule names.",
                    hint="Set scheduler to False in Q_CLUSTER: the workers' heartbeats start the regular tasks.",
                    id="vbs.E010",
                )
            )
    for model in apps.get_app_config("django_q").get_models():
        if admin.site.is_registered(model):
            found.append(
                Error(
                    f"The admin can change {model._meta.label}, whose rows name functions that a worker calls.",
                    hint="Unregister it from the admin, as vbs/admin/base.py does.",
                    id="vbs.E007",
                )
            )
    if given := {*roles.ADMINS_APPS} & {*roles.NOBODYS_APPS}:
        found.append(
            Error(
                f"The role admin may change {', '.join(sorted(given))}, whose rows name functions that a worker calls.",
                hint="Leave it out of ADMINS_APPS in vbs/accounts/roles.py.",
                id="vbs.E008",
            )
        )
    return found


@register()
def the_remote_key_has_servers(**options: Any) -> list[CheckMessage]:
    """Somebody who adds a model names its server. The key must go only to servers that an operator chose."""
    found: list[CheckMessage] = []
    for server in settings.VBS_REMOTE_ORIGINS:
        try:
            parts = split_url(server)
            good = parts.path in ("", "/") and "?" not in server and "#" not in server
        except AddressError:
            good = False
        if not good:
            found.append(
                Error(
                    f"VBS_REMOTE_ORIGINS names {server!r}, which is not the URL of a server.",
                    hint="Give scheme, host and port of each, with commas between them: https://vllm.example.org.",
                    id="vbs.E011",
                )
            )
    if settings.VBS_REMOTE_KEY and not settings.VBS_REMOTE_ORIGINS:
        found.append(
            Warning(
                "VBS_REMOTE_KEY is sent to no server, because VBS_REMOTE_ORIGINS names none.",
                hint="Name the servers that the key is for: VBS_REMOTE_ORIGINS=https://vllm.example.org",
                id="vbs.W001",
            )
        )
    return found


@register()
def media_domains_are_hosts(**options: Any) -> list[CheckMessage]:
    """They become arguments of the engine's command line."""
    found: list[CheckMessage] = []
    for domain in settings.VBS_MEDIA_DOMAINS:
        try:
            good = split_url(f"https://{domain}").hostname == domain
        except AddressError:
            good = False
        if not good or domain.startswith("-"):
            found.append(
                Error(
                    f"VBS_MEDIA_DOMAINS names {domain!r}, which is not a host name in lowercase letters.",
                    hint="Give whole names, with commas between them: images.example.org,cdn.example.org.",
                    id="vbs.E012",
                )
            )
    return found
