"""`manage.py create_api_key`: a key of the API for a project, shown once."""

from datetime import timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import transaction
from django.utils import timezone

from vbs.accounts.models import ApiKey, Project
from vbs.configuration import audit


class Command(BaseCommand):
    help = "Create an API key and print it, alone, on standard output: it is shown only once."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--project", required=True, help="the project; created when it does not exist")
        parser.add_argument("--name", required=True, help="what the key is for")
        parser.add_argument("--days", type=int, help="after how many days it expires (default: never)")
        parser.add_argument("--operator", action="store_true", help="the key may also change the registry of models")

    def handle(self, *, project: str, name: str, days: int | None, operator: bool, **options: Any) -> None:
        for label, value in (("project", project), ("name", name)):
            if not value.strip() or len(value) > 100 or not value.isprintable():
                raise CommandError(f"--{label} is {value!r}; it must be 1 to 100 printable characters.")
        if days is not None and not 1 <= days <= 36500:
            raise CommandError(f"--days is {days}; it must be from 1 to 36500.")
        owner, _ = Project.objects.get_or_create(name=project)
        expires_at = timezone.now() + timedelta(days=days) if days else None
        with transaction.atomic():
            key, secret = ApiKey.objects.issue(owner, name, expires_at, operator)
            words = f"“{name}” of {owner}{', may change the registry' if operator else ''}"
            audit.record_command("key.make", f"{key.prefix}…", words)
        self.stdout.write(secret)
