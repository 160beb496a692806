"""The ASGI application: HTTP requests go to Django, and WebSockets to vbs/live, which sends pages what changes."""

import os
from typing import Any

import django
from channels.auth import AuthMiddlewareStack
from channels.routing import ProtocolTypeRouter, URLRouter
from django.conf import settings
from django.http.request import split_domain_port, validate_host
from django.urls import re_path

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "vbs.settings")
django.setup(set_prefix=False)  # loads the apps, so it comes before their pages are imported

from vbs import urls  # noqa: E402, F401  (the addresses of the pages)
from vbs.http.handler import Handler  # noqa: E402
from vbs.live import socket  # noqa: E402
from vbs.pages import origins  # noqa: E402


async def refuse(scope: Any, receive: Any, send: Any) -> None:
    """Refuse a WebSocket: the client sees that its handshake failed."""
    await send({"type": "websocket.close"})


def from_our_pages(application: Any) -> Any:
    """Refuses WebSockets from pages of other sites: a browser sends our cookies with them, too."""

    async def checked(scope: Any, receive: Any, send: Any) -> None:
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        host, secure = headers.get(b"host", ""), scope.get("scheme") == "wss"
        hosts = settings.ALLOWED_HOSTS
        ours = validate_host(split_domain_port(host)[0], hosts) and origins.is_ours(
            headers.get(b"origin", ""), host, secure
        )
        await (application if ours else refuse)(scope, receive, send)

    return checked


websockets = URLRouter([*socket.routes(), re_path(r"", refuse)])  # type: ignore[arg-type]
application = ProtocolTypeRouter({"http": Handler(), "websocket": from_our_pages(AuthMiddlewareStack(websockets))})
