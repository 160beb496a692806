"""`manage.py model load|unload|test|benchmark|operations|cancel|measurements`: ask the GPU's worker, and follow it."""

import time
from collections.abc import Sequence
from typing import Any

from django.core.management.base import CommandError

from models_registry.catalog import aliases
from models_registry.catalog.folders import ModelError
from models_registry.cli import Console, as_json, positive, size
from models_registry.gpu import operations
from models_registry.models import OPEN_OPERATIONS, Measurement, Model, Operation, OperationKind, OperationState, Worker
from vbs.database.outages import insist
from vbs.logs import one_line

POLL_SECONDS = 0.4
SHOWN = 20  # rows of a table
NO_WORKER = "no GPU worker is alive: it waits until one runs (manage.py up)"

ABOUT = {
    OperationKind.LOAD: "load a model, so that the next request finds it there",
    OperationKind.UNLOAD: "free the GPU's memory of a model",
    OperationKind.TEST: "send a model one request, and show the answer",
    OperationKind.BENCHMARK: "measure a model: tokens and requests a second, latency, memory",
}


def add_to(actions: Any) -> None:
    parsers = {}
    for kind, words in ABOUT.items():
        parsers[kind] = parser = actions.add_parser(kind.value, help=words)
        parser.add_argument("name")
        parser.add_argument("--now", action="store_true", help="before every batch; one that runs makes room")
        parser.add_argument("--detach", action="store_true", help="do not follow it")
        parser.add_argument("--json", action="store_true", dest="json", help="as JSON")
        parser.set_defaults(run=_operate, kind=kind)
    test, benchmark = parsers[OperationKind.TEST], parsers[OperationKind.BENCHMARK]
    for parser in (test, benchmark):
        parser.add_argument("--max-tokens", type=positive, metavar="N", help="of an answer; 64")
    test.add_argument("--prompt", metavar="TEXT")
    test.add_argument("--temperature", type=float, metavar="T", help="0, where it always says the same, to 2")
    benchmark.add_argument("--requests", type=positive, metavar="N", help="100")
    benchmark.add_argument("--prompt-tokens", type=positive, metavar="N", help="of a request, about; 64")
    benchmark.add_argument("--seed", type=int, metavar="N", help="of the prompts' words")
    benchmark.add_argument("--cold", action="store_true", default=None, help="unload it first, to measure loading too")

    listed = actions.add_parser("operations", help="what was asked of models, the newest first")
    listed.add_argument("name", nargs="?", help="only of this model")
    listed.add_argument("--open", action="store_true", help="only those that wait or run")
    listed.add_argument("--json", action="store_true", dest="json", help="as JSON, all of them")
    listed.set_defaults(run=_operations)

    cancel = actions.add_parser("cancel", help="end a load, unload, test or benchmark, whether it waits or runs")
    cancel.add_argument("operation", metavar="OP_ID")
    cancel.set_defaults(run=_cancel)

    measurements = actions.add_parser("measurements", help="how fast a model was, and what it took")
    measurements.add_argument("name")
    measurements.add_argument("--json", action="store_true", dest="json", help="as JSON, all of them")
    measurements.set_defaults(run=_measurements)


def _operate(
    console: Console, *, kind: OperationKind, name: str, now: bool, detach: bool, json: bool, **given: Any
) -> None:
    known = operations.OPTIONS[kind]
    options = {option: given[option] for option in known if given.get(option) is not None}
    operation = operations.ask(kind, _find(name), options, now=now, asked_by="manage.py")
    if not _worker_is_alive():
        console.progress(NO_WORKER)
    if not detach:
        console.progress(f"{operation.pk}: {kind} {name}")
        _follow(console, operation)
    if json:
        console.say(as_json(_described(operation)))
    elif detach:
        console.say(operation.pk)
    elif operation.state == OperationState.SUCCEEDED:
        _tell(console, operation)
    if operation.state in (OperationState.FAILED, OperationState.CANCELLED):
        raise CommandError(one_line(f"{operation.pk} {operation.state}: {operation.error}".removesuffix(": ")))


def _find(name: str) -> Model:
    if (model := aliases.resolve(name)) is None:
        raise ModelError(f"there is no model {name!r}: 'manage.py model list' names those there are")
    return model


def _worker_is_alive() -> bool:
    return Worker.objects.alive().filter(cluster="gpu").exists()


def _follow(console: Console, operation: Operation) -> None:
    """Until it has ended; the instance is fresh then. What it says goes to standard error."""
    last = ""
    try:
        while True:
            insist(operation.refresh_from_db)
            for line in new_lines(operation.log, last):
                console.progress(one_line(line))
                last = line
            if operation.state not in OPEN_OPERATIONS:
                return
            time.sleep(POLL_SECONDS)
    except Operation.DoesNotExist:
        raise CommandError(f"{operation.pk} is gone: its model was removed") from None
    except KeyboardInterrupt:
        message = f"not followed any more; it goes on. To end it: manage.py model cancel {operation.pk}"
        raise CommandError(message, returncode=130) from None


