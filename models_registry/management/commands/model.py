"""`manage.py model`: add models to the registry, look at them, work with them, take them out."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from models_registry.catalog.folders import ModelError
from models_registry.cli import Console, fetching, fitting, operate, registry

GROUPS = (registry, fitting, fetching, operate)


class Command(BaseCommand):
    help = "Models that requests can name."

    def add_arguments(self, parser: CommandParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
        for group in GROUPS:
            group.add_to(actions)

    def handle(self, *args: Any, run: Any, **options: Any) -> None:
        try:
            run(Console(self.stdout, self.stderr), **options)
        except ModelError as error:
            raise CommandError(str(error)) from error
        except KeyboardInterrupt:
            raise CommandError("interrupted; what was not finished is taken back", returncode=130) from None
