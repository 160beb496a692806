"""`manage.py postgres`: the embedded database in the foreground."""

import signal
import sys
from types import FrameType
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from vbs.run import postgres


class Command(BaseCommand):
    help = "Run the embedded PostgreSQL in the foreground until it is told to stop (for the supervisor)."
    requires_system_checks = ()

    def handle(self, **options: Any) -> None:
        if settings.DATABASE_URL:
            raise CommandError("DATABASE_URL names a server: the embedded PostgreSQL is not used.")
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self.stop)
        try:
            postgres.serve(settings.VBS_DATA_DIR, self.stdout.write)
        except postgres.PostgresError as error:
            raise CommandError(str(error)) from error

    def stop(self, number: int, frame: FrameType | None) -> None:
        for again in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(again, signal.SIG_IGN)  # once is enough: stopping must not be interrupted
        sys.exit()