def new_lines(log: str, last: str) -> list[str]:
    """Whole lines behind the last one that was shown; all of them, when that has gone from the log's beginning."""
    whole = log[: log.rfind("\n") + 1]
    start = whole.rfind(f"{last}\n") if last else -1
    return whole[start + len(last) + 1 if start >= 0 else 0 :].splitlines()


def _tell(console: Console, operation: Operation) -> None:
    result = dict(operation.result or {})
    if operation.kind == OperationKind.TEST:
        answer = result["answer"]
        console.say(_lines(answer) if answer is not None else as_json(result["response"]))
        return
    for name, value in result.items():
        if value is not None and value not in ({}, []):
            console.say(f"  {name.removesuffix('_bytes').replace('_', ' '):<26}{_value(name, value)}")


def _lines(text: str) -> str:
    return "\n".join(map(one_line, text.splitlines()))


def _value(name: str, value: Any) -> str:
    if name.endswith("_bytes"):
        return size(value)
    return f"{value:,.3f}" if isinstance(value, float) else one_line(str(value))


def _cancel(console: Console, *, operation: str, **_: Any) -> None:
    found = Operation.objects.filter(pk=operation).first()
    if found is None:
        raise ModelError(f"there is no operation {operation!r}: 'manage.py model operations' names those there are")
    if not operations.cancel(found):
        raise ModelError(f"{found.pk} has ended already ({found.state})")
    console.say(f"{found.pk} is cancelled")


def _measurements(console: Console, *, name: str, json: bool, **_: Any) -> None:
    rows = _find(name).measurements.order_by("-at", "-pk")
    if json:
        console.say(as_json([_measured(row) for row in rows]))
        return
    found = list(rows[:SHOWN])
    if not found:
        console.progress(f"{name} was never measured: try 'manage.py model benchmark {name}'")
        return
    titles = ["at", "kind", "requests", "failed", "req/s", "in/s", "out/s", "p50 s", "p99 s", "load s", "memory"]
    _table(console, [titles, *map(_row, found)], left=2)


def _operations(console: Console, *, name: str | None, open: bool, json: bool, **_: Any) -> None:
    rows = Operation.objects.select_related("model").order_by("-created_at", "-pk")
    if name is not None:
        rows = rows.filter(model=_find(name))
    if open:
        rows = rows.filter(state__in=OPEN_OPERATIONS)
    if json:
        console.say(as_json([_described(row) for row in rows]))
        return
    found = list(rows.defer("log")[:SHOWN])
    if not found:
        console.progress("there are no such operations: load, unload, test and benchmark each make one")
        return
    _table(console, [["id", "kind", "model", "state", "asked by", "at", "what came of it"], *map(_line, found)], left=7)


def _line(one: Operation) -> list[str]:
    words = [one.pk, one.kind, one.model.name, one.state, one.asked_by, f"{one.created_at:%Y-%m-%d %H:%M:%S}"]
    return [*map(one_line, words), one_line(one.error.partition("\n")[0])[:100]]


def _table(console: Console, rows: Sequence[Sequence[str]], left: int) -> None:
    """left: how many columns are of words; numbers stand on the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row[:left], widths, strict=False)]
        cells += [cell.rjust(width) for cell, width in zip(row[left:], widths[left:], strict=True)]
        console.say("  ".join(cells).rstrip())


def _row(one: Measurement) -> list[str]:
    def rate(count: int) -> str:
        return f"{count / one.seconds:,.1f}" if one.seconds else "-"

    def seconds(number: float | None) -> str:
        return f"{number:.2f}" if number is not None else "-"

    return [
        f"{one.at:%Y-%m-%d %H:%M:%S}",
        one.kind,
        *(f"{number:,}" if one.seconds else "-" for number in (one.requests, one.failed)),
        *map(rate, (one.requests, one.input_tokens, one.output_tokens)),
        *map(seconds, (one.latency_p50, one.latency_p99, one.load_seconds)),
        size(one.memory_bytes),
    ]


def _measured(one: Measurement) -> dict[str, Any]:
    names = [field.name for field in Measurement._meta.fields if field.name not in ("id", "model", "at")]
    return {"at": one.at.isoformat()} | {name: getattr(one, name) for name in names}


def _described(operation: Operation) -> dict[str, Any]:
    names = ("kind", "state", "priority", "options", "result", "error", "log")
    made: dict[str, Any] = {"id": operation.pk, "model": operation.model.name}
    made |= {name: getattr(operation, name) for name in names}
    for name in ("created_at", "started_at", "finished_at"):
        at = getattr(operation, name)
        made[name] = at.isoformat() if at else None
    return made
