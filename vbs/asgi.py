"""The ASGI application: HTTP goes to Django, WebSockets to the consumers of the apps."""

import os
from typing import Any

from channels.routing import ProtocolTypeRouter, URLRouter
from django.core.asgi import get_asgi_application
from django.urls import re_path

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "vbs.settings")
django_application = get_asgi_application()  # loads the apps, so it comes before their consumers are imported


async def refuse(scope: Any, receive: Any, send: Any) -> None:
    """Close a WebSocket on a path that nobody serves; the client sees its handshake refused."""
    await send({"type": "websocket.close"})


websockets = [re_path(r"", refuse)]  # type: ignore[arg-type]
application = ProtocolTypeRouter({"http": django_application, "websocket": URLRouter(websockets)})
