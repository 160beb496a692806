"""What was worked out a moment ago, told again to whoever asks next. In each process, of a bounded number of things."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Value = TypeVar("Value")
MOST = 200


class Kept(Generic[Value]):
    def __init__(self) -> None:
        self._values: OrderedDict[Hashable, tuple[float, Value]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable, seconds: float, make: Callable[[], Value]) -> Value:
        """As it was made at most so many seconds ago. Two who ask at once may both make it."""
        with self._lock:
            found = self._values.get(key)
        if found and time.monotonic() - found[0] < seconds:
            return found[1]
        value = make()
        with self._lock:
            self._values[key] = time.monotonic(), value
            self._values.move_to_end(key)
            while len(self._values) > MOST:
                self._values.popitem(last=False)
        return value

    def forget(self) -> None:
        with self._lock:
            self._values.clear()
