"""How many requests an engine gets at once, and what each of them may take."""

import math

import psutil
from django.conf import settings

from models_registry.engine.client import Limits
from models_registry.engine.server import Engine
from vbs.configuration import runtime
from vbs.run import descriptors

SPARE = 64  # descriptors for all else: the database, logs, input files


def limits() -> Limits:
    """Of one request, as they are set now."""
    seconds, attempts = runtime.value("VBS_REQUEST_SECONDS"), runtime.value("VBS_REQUEST_ATTEMPTS")
    return Limits(seconds, attempts, settings.VBS_MAX_ANSWER_MB * 2**20)


def wanted(engine: Engine) -> int:
    """So many that the engine's own queue is short, and never empty."""
    return math.ceil(engine.max_num_seqs * 1.25)


def in_flight(engine: Engine) -> int:
    """As many as are wanted, or as may have a connection, for each takes a descriptor here and one in the engine."""
    return max(1, min(wanted(engine), descriptors.left() - SPARE, _left_there(engine) - SPARE))


def shortfall(engine: Engine, window: int) -> str:
    """Why there are no more than these; empty when there are as many as are wanted."""
    if window >= wanted(engine):
        return ""
    return (
        f"At most {window:,} requests run at once, not {wanted(engine):,}: no more connections may be open "
        f"(ulimit -n is {descriptors.limit():,}). Raise the hard limit where vbs is started."
    )


def _left_there(engine: Engine) -> int:
    if engine.pid is None:
        return descriptors.WANTED
    try:
        process = psutil.Process(engine.pid)
        soft, _ = process.rlimit(psutil.RLIMIT_NOFILE)
        return descriptors.WANTED if soft < 0 else soft - process.num_fds()
    except psutil.Error:  # it has just died, which is told elsewhere
        return descriptors.WANTED
