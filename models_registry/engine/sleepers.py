"""Engines that sleep: their weights wait in the machine's memory, the GPU is free for another one.

On the way back each is asked the same as after its cold start. One that answers otherwise, or not at all, is ended;
whoever wanted it starts it anew. What sleeps is written down nowhere: after a crash of the worker it is ended.
"""

import logging
import time
from dataclasses import replace
from pathlib import Path

import psutil

from models_registry.engine import control, defaults, server
from models_registry.engine.machine import main_memory
from models_registry.engine.server import Engine, Progress
from models_registry.engine.spec import EngineSpec

log = logging.getLogger(__name__)

MOST = 4
ROOM = 1.2  # times its weights is what has to be free in the machine's memory for an engine to sleep


class Sleepers:
    """engines: the one that has slept longest first."""

    def __init__(self, home: Path, most: int = MOST) -> None:
        self.home = home
        self.most = most
        self.engines: list[Engine] = []

    def get_to_know(self, engine: Engine) -> None:
        """Keep what a fresh engine says to the fixed prompt. One that says nothing will not be put to sleep."""
        try:
            engine.said = control.say(engine.address, engine.spec)
            server.remember(self.home, engine)
        except (*control.SILENT, psutil.Error) as error:
            log.warning(
                "%s will not be put to sleep: it does not answer the fixed prompt (%s)", engine.spec.name, error
            )

    def put(self, engine: Engine, keep: EngineSpec | None = None) -> bool:
        """Put this one to sleep, if it can; others make room in its favour, but not that of the spec `keep`.

        False when it does not sleep: it is to be ended then.
        """
        self._forget_dead()
        if not engine.can_sleep or not engine.said or engine.folder == self.home or not engine.alive():
            return False
        if not self._make_room(engine, keep):
            log.info("%s does not sleep: the machine's memory has no room for its weights", engine.spec.name)
            return False
        server.forget(self.home, engine)  # first: what is adopted after a crash has to be awake
        try:
            control.sleep(engine.address)
        except control.SILENT as error:
            log.warning("%s does not sleep: %s", engine.spec.name, str(error) or repr(error))
            return False
        except BaseException:  # whoever has it must not take it for awake
            server.stop(engine, self.home)
            raise
        self.engines.append(engine)
        return True

    def _make_room(self, engine: Engine, keep: EngineSpec | None) -> bool:
        needed = int(defaults.weights(engine.spec.source) * ROOM)
        others = [other for other in self.engines if other.spec != keep]
        while len(others) >= self.most or main_memory.available() < needed:
            if not others:
                return False
            self.end(others.pop(0))
        return True

    def wake(self, spec: EngineSpec, on_progress: Progress) -> Engine | None:
        """The engine of this spec, awake, as good as new, and no longer one of ours; None when there is none."""
        self._forget_dead()
        engine = next((engine for engine in self.engines if engine.spec == spec), None)
        if engine is None:
            return None
        on_progress("waking up")
        began = time.monotonic()
        try:
            self._wake(engine)
            engine.started = replace(engine.started, seconds=round(time.monotonic() - began, 3), woken=True)
            server.remember(self.home, engine)
        except (*control.SILENT, psutil.Error) as error:
            log.warning("%s is started anew instead of woken: %s", spec.name, str(error) or repr(error))
            self.end(engine)
            return None
        except BaseException:  # half awake it would be in the way of the next
            self.end(engine)
            raise
        self.engines.remove(engine)
        return engine

    def _wake(self, engine: Engine) -> None:
        control.wake(engine.address)
        assert engine.said is not None
        if not control.alike(engine.said, control.say(engine.address, engine.spec)):
            raise ConnectionError("it answers the fixed prompt otherwise than before it slept")

    def end(self, engine: Engine) -> None:
        server.stop(engine, self.home)
        self.engines.remove(engine)

    def end_all(self) -> None:
        for engine in list(self.engines):
            self.end(engine)

    def _forget_dead(self) -> None:
        for engine in [engine for engine in self.engines if not engine.alive()]:
            log.warning("%s has ended in its sleep", engine.spec.name)
            server.clear(engine, self.home)  # not by its number, which may be another's by now
            self.engines.remove(engine)
