"""How much the resident memory of each process grows while something happens."""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Self

import psutil

from benchmarks.rows import Row

LOOK_SECONDS = 0.5  # between looks for processes that are new
MB = 1e6
MOST_MB = 100.0


@dataclass
class Resident:
    """Bytes of one process: resident, and of these its own, shared with no other (PostgreSQL shares its buffers)."""

    kind: str
    first: tuple[int, int]
    peak: tuple[int, int] = (0, 0)

    def see(self, now: tuple[int, int]) -> None:
        self.peak = (max(self.peak[0], now[0]), max(self.peak[1], now[1]))

    @property
    def growth(self) -> tuple[float, float]:
        """In MB."""
        return (self.peak[0] - self.first[0]) / MB, (self.peak[1] - self.first[1]) / MB


@dataclass
class Watch:
    """A thread that looks at every process so many times a second, while the block runs."""

    processes: Callable[[], Mapping[psutil.Process, str]]
    hertz: float = 20
    seen: dict[psutil.Process, Resident] = field(default_factory=dict)

    def __enter__(self) -> Self:
        self._stop = threading.Event()
        self._known = self.processes()
        self._look()
        self._thread = threading.Thread(target=self._watch, name="memory", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        looked = time.monotonic()
        while not self._stop.wait(1 / self.hertz):
            if time.monotonic() - looked > LOOK_SECONDS:
                self._known, looked = self.processes(), time.monotonic()
            self._look()

    def _look(self) -> None:
        for process, kind in self._known.items():
            try:
                memory = process.memory_info()
            except psutil.Error:
                continue
            now = (memory.rss, memory.rss - memory.shared)
            self.seen.setdefault(process, Resident(kind, now)).see(now)

    def row(self, when: str) -> Row:
        """The process that has grown the most, and with it the one of each kind that has."""
        most: dict[str, float] = {}
        for one in self.seen.values():
            most[one.kind] = max(most.get(one.kind, 0.0), one.growth[0])
        own = max((one.growth[1] for one in self.seen.values() if one.kind == "postgres"), default=0.0)
        shown = ", ".join(f"{kind} {grown:.0f}" for kind, grown in sorted(most.items()))
        note = f"{shown} (without its shared buffers {own:.0f})"
        return Row(f"{when}: largest growth of a process", max(most.values()), "MB", at_most=MOST_MB, note=note)
