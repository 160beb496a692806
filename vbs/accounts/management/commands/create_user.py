"""`manage.py create_user`: an account for the browser, with a role."""

import sys
from getpass import getpass
from typing import Any

from django.contrib.auth.validators import UnicodeUsernameValidator
from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import transaction

from vbs.accounts import people, roles
from vbs.accounts.models import Project
from vbs.configuration import audit


class Command(BaseCommand):
    help = (
        "Create an account for the browser. Asks for the password. Without a terminal, or with an empty answer, a "
        "password is generated and printed, alone, on standard output: it is shown only once."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("name", help="to sign in with")
        parser.add_argument("--role", required=True, choices=roles.ROLES)
        parser.add_argument(
            "--project", action="append", default=[], help="a project whose batches they may see; may be repeated"
        )

    def handle(self, *, name: str, role: str, project: list[str], **options: Any) -> None:
        try:
            UnicodeUsernameValidator()(name)
        except ValidationError as error:
            raise CommandError(f"The name is {name!r}. {error.messages[0]}") from None
        if len(name) > 150:
            raise CommandError("The name has more than 150 characters.")
        found = list(Project.objects.filter(name__in=project))
        if missing := set(project) - {one.name for one in found}:
            known = ", ".join(Project.objects.values_list("name", flat=True)[:20]) or "none"
            raise CommandError(f"There is no project {sorted(missing)[0]!r}; there are: {known}.")
        try:
            with transaction.atomic():
                _, generated = people.make(name, self._password(name), role, found)
                audit.record_command("user.add", name, role)
        except people.AccountRefused as error:
            raise CommandError(str(error)) from None
        self.stderr.write(
            f"The account {name} is created, with the role {role}." + (" The password:" if generated else "")
        )
        if not found and role != roles.ADMIN:
            self.stderr.write(
                f"{name} is in no project yet and sees no batches: an admin adds projects under System → People."
            )
        if generated:
            self.stdout.write(generated)

    def _password(self, name: str) -> str:
        if not sys.stdin.isatty():
            return ""
        typed = getpass(f"Password for {name} (empty: one is generated): ")
        if typed and typed != getpass("Again: "):
            raise CommandError("The two passwords differ: no account is created.")
        return typed
