"""`manage.py up`: the web server, the workers and the database in the foreground."""

import time
from io import StringIO
from typing import Any

from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import connection

from vbs.places import PROGRAM
from vbs.run import interrupts, postgres, stack
from vbs.run.follow import LogFollower


class Command(BaseCommand):
    help = "Run everything in the foreground: database, web server and workers. Ctrl-C stops it all."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--quiet", action="store_true", help="do not show the programs' logs")

    def handle(self, *, quiet: bool, **options: Any) -> None:
        running = stack.Stack(settings.VBS_DATA_DIR, host=settings.VBS_HOST, port=settings.VBS_PORT)
        interrupts.listen()
        try:
            running.start(self.say)
            running.wait_ready(self.say)
            self.greet(running)
            self.follow(running, quiet)
        except stack.AlreadyRunning as error:
            self.describe(error)
        except (stack.StackError, postgres.PostgresError, OSError) as error:
            raise CommandError(str(error)) from error
        except KeyboardInterrupt:
            interrupts.ignore()  # before the clause ends, and nobody has it any more
            self.say("stopping everything")
        finally:
            interrupts.ignore()
            running.stop()

    def say(self, text: str) -> None:
        self.stdout.write(f"vbs: {text}")
        self.stdout.flush()

    def greet(self, running: stack.Stack) -> None:
        url = running.url
        self.stdout.write(f"""
vbs is up. Ctrl-C stops it.
  pages      {url}
  API        {url}/v1
  API docs   {url}/docs
  logs       {running.data / "logs"}""")
        if not get_user_model().objects.exists():
            self.stdout.write(
                f"  sign in    '{PROGRAM} create_user NAME --role admin' creates an account for the pages"
            )
        if key := first_key():
            self.stdout.write(f"  API key    {key}   (an operator's, of the project default; shown only this once)")
        elif settings.VBS_API_AUTH == "required":
            self.stdout.write(f"  API key    '{PROGRAM} create_api_key --project default --name NAME' creates another")
        self.stdout.write("")
        self.stdout.flush()

    def follow(self, running: stack.Stack, quiet: bool) -> None:
        names = [*(program.name for program in running.programs), "supervisord"]
        tails = {name: LogFollower(running.log_path(name)) for name in names}
        width = max(map(len, names))
        while True:
            for name, tail in tails.items():
                for line in tail.lines():
                    if not quiet:
                        self.stdout.write(f"{name:{width}} | {printable(line)}")
            self.stdout.flush()
            running.check()
            time.sleep(0.2)

    def describe(self, error: stack.AlreadyRunning) -> None:
        found = stack.running(settings.VBS_DATA_DIR)
        if found is None:
            raise CommandError(f"{error} It has just ended: try again.")
        self.stdout.write(f"vbs already runs at {found.url} (pid {found.pid}, data in {settings.VBS_DATA_DIR}):")
        for program in found.programs:
            self.stdout.write(f"  {program.name:10} {program.state:9} {program.detail}")
        if not found.programs:
            self.stdout.write("  it is starting or stopping")


def first_key() -> str | None:
    """Makes a key for the first user, when there is no key at all."""
    from vbs.accounts.models import ApiKey

    try:
        if settings.VBS_API_AUTH != "required" or ApiKey.objects.exists():
            return None
        printed = StringIO()
        call_command("create_api_key", project="default", name="first key", operator=True, stdout=printed)
        return printed.getvalue().strip()
    finally:
        connection.close()  # nobody needs it while we follow logs


def printable(line: str) -> str:
    """The text without characters that would control the terminal: logs quote what clients send."""
    return "".join(character for character in line if character.isprintable() or character == "\t")
