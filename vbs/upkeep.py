"""The upkeep does what was left undone, and removes what is not needed any more.

It runs every minute, and when an io worker starts.

An app registers its steps. A step may run twice. An error in one step does not stop the others: wake-ups are sent even
while the storage cannot be reached, for example.
"""

import contextlib
import logging
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from django.conf import settings

from vbs.database.outages import insist

log = logging.getLogger(__name__)

ORPHAN_SECONDS = 24 * 3600

STEPS: list[Callable[[], object]] = []


def register(*steps: Callable[[], object]) -> None:
    STEPS.extend(steps)


def run() -> None:
    for step in STEPS:
        try:
            step()
        except Exception:
            log.exception("Upkeep: a step failed: %s.%s", step.__module__, step.__qualname__)


def task() -> None:
    insist(run)


def remove_old_temporary_files() -> None:
    """Delete the temporary files and folders that killed processes left."""
    for path in Path(settings.TMP_DIR).glob("*"):
        with contextlib.suppress(OSError):
            if time.time() - path.lstat().st_mtime > ORPHAN_SECONDS:
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink()
