"""The ASGI application: HTTP goes to Django, WebSockets to the pages that they follow."""

import os
from typing import Any

from channels.auth import AuthMiddlewareStack
from channels.routing import ProtocolTypeRouter, URLRouter
from channels.security.websocket import AllowedHostsOriginValidator
from django.core.asgi import get_asgi_application
from django.urls import re_path

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "vbs.settings")
django_application = get_asgi_application()  # loads the apps, so it comes before their pages are imported

from vbs import live, urls  # noqa: E402, F401  (the addresses of the pages)


async def refuse(scope: Any, receive: Any, send: Any) -> None:
    """Close a WebSocket on a path that nobody serves; the client sees its handshake refused."""
    await send({"type": "websocket.close"})


websockets = URLRouter([*live.routes(), re_path(r"", refuse)])  # type: ignore[arg-type]
application = ProtocolTypeRouter(
    {"http": django_application, "websocket": AllowedHostsOriginValidator(AuthMiddlewareStack(websockets))}
)
