"""What a worker does while the database cannot be reached, and the events that tell it to stop."""

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

# InternalError comes when the session was ended because it was idle for too long within a transaction.
DATABASE_ERRORS = (OperationalError, InterfaceError, InternalError)
PAUSE_SECONDS = 0.5
TOO_SLOW = 3  # a step is given up when its statements took too long so many times

# Set when this worker has to stop. The worker command puts an event here that its processes share.
stopping: Any = threading.Event()
# Set when it has to stop because it is to start anew; shared likewise.
restarting: Any = threading.Event()
cluster_pid = 0  # the first process of our cluster, which its supervisor watches


def insist(step: Callable[[], T], seconds: float = float("inf")) -> T:
    """Do the step, and repeat it while the database cannot be reached. Doing the step twice must do no harm.

    Raises the database's error when this worker has to stop, when so many seconds are over, and when statements of the
    step took too long several times.
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
            log.warning("The database failed, trying again: %s", first_line(error))
            if stopping.wait(PAUSE_SECONDS):
                raise


def first_line(error: BaseException) -> str:
    """The first line of an error's message; PostgreSQL's have several."""
    return str(error).strip().partition("\n")[0]


def restart() -> None:
    """End this cluster in order: its work is put back into the queue, and the supervisor starts it again."""
    restarting.set()
    if cluster_pid:
        os.kill(cluster_pid, signal.SIGTERM)
