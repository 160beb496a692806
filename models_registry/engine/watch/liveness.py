"""Finds an engine that gives no sign of life while requests are in flight, within two minutes, and ends it.

A missing answer proves nothing: a slow engine may take an hour for its first one, and vLLM's `/health` speaks for the
process that listens, not for the one that computes. But computing takes processor time, on a GPU too, because the
engine's process launches every step. So an engine counts as dead when one of its processes is stopped, or when it is
idle with requests in flight. One that computes is left alone as long as it answers `/health` now and then, and its own
figures change: with each step it takes requests in, fills its cache, or writes tokens. One that spins does none of it.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import psutil

from models_registry.engine.control import is_healthy
from models_registry.engine.server import Engine
from models_registry.engine.spec import EngineKind
from models_registry.engine.watch import figures
from models_registry.engine.watch.figures import Figures
from vbs.run import processes

log = logging.getLogger(__name__)

LOOK_SECONDS = 10.0  # between looks
HEALTH_SECONDS = 5.0  # for an answer
SILENT_SECONDS = 60.0  # without any sign of life, until the engine is ended
DEAF_SECONDS = 600.0  # the same for an engine that computes but does not answer
STILL_SECONDS = 1200.0  # in which not even a step of a large model on a CPU ends, until the engine is ended
IDLE = 0.01  # of a core; an engine that uses less is idle


@dataclass(frozen=True)
class Signs:
    """stopped: one of its processes is stopped. heard: it answers. seconds: processor time that it has used so far.
    figures: None where it tells none."""

    stopped: bool
    heard: bool
    seconds: float
    figures: Figures | None


def signs(engine: Engine) -> Signs:
    """The signs of life of a local engine."""
    assert engine.pid is not None
    stopped, seconds = False, 0.0
    for process in processes.family(engine.pid):
        with contextlib.suppress(psutil.Error):
            stopped |= process.status() in (psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP)
            taken = process.cpu_times()
            seconds += taken.user + taken.system
    heard = is_healthy(engine.address, HEALTH_SECONDS)
    return Signs(stopped, heard, seconds, figures.ask(engine.address, HEALTH_SECONDS) if heard else None)


async def until_silent(engine: Engine, in_flight: Callable[[], Iterable[int]]) -> None:
    """Returns after the engine was silent for too long and has been ended; then `engine.verdict` says so.

    in_flight: gives the ids of the calls that were sent and not answered. It never returns for a remote engine, whose
    calls have a time limit of their own.
    """
    if engine.pid is None:
        await asyncio.Event().wait()
    sent: set[int] = set()
    before: Signs | None = None
    looked = silent = deaf = still = time.monotonic()
    while True:
        await asyncio.sleep(LOOK_SECONDS)
        now = set(in_flight())
        if not sent or not sent <= now:  # something was answered, or nothing had been sent
            sent, before = now, None
            looked = silent = deaf = still = time.monotonic()
            continue
        sent = now
        seen, at = await asyncio.to_thread(signs, engine), time.monotonic()
        idle = before is not None and seen.seconds - before.seconds < IDLE * (at - looked)
        if before is None or seen.figures is None or seen.figures != before.figures:
            still = at
        before, looked = seen, at
        if seen.heard:
            deaf = at
        if not (seen.stopped or (idle and (not seen.heard or engine.spec.kind is EngineKind.VLLM))):
            silent = at
        why = ""
        if at - silent >= SILENT_SECONDS:
            how = "its process is stopped" if seen.stopped else "it does not compute"
            why = f"it gave no sign of life for {at - silent:.0f} s with {len(now)} requests in flight ({how})"
        elif at - deaf >= DEAF_SECONDS:
            why = f"it answered nothing for {at - deaf:.0f} s, not even /health"
        elif at - still >= STILL_SECONDS:
            why = f"it computed without any step forward for {at - still:.0f} s with {len(now)} requests in flight"
        if why:
            log.warning("Engine of %s: it is ended: %s", engine.spec.name, why)
            engine.verdict = why
            await asyncio.to_thread(lambda: processes.end(processes.family(engine.pid or 0), grace=0))
            return
