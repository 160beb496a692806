"""What a worker does while the database is away, and how it hears that it has to stop."""

import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from django.db import InterfaceError, OperationalError, connection

log = logging.getLogger(__name__)

T = TypeVar("T")

DATABASE_ERRORS = (OperationalError, InterfaceError)
PAUSE_SECONDS = 0.5

# Set when this worker has to stop. The worker command puts an event here that its processes share.
stopping: Any = threading.Event()
# Set when it has to stop because it is to start anew; shared likewise.
restarting: Any = threading.Event()
cluster_pid = 0  # the first process of our cluster, which its supervisor watches


def insist(step: Callable[[], T], seconds: float = float("inf")) -> T:
    """Do it, again and again while the database is away. The step must bear being done twice.

    Raises the database's error when this worker has to stop, or after so many seconds.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            return step()
        except DATABASE_ERRORS as error:
            connection.close()
            if time.monotonic() > deadline:
                raise
            log.warning("The database is out of reach, trying again: %s", str(error).strip().partition("\n")[0])
            if stopping.wait(PAUSE_SECONDS):
                raise


def restart() -> None:
    """End our cluster in order: what runs is put back, and the supervisor starts all of it anew."""
    restarting.set()
    if cluster_pid:
        os.kill(cluster_pid, signal.SIGTERM)
