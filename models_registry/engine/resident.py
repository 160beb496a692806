"""The one loaded engine of a worker, with its adapters. To acquire another engine, the loaded one is put to sleep or
ended."""

import fcntl
import logging
import time
from pathlib import Path
from typing import IO, Any

from models_registry.engine import control, reduced_start, server
from models_registry.engine.log_reasons import LoadError, ShortageKind
from models_registry.engine.machine import leftovers
from models_registry.engine.server import Engine, Progress
from models_registry.engine.sleeping import SleepingEngines
from models_registry.engine.spec import Adapter, EngineSpec
from models_registry.engine.start_progress import Starts
from models_registry.engine.watch import figures

log = logging.getLogger(__name__)

START_ATTEMPTS = 3
FINISH_SECONDS = 30  # for the answers to what people ask directly, before the engine makes room for another
LOOK_SECONDS = 2  # for the engine to tell its figures
POLL_SECONDS = 0.25
# Shortages within the engine's own share of the memory, which other engines do not cause.
OWN_SHARE = (ShortageKind.CONTEXT, ShortageKind.CACHE)


class Resident:
    """The loaded engine of one worker.

    home: a folder that one worker at a time may use, the one that holds its lock. sleep: on a GPU, put the loaded
    engine to sleep instead of ending it, so that it is back within seconds.
    """

    def __init__(
        self,
        home: Path,
        start_seconds: float,
        sleep: bool = False,
    ) -> None:
        self.home = home
        self.start_seconds = start_seconds
        self.sleep = sleep
        self.engine: Engine | None = None
        self.adapters: set[str] = set()  # those that the engine has loaded
        self.sleepers = SleepingEngines(home)
        self._reduced: dict[str, dict[str, Any]] = {}  # by a spec's text, the reduced options with which it fits
        self._lock: IO[str] | None = None

    def lock(self) -> bool:
        """Take the lock of the folder until this process ends. False while another process has it."""
        self.home.mkdir(parents=True, exist_ok=True)
        file = (self.home / "lock").open("w")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return False
        self._lock = file
        return True

    def recover(self) -> None:
        """Adopt the engine of an earlier worker if it still answers, and end all else that the worker left behind."""
        engine = server.adopt(None, self.home)
        if engine and engine.spec.trial:
            server.stop(engine, self.home)
        elif engine:
            try:
                self.adapters = control.adapters(engine.address)
                self.engine = engine
                self._reduced[repr(engine.spec)] = engine.started.reduced
                log.info("Engine of %s: adopted from an earlier worker, pid %s", engine.spec.name, engine.pid)
            except control.NO_ANSWER as error:
                log.warning("Engine of an earlier worker: it is not adopted: %s", error)
        spare = [self.engine.folder] if self.engine else []
        if ended := leftovers.end(self.home, spare):
            log.warning("Engines of an earlier worker: %d processes that were left behind are ended", ended)
        server.remove_folders(self.home, spare)

    def acquire(self, spec: EngineSpec, on_progress: Progress, adapter: Adapter | None = None) -> Engine:
        """The engine that serves this spec and the adapter, loaded if it is not.

        spec: with the options for adapters with which it is started if it has to be; one that runs keeps its own.
        A model that does not fit is started with reduced options (`StartResult.reduced`). Raises LoadError.
        """
        attempt = 1
        while True:
            engine = self._acquire(spec, on_progress, adapter)
            try:
                if adapter and adapter.name not in self.adapters:
                    if len(self.adapters) >= engine.adapter_places:
                        self.keep_adapters(set())  # they are loaded again when they are needed
                    control.load_adapter(engine.address, adapter)
                    self.adapters.add(adapter.name)
                return engine
            except control.NO_ANSWER as error:
                if engine.alive() or attempt == START_ATTEMPTS:
                    raise LoadError(f"the engine does not answer while it loads {adapter}: {error!r}") from error
                log.warning("Engine of %s: it died while it was loading an adapter, and is started again", spec.name)
                attempt += 1

    def serves(self, spec: EngineSpec, adapter: Adapter | None = None) -> bool:
        """Does the loaded engine serve this spec and the adapter beside all that it has loaded, as it runs now?"""
        engine = self.engine
        if engine is None or not engine.serves(spec, adapter) or not engine.alive():
            return False
        return adapter is None or adapter.name in self.adapters or len(self.adapters) < engine.adapter_places

    def keep_adapters(self, names: set[str]) -> None:
        """Unload all other adapters. One that the engine does not unload stays there, but no request can name it."""
        for name in self.adapters - names:
            self.adapters.discard(name)
            if self.engine:
                try:
                    control.unload_adapter(self.engine.address, name)
                except (LoadError, *control.NO_ANSWER) as error:
                    log.warning("Adapter %s: it was not unloaded: %s", name, error)

    def _acquire(self, spec: EngineSpec, on_progress: Progress, adapter: Adapter | None) -> Engine:
        if self.engine and self.engine.serves(spec, adapter) and self.engine.alive():
            return self.engine
        self._make_room(spec, on_progress)
        self.engine = self.sleepers.wake(spec, on_progress, adapter) or self._start(spec, on_progress)
        return self.engine

    def _make_room(self, wanted: EngineSpec, on_progress: Progress) -> None:
        """Put the loaded engine to sleep if it can sleep, else end it. wanted: the spec that is needed next, whose
        engine may be asleep and then stays."""
        if not self.engine:
            return
        if self.engine.pid is not None:
            self._let_finish(self.engine, on_progress)
        if self.sleep and self.engine.can_sleep and self.engine.alive():
            self.keep_adapters(set())  # the fixed prompt cannot check them; they are loaded again when needed
            if self.sleepers.put_to_sleep(self.engine, keep=wanted):
                self.engine, self.adapters = None, set()
                return
        self._end()

    def _let_finish(self, engine: Engine, on_progress: Progress) -> None:
        """Give the engine a while to answer what people have asked it directly. Without engine.json nobody finds it, so
        nothing new comes."""
        server.remove_state(self.home, engine)
        end = time.monotonic() + FINISH_SECONDS
        try:
            while engine.alive() and (left := figures.ask(engine.address, LOOK_SECONDS)) and time.monotonic() < end:
                if not (there := left.running + left.waiting):
                    return
                on_progress(f"waiting until {engine.spec.name} has answered {there} more requests")
                time.sleep(POLL_SECONDS)
        except BaseException:  # it stays, for it is not to make room any more
            server.write_state(self.home, engine)
            raise

    def _start(self, spec: EngineSpec, on_progress: Progress) -> Engine:
        """A cold start, with options reduced as little as makes the model fit. The next start of this spec uses the
        same reduced options at once."""

        starts = Starts(on_progress)

        def begin(reduced: dict[str, Any]) -> Engine:
            return self._begin(spec, reduced, starts)

        engine = self.engine = reduced_start.start(spec, begin, on_progress, self._reduced.get(repr(spec)), self.sleep)
        self._reduced[repr(spec)] = engine.started.reduced
        if self.sleep and engine.can_sleep:
            self.sleepers.record_fixed_answer(engine)
        return engine

    def _begin(self, spec: EngineSpec, reduced: dict[str, Any], starts: Starts) -> Engine:
        """Start the engine. One that was killed is started again; one that ended with a reason is not."""
        attempt = 1
        while True:
            sleeping = self.sleepers.engines if self.sleep else None
            try:
                return server.start(spec, self.home, self.start_seconds, starts.begin(), reduced, sleeping)
            except LoadError as error:
                if sleeping and (error.killed or (error.shortage and error.shortage.of not in OWN_SHARE)):
                    log.warning(
                        "Engine of %s: ending %d engines that sleep, to make room for it: %s",
                        spec.name,
                        len(sleeping),
                        error.reason,
                    )
                    self.sleepers.end_all()
                    continue
                if not error.killed or attempt == START_ATTEMPTS:
                    raise
                log.warning("Engine of %s: it is started again: %s", spec.name, error)
                attempt += 1

    def unload(self, name: str) -> bool:
        """End the engine of the model of this name, awake or asleep. False when there is none."""
        asleep = [engine for engine in self.sleepers.engines if engine.spec.name == name]
        for engine in asleep:
            self.sleepers.end(engine)
        loaded = self.engine is not None and self.engine.spec.name == name
        if loaded:
            self._end()
        return loaded or bool(asleep)

    def release(self) -> None:
        """End the loaded engine and the sleeping ones. When this returns, their memory is free."""
        self.release_all()

    def release_all(self) -> None:
        self._end()
        self.sleepers.end_all()
        if self.sleep:
            leftovers.end(self.home)

    def _end(self) -> None:
        """End the loaded engine. It is forgotten first, so that nobody who looks takes its end for a crash."""
        engine, self.engine, self.adapters = self.engine, None, set()
        if engine:
            server.stop(engine, self.home)
