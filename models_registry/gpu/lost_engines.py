"""Counts engines that ended by themselves while idle, since this worker began, and describes the last one.

The worker's heartbeat and its main loop both look. Each such engine is logged once; the counts are in the worker's
reading, which the overview, `status` and the metrics show.
"""

import logging
import threading
import time
from typing import Any

from models_registry.engine.resident import Resident
from models_registry.engine.server import Engine

log = logging.getLogger(__name__)


class LostEngines:
    """memory: engines that the system killed because memory ran out. other: all others."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._told: Engine | None = None
        self.memory = self.other = 0
        self.last: dict[str, Any] | None = None

    def look(self, resident: Resident) -> bool:
        """Has the loaded engine ended by itself? An engine that this worker ends is no longer the loaded one then."""
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
            log.warning(
                "Engine of %s: it has ended while it was idle (%s); the next request starts it again",
                engine.spec.name,
                how,
            )
            self.last = {"model": engine.spec.name, "how": how, "at": time.time()}
        return True

    def reading(self) -> dict[str, Any]:
        return {"memory": self.memory, "other": self.other, "last": self.last}
