"""The upkeep: what was left undone is found, and what is not needed any more goes.

It runs every minute, and whenever an io worker starts.

An app registers its parts. Each may be done twice, and stands for itself: a storage that is out of reach, for example,
does not keep wake-ups from anybody.
"""

import contextlib
import logging
import time
from collections.abc import Callable
from pathlib import Path

from django.conf import settings

from vbs.database.outages import insist

log = logging.getLogger(__name__)

ORPHAN_SECONDS = 24 * 3600

PARTS: list[Callable[[], object]] = []


def register(*parts: Callable[[], object]) -> None:
    PARTS.extend(parts)


def run() -> None:
    for part in PARTS:
        try:
            part()
        except Exception:
            log.exception("A part of the upkeep failed: %s.%s", part.__module__, part.__qualname__)


def task() -> None:
    insist(run)


def scratch() -> None:
    """Temporary files of processes that were killed go."""
    for path in Path(settings.TMP_DIR).glob("*"):
        with contextlib.suppress(OSError):
            if path.is_file() and time.time() - path.stat().st_mtime > ORPHAN_SECONDS:
                path.unlink()
