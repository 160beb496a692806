"""The one loaded model of a worker, with its adapters: acquire another and the first makes room."""

import fcntl
import logging
from pathlib import Path
from typing import IO

from models_registry.engine import server
from models_registry.engine.reasons import LoadError
from models_registry.engine.server import Engine, Progress
from models_registry.engine.spec import Adapter, EngineKind, EngineSpec

log = logging.getLogger(__name__)

START_ATTEMPTS = 3


class Resident:
    """home: a folder that only one worker at a time may use; `lock` says whether that is us.

    remote_key, remote_window: key for remote engines, and how many requests they get at once.
    """

    def __init__(self, home: Path, start_seconds: float, remote_key: str = "", remote_window: int = 256) -> None:
        self.home = home
        self.start_seconds = start_seconds
        self.remote_key = remote_key
        self.remote_window = remote_window
        self.engine: Engine | None = None
        self.adapters: set[str] = set()  # that the engine has
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
        """After a crash of an earlier worker: keep its engine if it still answers, else end what is left of it."""
        self.engine = server.adopt(None, self.home)
        if self.engine:
            self.adapters = server.adapters(self.engine)
            log.info("Adopted the engine of an earlier worker: %s, pid %s", self.engine.spec.name, self.engine.pid)
        elif ended := server.end_leftovers(self.home):
            log.warning("Ended %d processes of an engine that an earlier worker left behind", ended)

    def acquire(self, spec: EngineSpec, on_progress: Progress, adapter: Adapter | None = None) -> Engine:
        """An engine that serves this spec, and the adapter: at once when it is loaded, else after a swap.

        Raises LoadError.
        """
        attempt = 1
        while True:
            engine = self._acquire(spec, on_progress)
            try:
                if adapter and adapter.name not in self.adapters:
                    server.load_adapter(engine, adapter)
                    self.adapters.add(adapter.name)
                return engine
            except server.SILENT as error:
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
                    server.unload_adapter(self.engine, name)
                except (LoadError, *server.SILENT) as error:
                    log.warning("The adapter %s was not unloaded: %s", name, error)

    def _acquire(self, spec: EngineSpec, on_progress: Progress) -> Engine:
        if self.engine and self.engine.spec == spec and self.engine.alive():
            return self.engine
        self.release()
        if spec.kind is EngineKind.REMOTE:
            self.engine = server.remote(spec, self.remote_key, self.remote_window)
        else:
            self.engine = self._start(spec, on_progress)
        return self.engine

    def _start(self, spec: EngineSpec, on_progress: Progress) -> Engine:
        """An engine that says why it ends has ended for good; one that is killed has another chance."""
        attempt = 1
        while True:
            try:
                return server.start(spec, self.home, self.start_seconds, on_progress)
            except LoadError as error:
                if not error.killed or attempt == START_ATTEMPTS:
                    raise
                log.warning("Starting the engine again: %s", error)
                attempt += 1

    def release(self) -> None:
        """Unload: when this returns the memory is free."""
        if self.engine:
            server.stop(self.engine, self.home)
            self.engine = None
            self.adapters = set()
