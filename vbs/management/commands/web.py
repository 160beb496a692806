"""`manage.py web`: the web process. Parses, checks, serves; how it serves is vbs.web."""

import tempfile
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from vbs import descriptors


class Command(BaseCommand):
    help = "Serve the API and the pages until SIGTERM or SIGINT"
    requires_system_checks: list[str] = []  # done in handle(), when it is known where we listen

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--host", default=settings.VBS_HOST, help="address to listen on (VBS_HOST, %(default)s)")
        parser.add_argument("--port", default=settings.VBS_PORT, type=int, help="port (VBS_PORT, %(default)s)")

    def handle(self, *args: Any, host: str, port: int, **options: Any) -> None:
        settings.VBS_HOST, settings.VBS_PORT = host, port
        self.check()
        settings.TMP_DIR.mkdir(parents=True, exist_ok=True)
        tempfile.tempdir = str(settings.TMP_DIR)

        descriptors.raise_limit()
        # Here, because it chooses the event loop of the whole process.
        from vbs import web
        from vbs.asgi import application

        try:
            limits = web.limits(settings.VBS_MAX_FILE_MB, settings.VBS_MAX_BATCH_MB)
            web.serve(application, limits, host, port)
        except OSError as error:
            raise CommandError(f"{error}. Stop what has the port, or set VBS_HOST and VBS_PORT.") from error
