"""What a worker does while the database is away, and how it hears that it has to stop."""

import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

import psycopg
from django.db import InterfaceError, InternalError, OperationalError, connection

log = logging.getLogger(__name__)

T = TypeVar("T")

# The last is what a session hears that was ended because it rested too long within a transaction.
DATABASE_ERRORS = (OperationalError, InterfaceError, InternalError)
PAUSE_SECONDS = 0.5
TOO_SLOW = 3  # times that a statement took too long, before its step is given up

# Set when this worker has to stop. The worker command puts an event here that its processes share.
stopping: Any = threading.Event()
# Set when it has to stop because it is to start anew; shared likewise.
restarting: Any = threading.Event()
cluster_pid = 0  # the first process of our cluster, which its supervisor watches


def insist(step: Callable[[], T], seconds: float = float("inf")) -> T:
    """Do it, again and again while the database is away. The step must bear being done twice.

    Raises the database's error when this worker has to stop, after so many seconds, and when its statements take too
    long again and again.
    """
    deadline, slow = time.monotonic() + seconds, 0
    while True:
        try:
            return step()
        except DATABASE_ERRORS as error:
            connection.close()
            slow += isinstance(error.__cause__, psycopg.errors.QueryCanceled)
            if time.monotonic() > deadline or slow >= TOO_SLOW:
                raise
            log.warning("The database does not do it now, trying again: %s", said(error))
            if stopping.wait(PAUSE_SECONDS):
                raise


def said(error: BaseException) -> str:
    """The first line of what the database says."""
    return str(error).strip().partition("\n")[0]


def restart() -> None:
    """End our cluster in order: what runs is put back, and the supervisor starts all of it anew."""
    restarting.set()
    if cluster_pid:
        os.kill(cluster_pid, signal.SIGTERM)
