"""`manage.py model`: adds models to the registry, shows them, changes them, uses them and removes them."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from models_registry.cli import Console, fetching, fitting, operate, registry
from models_registry.cli.remote import Registry
from vbs.cli import access
from vbs.cli.remote import RemoteError
from vbs.logs import one_line

GROUPS = (registry, fitting, fetching, operate)
LISTED = {"model_not_found": "list", "alias_not_found": "list", "operation_not_found": "operations"}


class Command(BaseCommand):
    help = "Add, load, measure and remove models: on this server, or with --url and --key on a distant one."

    def add_arguments(self, parser: CommandParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
        for group in GROUPS:
            group.add_to(actions)
        for action in actions.choices.values():
            access.add_arguments(action)

    def handle(self, *args: Any, run: Any, url: str | None, key: str | None, **options: Any) -> None:
        console = Console(self.stdout, self.stderr, ["--url", url] if url else [])
        distant = url or key
        try:
            with access.asked(Registry, url, key) if distant else access.within(Registry, console.progress) as server:
                run(console, server, **options)
        except RemoteError as error:
            words = access.explained(error)
            if action := LISTED.get(error.code or ""):
                words += f" {console.command(action)} lists them."
            raise CommandError(one_line(words)) from error
        except KeyboardInterrupt:
            raise CommandError("Interrupted. What was not finished is undone.", returncode=130) from None
