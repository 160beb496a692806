"""`manage.py prepare`: does the migrations and collects the static files, as far as that is not done yet."""

import hashlib
from pathlib import Path
from typing import Any

from django.conf import settings
from django.contrib.staticfiles.finders import get_finders
from django.core.management import call_command
from django.core.management.base import BaseCommand


class Command(BaseCommand):
    help = "Prepare the database and the static files, as far as that is not done yet."

    def handle(self, **options: Any) -> None:
        call_command("migrate", interactive=False, verbosity=0)
        collect()


def collect() -> None:
    stamp = Path(settings.STATIC_ROOT) / ".collected"
    found = fingerprint()
    if not stamp.exists() or stamp.read_text() != found:
        call_command("collectstatic", interactive=False, clear=True, verbosity=0)  # seconds, for hundreds of files
        stamp.write_text(found)


def fingerprint() -> str:
    """A digest of every static file's name, size and time. It changes with each of them."""
    seen = hashlib.sha256()
    for finder in get_finders():
        for path, storage in sorted(finder.list(None), key=lambda item: item[0]):
            status = Path(storage.path(path)).stat()
            seen.update(f"{path}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return seen.hexdigest()
