"""`manage.py postgres`: the embedded database in the foreground."""

from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from vbs.run import interrupts, postgres


class Command(BaseCommand):
    help = "Run the embedded PostgreSQL in the foreground until SIGTERM or SIGINT."
    requires_system_checks = ()

    def handle(self, **options: Any) -> None:
        if settings.DATABASE_URL:
            raise CommandError("DATABASE_URL names a server: the embedded PostgreSQL is not used.")
        interrupts.listen(error=lambda number: interrupts.Ended())
        try:
            postgres.serve(settings.VBS_DATA_DIR, self.stdout.write)
        except postgres.PostgresError as error:
            raise CommandError(str(error)) from error
        finally:
            interrupts.ignore()
