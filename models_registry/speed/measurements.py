"""Records how fast models are and how much memory they use, as rows of Measurement. A failure here is only logged.

A `Tally` counts the requests of a batch's turn and those of a benchmark alike.
"""

import logging
import math
import statistics
import time
from array import array
from collections.abc import Callable
from typing import Any, TypeVar

from django.db import connection

from models_registry.catalog.folders import ModelError
from models_registry.engine.machine import identity, memory
from models_registry.engine.server import Engine
from models_registry.fit import judge
from models_registry.models import Measurement, MeasurementKind, Model
from models_registry.rates import LEAST_SECONDS, per_second
from vbs.database.outages import DATABASE_ERRORS

log = logging.getLogger(__name__)

T = TypeVar("T")

KEPT = 200  # measurements that are kept of one model and kind


class InFlight:
    """How many requests are in flight, and the seconds for which they are, summed over all of them."""

    def __init__(self) -> None:
        self.count = 0
        self._seconds, self._at = 0.0, 0.0

    def change(self, by: int, now: float) -> None:
        self._seconds, self._at = self.seconds(now), now
        self.count += by

    def seconds(self, now: float) -> float:
        return self._seconds + self.count * (now - self._at)


class Tally:
    """Counts the requests of a run on an engine. It takes the time whenever it is called.

    engine: what is in flight on the engine, where other tallies have requests there at the same time; it is the same
    for all of them. How long answers take then holds for a tally alone too; how many come in a second is only its share
    of what the engine does. By Little's law that share is its part of what is in flight.

    unlimited, unlimited_tokens: answered requests without a limit to their answers, and the tokens of these answers.
    at_once: the most that were in flight on the engine when one was sent or answered.
    """

    def __init__(self, engine: InFlight | None = None) -> None:
        self._own = InFlight()
        self._engine = engine or self._own
        self._before = self._own_seconds = self._engine_seconds = 0.0
        self.at_once = 0
        self.requests = self.failed = self.input_tokens = self.output_tokens = 0
        self.unlimited = self.unlimited_tokens = 0
        self._sent: dict[Any, float] = {}
        self._unlimited: set[Any] = set()  # of those in flight
        self._first: float | None = None
        self._last = 0.0
        self._latencies = array("d")

    def sent(self, key: Any, is_unlimited: bool = False) -> None:
        self._sent[key] = now = time.monotonic()
        if is_unlimited:
            self._unlimited.add(key)
        if self._first is None:
            self._first, self._before = now, self._engine.seconds(now)
        self._change(1, now)
        self.at_once = max(self.at_once, self._engine.count)

    def _change(self, by: int, now: float) -> None:
        self._own.change(by, now)
        if self._engine is not self._own:
            self._engine.change(by, now)

    def aborted(self, key: Any) -> None:
        """The request is not in flight any more, and has no answer."""
        if self._sent.pop(key, None) is not None:
            self._unlimited.discard(key)
            self._change(-1, time.monotonic())

    def answered(self, key: Any, well: bool, input_tokens: int = 0, output_tokens: int = 0) -> None:
        self._last = time.monotonic()
        self.input_tokens += input_tokens
        self.output_tokens += output_tokens
        self.at_once = max(self.at_once, self._engine.count)
        if key in self._sent:
            self._change(-1, self._last)
        sent = self._sent.pop(key, self._last)
        self._own_seconds = self._own.seconds(self._last)
        self._engine_seconds = self._engine.seconds(self._last) - self._before
        if key in self._unlimited:
            self._unlimited.remove(key)
            self.unlimited += well
            self.unlimited_tokens += output_tokens
        if well:
            self.requests += 1
            self._latencies.append(self._last - sent)
        else:
            self.failed += 1

    @property
    def seconds(self) -> float:
        """Seconds from the first request to the last answer so far."""
        return max(self._last - self._first, LEAST_SECONDS) if self._first is not None and self._last else 0.0

    @property
    def share(self) -> float:
        """The part of what was in flight on the engine that was of this tally, from its first request to its last
        answer; 1 where it was alone."""
        return min(1.0, self._own_seconds / self._engine_seconds) if self._engine_seconds else 1.0

    @property
    def rates(self) -> dict[str, float]:
        """Of answered requests and of tokens, so far."""
        names = ("requests", "input_tokens", "output_tokens")
        found = per_second(self.seconds, self.requests, self.input_tokens, self.output_tokens)
        return {f"{name}_per_second": rate for name, rate in zip(names, found, strict=True)}

    @property
    def oldest(self) -> float | None:
        """Seconds since the oldest request in flight was sent; None when none is."""
        first = next(iter(self._sent.values()), None)
        return None if first is None else time.monotonic() - first

    def fields(self) -> dict[str, Any]:
        """The counts as fields of a Measurement."""
        ordered = sorted(self._latencies)
        return {
            "requests": self.requests,
            "failed": self.failed,
            "input_tokens": self.input_tokens,
            "output_tokens": self.output_tokens,
            "seconds": self.seconds,
            "share": self.share,
            "at_once": self.at_once or None,
            "latency_p50": percentile(ordered, 50),
            "latency_p99": percentile(ordered, 99),
            "latency_mean": statistics.fmean(ordered) if ordered else None,
        }


