"""`manage.py web`: the web process, which answers HTTP requests and serves WebSockets. vbs.web has its server."""

import tempfile
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from vbs.http import body_limits
from vbs.run import descriptors
from vbs.web.limits import MB, Bounds


class Command(BaseCommand):
    help = "Serve the API and the pages until SIGTERM or SIGINT."
    requires_system_checks: list[str] = []  # handle() does this, when the address is known

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--host", default=settings.VBS_HOST, help="address to listen on (VBS_HOST, %(default)s)")
        parser.add_argument("--port", default=settings.VBS_PORT, type=int, help="port (VBS_PORT, %(default)s)")

    def handle(self, *args: Any, host: str, port: int, **options: Any) -> None:
        settings.VBS_HOST, settings.VBS_PORT = host, port
        self.check()
        settings.TMP_DIR.mkdir(parents=True, exist_ok=True)
        tempfile.tempdir = str(settings.TMP_DIR)

        open_files = descriptors.raise_limit()

        # Here, because it chooses the event loop of the whole process.
        from vbs.asgi import application
        from vbs.http.admission import admit
        from vbs.http.later import AT_END
        from vbs.web.server import serve

        limits = body_limits.limits(settings.VBS_MAX_FILE_MB, settings.VBS_MAX_BATCH_MB, settings.VBS_MAX_LINE_MB)
        bounds = Bounds(
            spool=settings.VBS_MAX_SPOOL_MB * MB,
            connections=min(settings.VBS_MAX_CONNECTIONS, open_files // 3),  # a request may have two files beside
            connections_per_address=settings.VBS_MAX_CONNECTIONS_PER_ADDRESS,
        )
        try:
            serve(application, limits, admit, host, port, bounds)
        except OSError as error:
            raise CommandError(f"{error}. Stop what has the port, or set VBS_HOST and VBS_PORT.") from error
        for step in AT_END:
            step()
