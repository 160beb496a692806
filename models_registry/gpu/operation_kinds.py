"""What each kind of operation does in its turn (load, unload, test, benchmark, tune), and operations as a workload."""

import time
import uuid
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Any

from models_registry.gpu import benchmark, operations
from models_registry.gpu.lane import Lane
from models_registry.gpu.operation_turn import OperationFailed, OperationTurn
from models_registry.gpu.tuning.tune import tune
from models_registry.gpu.window import in_flight, limits, shortfall
from models_registry.models import Operation, OperationKind, OperationState, Worker
from models_registry.speed import measurements
from models_registry.workloads import Work, Workload
from vbs.logs import bind
from vbs.pages.viewer import Viewer

PATIENCE = 120.0  # seconds that a request may wait for a remote server which is away, or busy
MOST_ANSWER = 2**20  # bytes of a test's answer
SHOWN_VALUES = 8  # values of an embedding that are stored


class OperationsWorkload(Workload):
    """Operations as work for the GPU. They belong to no project."""

    kind = "operation"

    def waiting(self, loaded: str, lane: str = "") -> list[Work]:
        found = operations.runnable_in(lane).select_related("model__base").defer("log", "result")
        rows = list(found[: operations.MOST_OPEN])
        unloads = not lane and any(row.kind == OperationKind.UNLOAD for row in rows)
        elsewhere = _loaded_elsewhere(loaded) if unloads else set()
        works = [self._work(row, lane) for row in rows]
        return [work for work in works if work.model not in elsewhere or not work.frees or work.only_worker]

    def _work(self, row: Operation, lane: str) -> Work:
        engine = row.model.base or row.model
        frees = row.kind == OperationKind.UNLOAD
        about: dict[str, Any] = {"frees": frees, "only_worker": row.worker, "lane": lane}
        about["asked"] = () if frees else (row.model.name,)
        return Work(self, row.pk, engine.name, row.priority, row.created_at, **about)

    def run(self, work: Work, gpu: Lane) -> None:
        gpu.held.add(work.id)
        operation = operations.claim(work.id, gpu.worker.pk)
        if operation is None:
            return
        with bind(operation_id=operation.pk):
            OperationTurn(operation, work, gpu).run(KINDS[OperationKind(operation.kind)])

    def release(self, worker: uuid.UUID, ids: Collection[str] | None = None) -> None:
        operations.release_all(worker, ids)

    def interrupts(self, worker: Worker, viewer: Viewer) -> list[str]:
        running = Operation.objects.filter(state=OperationState.RUNNING).of(worker.pk).select_related("model")
        return [
            f"It runs {row.kind} of {row.model.name}, which "
            + ("goes on" if row.kind == OperationKind.TUNE else "begins again")
            + " afterwards."
            for row in running
        ]

    def sees(self, viewer: Viewer, work_id: str) -> bool:
        return True

    def held(self, worker: Worker, viewer: Viewer) -> list[str]:
        return [worker.work_id]


def _loaded_elsewhere(loaded: str) -> set[str]:
    """The models that other workers have loaded and this one has not; the other worker unloads them."""
    alive = Worker.objects.alive().filter(cluster="gpu")
    return set(alive.values_list("model_name", flat=True)) - {loaded, ""}


# What each kind does. Each function returns the result, and raises LoadError, OperationFailed, OperationStopped.


def _load(turn: OperationTurn) -> dict[str, Any]:
    before = turn.gpu.engine
    engine = turn.load()
    start, new = engine.started, engine is not before
    turn.stay(turn.options.get("keep_seconds", 0))
    return {
        "seconds": start.seconds if new else 0.0,
        "memory_bytes": measurements.memory_taken(engine),
        "less": start.reduced,
        "woken": new and start.woken,
    }


def _unload(turn: OperationTurn) -> dict[str, Any]:
    unloaded = turn.gpu.unload(turn.model)
    turn.say(f"{turn.model.name} is unloaded." if unloaded else f"{turn.model.name} was not loaded.")
    return {"unloaded": unloaded}


