"""Engines that sleep: their weights wait in main memory, and the GPU is free for another engine.

A woken engine gets the fixed prompt again. If its answer is not that of its cold start, or there is none, it is ended
and the caller starts it anew. Sleeping engines are not recorded in a file: after a crash of the worker they are ended.
"""

import logging
import time
from dataclasses import replace
from pathlib import Path

import psutil

from models_registry.engine import control, defaults, server
from models_registry.engine.machine import main_memory
from models_registry.engine.server import Engine, Progress
from models_registry.engine.spec import Adapter, EngineSpec

log = logging.getLogger(__name__)

MOST = 4
ROOM = 1.2  # times the size of its weights has to be free in main memory before an engine sleeps


class SleepingEngines:
    """The engines that sleep. engines: the one that has slept longest comes first."""

    def __init__(self, home: Path, most: int = MOST) -> None:
        self.home = home
        self.most = most
        self.engines: list[Engine] = []

    def record_fixed_answer(self, engine: Engine) -> None:
        """Record a fresh engine's answer to the fixed prompt. Without one it will not be put to sleep."""
        try:
            engine.fixed_answer = control.fixed_answer(engine.address, engine.spec)
            server.write_state(self.home, engine)
        except (*control.NO_ANSWER, psutil.Error) as error:
            log.warning(
                "Engine of %s: it will not be put to sleep, because it does not answer the fixed prompt (%s)",
                engine.spec.name,
                error,
            )

    def put_to_sleep(self, engine: Engine, keep: EngineSpec | None = None) -> bool:
        """Put this engine to sleep, and end others that sleep if memory is short, but not that of the spec `keep`.

        False when it does not sleep; then the caller ends it.
        """
        self._forget_dead()
        if not engine.can_sleep or not engine.fixed_answer or engine.folder == self.home or not engine.alive():
            return False
        if not self._make_room(engine, keep):
            log.info(
                "Engine of %s: it does not sleep, because main memory has no space for its weights", engine.spec.name
            )
            return False
        server.remove_state(self.home, engine)  # first: what is adopted after a crash has to be awake
        try:
            control.sleep(engine.address)
        except control.NO_ANSWER as error:
            log.warning("Engine of %s: it does not sleep: %s", engine.spec.name, str(error) or repr(error))
            return False
        except BaseException:  # its state is unknown, so the caller must not go on with it
            server.stop(engine, self.home)
            raise
        self.engines.append(engine)
        return True

    def _make_room(self, engine: Engine, keep: EngineSpec | None) -> bool:
        needed = int(defaults.weights(engine.spec.source) * ROOM)
        others = [other for other in self.engines if keep is None or not other.serves(keep)]
        while len(others) >= self.most or main_memory.available() < needed:
            if not others:
                return False
            self.end(others.pop(0))
        return True

    def wake(self, spec: EngineSpec, on_progress: Progress, adapter: Adapter | None = None) -> Engine | None:
        """Wake an engine that serves this spec and can take the adapter, and hand it over; None when there is none, or
        it is not sound any more."""
        self._forget_dead()
        engine = next((engine for engine in self.engines if engine.serves(spec, adapter)), None)
        if engine is None:
            return None
        on_progress("waking up")
        began = time.monotonic()
        try:
            self._wake(engine)
            engine.started = replace(engine.started, seconds=round(time.monotonic() - began, 3), woken=True)
            server.write_state(self.home, engine)
        except (*control.NO_ANSWER, psutil.Error) as error:
            log.warning("Engine of %s: it is started anew instead of woken: %s", spec.name, str(error) or repr(error))
            self.end(engine)
            return None
        except BaseException:  # half awake it would hold memory that the next engine needs
            self.end(engine)
            raise
        self.engines.remove(engine)
        return engine

    def _wake(self, engine: Engine) -> None:
        control.wake(engine.address)
        assert engine.fixed_answer is not None
        if not control.is_same_answer(engine.fixed_answer, control.fixed_answer(engine.address, engine.spec)):
            raise ConnectionError("its answer to the fixed prompt differs from the one before it slept")

    def end(self, engine: Engine) -> None:
        server.stop(engine, self.home)
        self.engines.remove(engine)

    def end_all(self) -> None:
        for engine in list(self.engines):
            self.end(engine)

    def _forget_dead(self) -> None:
        for engine in [engine for engine in self.engines if not engine.alive()]:
            log.warning("Engine of %s: it has ended while it slept", engine.spec.name)
            server.clean_up(engine, self.home)  # not `stop`: another process may have its pid by now
            self.engines.remove(engine)
