"""Django's command line, with the embedded database started for the commands that need one.

`manage.py` in a checkout, `vbs` where it is installed.
"""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

OURS = {"batches", "curation", "finetuning", "models_registry", "vbs"}
NEED_NO_DATABASE = {
    "batch",  # sends requests to a server, and says how to start one
    "check",
    "collectstatic",
    "compilemessages",
    "demo",  # runs a stack of its own, as `up` does
    "diffsettings",
    "findstatic",
    "help",
    "make_batch",
    "makemessages",
    "makemigrations",
    "postgres",
    "spectacular",
    "startapp",
    "startproject",
    "status",  # shows what runs, and starts nothing
    "up",
    "version",
}


def main() -> None:
    name = Path(sys.argv[0]).name
    if name == "__main__.py":
        name = sys.argv[0] = "vbs"  # Django's help would say "python -m django"
    try:
        run(name)
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing in OURS:
            raise
        sys.exit(
            f"{name}: {sys.executable} has no package {missing}: vbs is not installed there, or not with all its "
            "requirements. In a checkout, run 'make setup' and then '.venv/bin/python manage.py …'."
        )


def run(name: str) -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "vbs.settings")
    from django.conf import settings
    from django.core.management import execute_from_command_line
    from django.db import ProgrammingError
    from environs import EnvError
    from psycopg.errors import UndefinedColumn, UndefinedTable

    from vbs.run.postgres import PostgresError

    try:
        settings.configured or settings.INSTALLED_APPS  # noqa: B018 (read now, to report a wrong setting plainly)
    except EnvError as error:
        sys.exit(f"{name}: {error}")
    try:
        with database_for(sys.argv[1:]):
            execute_from_command_line(sys.argv)
    except PostgresError as error:
        sys.exit(f"{name}: {error}")
    except ProgrammingError as error:
        if not isinstance(error.__cause__, (UndefinedTable, UndefinedColumn)):
            raise
        reason = str(error).partition("\n")[0]
        sys.exit(f"{name}: the database has the tables of another version ({reason}): run '{name} prepare' or 'up'")


@contextmanager
def database_for(words: list[str]) -> Iterator[None]:
    """Runs the embedded database during the command, unless the command needs none or the supervisor runs it."""
    from django.conf import settings

    from vbs.run import interrupts, postgres

    distant = any(word.partition("=")[0] == "--url" for word in words)
    idle = not words or distant or words[0] in NEED_NO_DATABASE or not {"-h", "--help", "--version"}.isdisjoint(words)
    if idle or settings.DATABASE_URL or "VBS_INSTANCE" in os.environ:
        yield
        return
    ending = (signal.SIGTERM, signal.SIGHUP)
    interrupts.listen(ending, lambda number: interrupts.Ended(128 + number))  # to end by way of the context manager
    try:
        with postgres.in_use(settings.VBS_DATA_DIR):
            yield
    finally:
        interrupts.ignore(ending)


if __name__ == "__main__":
    main()
