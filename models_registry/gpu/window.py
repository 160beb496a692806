"""The window of an engine, which is how many requests it gets at once, and what each request may take."""

import math

import psutil
from django.conf import settings

from models_registry.engine.client import Limits
from models_registry.engine.server import Engine
from vbs.configuration import runtime
from vbs.run import descriptors

SPARE = 64  # descriptors that are left for the database, logs and input files


def limits() -> Limits:
    """What one request may take, by the present settings."""
    seconds, attempts = runtime.value("VBS_REQUEST_SECONDS"), runtime.value("VBS_REQUEST_ATTEMPTS")
    return Limits(seconds, attempts, settings.VBS_MAX_ANSWER_MB * 2**20)


def wanted(engine: Engine) -> int:
    """The window that suits the engine: its own queue is then short, and never empty."""
    return math.ceil(engine.max_num_seqs * 1.25)


def in_flight(engine: Engine) -> int:
    """The window: as many as suit the engine, or as can have a connection. Each takes a descriptor here and there."""
    return max(1, min(wanted(engine), descriptors.left() - SPARE, _left_there(engine) - SPARE))


def shortfall(engine: Engine, window: int) -> str:
    """Why the window is smaller than it should be; empty when it is not."""
    if window >= wanted(engine):
        return ""
    return (
        f"At most {window:,} requests run at once, not {wanted(engine):,}, because no more connections may be open "
        f"(ulimit -n is {descriptors.limit():,}). Raise the hard limit where vbs is started."
    )


def _left_there(engine: Engine) -> int:
    if engine.pid is None:
        return descriptors.WANTED
    try:
        process = psutil.Process(engine.pid)
        soft, _ = process.rlimit(psutil.RLIMIT_NOFILE)
        return descriptors.WANTED if soft < 0 else soft - process.num_fds()
    except psutil.Error:  # it has just died, which is reported elsewhere
        return descriptors.WANTED