def _test(turn: OperationTurn) -> dict[str, Any]:
    model = turn.model
    path, given = benchmark.body(model, **turn.options)
    engine = turn.load()
    turn.part_done("waiting for the answer", 0.1)
    began = time.monotonic()
    call = benchmark.call(0, model, path, given)
    answer = turn.drive(benchmark.one(engine, call, replace(limits(), patience=PATIENCE)))
    seconds = time.monotonic() - began
    turn.say(f"Answered in {seconds:.2f} s.")
    if len(answer.body) > MOST_ANSWER:
        raise OperationFailed(
            f"the answer has {len(answer.body):,} bytes, of which none are kept: ask for fewer tokens"
        )
    if error := benchmark.failure(answer):
        raise OperationFailed(error)
    response = _shown(benchmark.parsed(answer)) | {"model": model.name}
    answers = {"question": turn.options["prompt"], "answer": _said(response)}
    return {"request": given, "response": response, "seconds": seconds} | answers


def _benchmark(turn: OperationTurn) -> dict[str, Any]:
    turn.makes_room = True
    model, options, gpu = turn.model, turn.options, turn.gpu
    began = time.monotonic()
    if options["cold"] and gpu.unload(model.base or model):
        turn.say(f"Unloaded {(model.base or model).name}, to load it cold.")
    before = gpu.engine
    engine = turn.load()
    # An answer of one token comes with its first token, so nothing has to be streamed to measure that.
    path, given = benchmark.body(model, "Hello")
    first = turn.drive(benchmark.one(engine, benchmark.call(0, model, path, given), limits()))
    if error := benchmark.failure(first):
        raise OperationFailed(error)
    loading: dict[str, Any] = {"load_seconds": None, "first_token_seconds": None}
    if engine is not before and engine.pid is not None:
        loading = {"load_seconds": engine.started.seconds, "first_token_seconds": time.monotonic() - began}
    tally, errors = measurements.Tally(), list[str]()
    count = options["requests"]

    def report() -> None:
        rates = tally.rates
        speeds = f"{rates['requests_per_second']:.1f}/s, {rates['output_tokens_per_second']:,.0f} output tokens/s"
        done = tally.requests + tally.failed
        turn.say(f"{done:,} of {count:,} requests, {speeds}")
        turn.part_done(f"{done:,} of {count:,} requests", done / count)

    window = in_flight(engine)
    if words := shortfall(engine, window):
        turn.say(words)
    most = replace(limits(), patience=PATIENCE)
    sending = benchmark.many(engine, benchmark.calls(model, options), most, window, tally, errors)
    turn.drive(sending, report)
    report()
    if not tally.requests:
        raise OperationFailed(f"every request failed: {errors[0]}")
    measurements.record_benchmark(model, engine, tally, **loading)
    return (
        tally.fields() | tally.rates | loading | {"memory_bytes": measurements.memory_taken(engine), "errors": errors}
    )


def _shown(value: Any) -> Any:
    """The value as the database can hold it. Of an embedding only the first values are kept, and their number."""
    if isinstance(value, str):
        return value.replace("\0", "\N{REPLACEMENT CHARACTER}")
    if isinstance(value, list):
        return [_shown(one) for one in value]
    if not isinstance(value, dict):
        return value
    made = {_shown(name): _shown(one) for name, one in value.items() if name != "embedding"}
    if isinstance(vector := value.get("embedding"), list):
        made |= {"embedding": vector[:SHOWN_VALUES], "dimensions": len(vector)}
    return made


def _said(response: dict[str, Any]) -> str | None:
    """The text of the first choice, if there is one."""
    try:
        choice = response["choices"][0]
        return str(choice["text"] if "text" in choice else choice["message"]["content"])
    except (KeyError, IndexError, TypeError):
        return None


KINDS: dict[OperationKind, Callable[[OperationTurn], dict[str, Any]]] = {
    OperationKind.LOAD: _load,
    OperationKind.UNLOAD: _unload,
    OperationKind.TEST: _test,
    OperationKind.BENCHMARK: _benchmark,
    OperationKind.TUNE: tune,
}
