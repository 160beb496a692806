"""Engines that ended by themselves while nothing ran on them: how many since this worker began, and the last one.

The worker's heart and its work both look; each loss is told once: in the log here, and in the worker's reading, which
the overview, `status` and the metrics show.
"""

import logging
import threading
import time
from typing import Any

from models_registry.engine.resident import Resident
from models_registry.engine.server import Engine

log = logging.getLogger(__name__)


class LostEngines:
    """memory: of them, those that the system killed for want of it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._told: Engine | None = None
        self.memory = self.other = 0
        self.last: dict[str, Any] | None = None

    def look(self, resident: Resident) -> bool:
        """Has the loaded engine ended? One that we end is not the loaded one any more by then."""
        engine = resident.engine
        if engine is None or engine.alive() or resident.engine is not engine:
            return False
        with self._lock:
            if self._told is engine:
                return True
            self._told = engine
            if engine.lacked_memory:
                self.memory += 1
            else:
                self.other += 1
            how = engine.ending()
            log.warning("The idle engine of %s has ended (%s); the next request starts it again", engine.spec.name, how)
            self.last = {"model": engine.spec.name, "how": how, "at": time.time()}
        return True

    def reading(self) -> dict[str, Any]:
        return {"memory": self.memory, "other": self.other, "last": self.last}
