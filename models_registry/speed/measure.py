"""Writes down how fast models are and what they take, a Measurement each. To fail at that fails nothing else.

Knows nothing of who ran the requests: a `Tally` counts them for a batch's turn and for a benchmark alike.
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

KEPT = 200  # measurements of one model and kind


class Tally:
    """What a run of requests on an engine amounted to. Times are taken as they are told.

    unlimited, unlimited_tokens: of the answered, those whose answers had no limit, and what these wrote.
    """

    def __init__(self) -> None:
        self.requests = self.failed = self.input_tokens = self.output_tokens = 0
        self.unlimited = self.unlimited_tokens = 0
        self._sent: dict[Any, float] = {}
        self._unlimited: set[Any] = set()  # of those in flight
        self._first: float | None = None
        self._last = 0.0
        self._latencies = array("d")

    def sent(self, key: Any, is_unlimited: bool = False) -> None:
        self._sent[key] = time.monotonic()
        if is_unlimited:
            self._unlimited.add(key)
        if self._first is None:
            self._first = self._sent[key]

    def answered(self, key: Any, well: bool, input_tokens: int = 0, output_tokens: int = 0) -> None:
        self._last = time.monotonic()
        self.input_tokens += input_tokens
        self.output_tokens += output_tokens
        sent = self._sent.pop(key, self._last)
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
        """From the first request to the last answer so far."""
        return max(self._last - self._first, LEAST_SECONDS) if self._first is not None and self._last else 0.0

    @property
    def rates(self) -> dict[str, float]:
        """Of answered requests and of tokens, so far."""
        names = ("requests", "input_tokens", "output_tokens")
        found = per_second(self.seconds, self.requests, self.input_tokens, self.output_tokens)
        return {f"{name}_per_second": rate for name, rate in zip(names, found, strict=True)}

    @property
    def oldest(self) -> float | None:
        """Seconds since the oldest of those in flight was sent; None when there are none."""
        first = next(iter(self._sent.values()), None)
        return None if first is None else time.monotonic() - first

    def fields(self) -> dict[str, Any]:
        """Of a Measurement."""
        ordered = sorted(self._latencies)
        return {
            "requests": self.requests,
            "failed": self.failed,
            "input_tokens": self.input_tokens,
            "output_tokens": self.output_tokens,
            "seconds": self.seconds,
            "latency_p50": percentile(ordered, 50),
            "latency_p99": percentile(ordered, 99),
            "latency_mean": statistics.fmean(ordered) if ordered else None,
        }


def percentile(ordered: list[float], percent: int) -> float | None:
    """The smallest value that so many of the values do not exceed."""
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)] if ordered else None


def load(model: Model, engine: Engine) -> None:
    """A model, with or without adapters, was loaded or woken. Of a remote engine there is nothing to say."""
    if engine.pid is not None:
        model, seconds = model.base or model, engine.started.seconds
        _keep(model, MeasurementKind.LOAD, lambda: {"load_seconds": seconds} | _sizes(model, engine))


def turn(model: Model, engine: Engine, tally: Tally, batch_id: str, endpoint: str) -> None:
    """A batch leaves the engine, with work left or not."""
    if tally.requests:
        about: dict[str, Any] = {"batch_id": batch_id, "endpoint": endpoint, "options": engine.started.options}
        about |= {"unlimited": tally.unlimited, "unlimited_tokens": tally.unlimited_tokens}
        _keep(model, MeasurementKind.BATCH, lambda: about | tally.fields())


def benchmark(model: Model, engine: Engine, tally: Tally, **fields: Any) -> None:
    """fields: what else was measured, such as `load_seconds`."""
    _keep(model, MeasurementKind.BENCHMARK, lambda: _sizes(model.base or model, engine) | tally.fields() | fields)


def taken(engine: Engine) -> int | None:
    """Bytes that the engine has taken, where that can be said."""
    return _tried("what it has taken", lambda: memory.taken(engine))


def _sizes(model: Model, engine: Engine) -> dict[str, Any]:
    predicted = _tried("what it should take", lambda: _predicted(model, engine))
    return {"memory_bytes": taken(engine), "predicted_bytes": predicted, "options": engine.started.options}


def _predicted(model: Model, engine: Engine) -> int | None:
    try:
        return judge.predicted(model, engine.started.options, engine.log)
    except ModelError:  # nothing of it runs here, or its config does not say enough
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
        log.warning("Not measured, for the database is out of reach: %s", what)
    except Exception:
        log.exception("Not measured: %s", what)
    return None
