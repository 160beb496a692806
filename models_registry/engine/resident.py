"""The one loaded model of a worker, with its adapters: acquire another and the first makes room."""

import fcntl
import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

from models_registry.engine import control, retry, server
from models_registry.engine.machine import leftovers
from models_registry.engine.reasons import Lack, LoadError
from models_registry.engine.server import Engine, Progress
from models_registry.engine.sleepers import Sleepers
from models_registry.engine.spec import Adapter, EngineKind, EngineSpec

log = logging.getLogger(__name__)

START_ATTEMPTS = 3
FOR_ADAPTERS = ("enable-lora", "max-lora-rank")
OWN_SHARE = (Lack.CONTEXT, Lack.CACHE)  # wanting in the engine's own share, whoever else is there


class Resident:
    """home: a folder that only one worker at a time may use; `lock` says whether that is us.

    remote_keys, remote_window: keys for remote engines by their origin, and how many requests they get at once. sleep:
    on a GPU, make room by putting the loaded model to sleep, from which it comes back in seconds, instead of ending its
    engine.
    """

    def __init__(
        self,
        home: Path,
        start_seconds: float,
        remote_keys: Mapping[str, str] | None = None,
        remote_window: int = 256,
        sleep: bool = False,
    ) -> None:
        self.home = home
        self.start_seconds = start_seconds
        self.remote_keys = remote_keys or {}
        self.remote_window = remote_window
        self.sleep = sleep
        self.engine: Engine | None = None
        self.adapters: set[str] = set()  # that the engine has
        self.sleepers = Sleepers(home)
        self._less: dict[str, dict[str, Any]] = {}  # what lets a spec fit here, by the spec's text
        self._lock: IO[str] | None = None

    def lock(self) -> bool:
        """Become the only user of the folder, until this process ends. False while another process is."""
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
        """After a crash of an earlier worker: keep its engine if it still answers, end all else that is left of it."""
        engine = server.adopt(None, self.home)
        if engine:
            try:
                self.adapters = control.adapters(engine.address)
                self.engine = engine
                self._less[repr(engine.spec)] = engine.started.less
                log.info("Adopted the engine of an earlier worker: %s, pid %s", engine.spec.name, engine.pid)
            except control.SILENT as error:
                log.warning("The engine of an earlier worker is not adopted: %s", error)
        spare = [self.engine.folder] if self.engine else []
        if ended := leftovers.end(self.home, spare):
            log.warning("Ended %d processes of engines that an earlier worker left behind", ended)
        server.forget_folders(self.home, spare)

    def acquire(self, spec: EngineSpec, on_progress: Progress, adapter: Adapter | None = None) -> Engine:
        """An engine that serves this spec, and the adapter: at once when it is loaded, else after a swap.

        What does not fit is tried with less, see `Engine.started`. Raises LoadError.
        """
        attempt = 1
        while True:
            engine = self._acquire(spec, on_progress)
            try:
                if adapter and adapter.name not in self.adapters:
                    control.load_adapter(engine.address, adapter)
                    self.adapters.add(adapter.name)
                return engine
            except control.SILENT as error:
                if engine.alive() or attempt == START_ATTEMPTS:
                    raise LoadError(f"the engine does not answer while it loads {adapter}: {error!r}") from error
                log.warning("The engine died while it was loading an adapter; starting it again")
                attempt += 1

    def keep_adapters(self, names: set[str]) -> None:
        """Unload all others. One that the engine does not give up stays there, where nobody can name it."""
        for name in self.adapters - names:
            self.adapters.discard(name)
            if self.engine:
                try:
                    control.unload_adapter(self.engine.address, name)
                except (LoadError, *control.SILENT) as error:
                    log.warning("The adapter %s was not unloaded: %s", name, error)

    def _acquire(self, spec: EngineSpec, on_progress: Progress) -> Engine:
        if self.engine and _serves(self.engine.spec, spec) and self.engine.alive():
            return self.engine
        self._make_room(spec)
        if spec.kind is EngineKind.REMOTE:
            self.engine = server.remote(spec, self.remote_keys, self.remote_window)
        else:
            self.engine = self.sleepers.wake(spec, on_progress) or self._start(spec, on_progress)
        return self.engine

    def _make_room(self, wanted: EngineSpec) -> None:
        """For the engine of this spec, which may be asleep: the loaded one falls asleep if it can, else it ends."""
        if not self.engine:
            return
        if self.sleep and self.engine.can_sleep and self.engine.alive():
            self.keep_adapters(set())  # the fixed prompt says nothing of them; they are loaded again when wanted
            if self.sleepers.put(self.engine, keep=wanted):
                self.engine, self.adapters = None, set()
                return
        self._end()

    def _start(self, spec: EngineSpec, on_progress: Progress) -> Engine:
        """Cold, with as little less as lets it fit. A later start of this spec begins with what did."""

        def begin(less: dict[str, Any]) -> Engine:
            return self._begin(spec, less, on_progress)

        engine = self.engine = retry.start(spec, begin, on_progress, self._less.get(repr(spec)), self.sleep)
        self._less[repr(spec)] = engine.started.less
        if self.sleep and engine.can_sleep:
            self.sleepers.get_to_know(engine)
        return engine

    def _begin(self, spec: EngineSpec, less: dict[str, Any], on_progress: Progress) -> Engine:
        """An engine that says why it ends has ended for good; one that is killed has another chance."""
        attempt = 1
        while True:
            beside = self.sleepers.engines if self.sleep else None
            try:
                return server.start(spec, self.home, self.start_seconds, on_progress, less, beside)
            except LoadError as error:
                if beside and (error.killed or (error.shortage and error.shortage.of not in OWN_SHARE)):
                    log.warning("Ending %d engines that sleep, for %s: %s", len(beside), spec.name, error.reason)
                    self.sleepers.end_all()
                    continue
                if not error.killed or attempt == START_ATTEMPTS:
                    raise
                log.warning("Starting the engine again: %s", error)
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
        """Unload everything, also what sleeps: when this returns the memory is free."""
        self.release_all()

    def release_all(self) -> None:
        self._end()
        self.sleepers.end_all()
        if self.sleep:
            leftovers.end(self.home)

    def _end(self) -> None:
        """First it is ours no more: whoever looks meanwhile must not take its end for an accident."""
        engine, self.engine, self.adapters = self.engine, None, set()
        if engine:
            server.stop(engine, self.home)


def _serves(running: EngineSpec, asked: EngineSpec) -> bool:
    """An engine with room for adapters serves its model without any as well."""
    plain = tuple((name, value) for name, value in running.args if name not in FOR_ADAPTERS)
    return asked in (running, replace(running, args=plain))