def percentile(ordered: list[float], percent: int) -> float | None:
    """The smallest value that so many per cent of the values do not exceed."""
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)] if ordered else None


def record_load(model: Model, engine: Engine) -> None:
    """Record that a model was loaded or woken. Nothing is recorded for a remote server."""
    if engine.pid is not None:
        model, seconds = model.base or model, engine.started.seconds
        _keep(model, MeasurementKind.LOAD, lambda: {"load_seconds": seconds} | _sizes(model, engine))


def record_turn(model: Model, engine: Engine, tally: Tally, batch_id: str, endpoint: str) -> None:
    """Record a turn on the engine, if anything was answered: its requests for one model at one endpoint. batch_id:
    empty where they were of several batches."""
    if tally.requests:
        about: dict[str, Any] = {"batch_id": batch_id, "endpoint": endpoint, "options": engine.started.options}
        about |= {"unlimited": tally.unlimited, "unlimited_tokens": tally.unlimited_tokens}
        _keep(model, MeasurementKind.BATCH, lambda: about | tally.fields())


def record_benchmark(model: Model, engine: Engine, tally: Tally, **fields: Any) -> None:
    """Record a benchmark. fields: what else was measured, such as `load_seconds`."""
    _keep(model, MeasurementKind.BENCHMARK, lambda: _sizes(model.base or model, engine) | tally.fields() | fields)


def memory_taken(engine: Engine) -> int | None:
    """Bytes of memory that the engine uses; None where that is not known."""
    return _tried("the memory that it uses", lambda: memory.used_by(engine))


def _sizes(model: Model, engine: Engine) -> dict[str, Any]:
    predicted = _tried("the memory that it should use", lambda: _predicted(model, engine))
    return {"memory_bytes": memory_taken(engine), "predicted_bytes": predicted, "options": engine.started.options}


def _predicted(model: Model, engine: Engine) -> int | None:
    try:
        return judge.predicted(model, engine.started.options, engine.log)
    except ModelError:  # it does not run here, or its config lacks a value
        return None


def _keep(model: Model, kind: MeasurementKind, fields: Callable[[], dict[str, Any]]) -> None:
    def write() -> None:
        Measurement.objects.create(
            model=model, kind=kind, machine=identity.name(), versions=identity.versions(), **fields()
        )
        of_its_kind = Measurement.objects.filter(model=model, kind=kind)
        old = list(of_its_kind.order_by("-at", "-pk").values_list("pk", flat=True)[KEPT:])
        Measurement.objects.filter(pk__in=old).delete()

    _tried(f"{kind} of {model.name}", write)


def _tried(what: str, step: Callable[[], T]) -> T | None:
    try:
        return step()
    except DATABASE_ERRORS:
        connection.close()
        log.warning("Measurement: not kept, because the database cannot be reached: %s", what)
    except Exception:
        log.exception("Measurement: not kept, because of an unforeseen error: %s", what)
    return None
