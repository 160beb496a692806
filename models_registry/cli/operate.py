"""`manage.py model load|unload|test|benchmark|tune|keep|operations|cancel|measurements`: queues an operation, and
follows it."""

import time
from typing import Any, cast

from django.core.management.base import CommandError

from models_registry.api.operations_wire import MeasurementObject, OperationObject
from models_registry.cli import Console, as_json, iso, moment, positive, size
from models_registry.cli.remote import Registry, patiently
from models_registry.gpu.tuning import candidates
from models_registry.gpu.tuning.candidates import Tuning
from models_registry.models import OperationKind
from vbs.cli.remote import RemoteError
from vbs.cli.terminal import aligned
from vbs.logs import one_line
from vbs.places import PROGRAM

POLL_SECONDS = 0.4
SHOWN = 20  # rows of a table, by default
NO_WORKER = f"no gpu worker runs, so this waits: '{PROGRAM} up' on the server starts one"
OPTIONS = (
    *("prompt", "max_tokens", "temperature", "requests", "prompt_tokens", "seed", "cold"),
    *("file", "minutes", "keep"),
)
NOT_MEASURED = ("id", "object", "model", "at")  # fields of a measurement that the table shows in another form

ABOUT = {
    OperationKind.LOAD: "load a model",
    OperationKind.UNLOAD: "unload a model, and free its memory on the GPU",
    OperationKind.TEST: "send a model one request, and show the answer",
    OperationKind.BENCHMARK: "measure a model: tokens and requests per second, latency, memory",
    OperationKind.TUNE: "try engine options, and find the fastest ones for a model",
}


def add_to(actions: Any) -> None:
    parsers = {}
    for kind, words in ABOUT.items():
        parsers[kind] = parser = actions.add_parser(kind.value, help=words)
        parser.add_argument("name")
        parser.add_argument(
            "--now", action="store_true", help="run before all batches, and interrupt the one that runs"
        )
        parser.add_argument("--detach", action="store_true", help="return at once")
        parser.add_argument("--json", action="store_true", dest="json", help="as JSON")
        parser.set_defaults(run=_operate, kind=kind)
    measuring = (OperationKind.TEST, OperationKind.BENCHMARK, OperationKind.TUNE)
    test, benchmark, tune = map(parsers.__getitem__, measuring)
    for parser in (test, benchmark, tune):
        parser.add_argument(
            "--max-tokens", type=positive, metavar="N", help="the longest answer, in tokens (default: 64)"
        )
    test.add_argument("--prompt", metavar="TEXT", help="what to ask")
    test.add_argument("--temperature", type=float, metavar="T", help="0 (the same answer every time) to 2")
    benchmark.add_argument("--requests", type=positive, metavar="N", help="how many requests (default: 100)")
    tune.add_argument(
        "--requests", type=positive, metavar="N", help="how many requests for each setting (default: 200)"
    )
    for parser in (benchmark, tune):
        parser.add_argument(
            "--prompt-tokens", type=positive, metavar="N", help="about how long a prompt is, in tokens (default: 64)"
        )
        parser.add_argument(
            "--seed", type=int, metavar="N", help="another seed gives other prompts, or other lines of the file"
        )
    tune.add_argument("--file", metavar="FILE_ID", help="send requests of this uploaded batch file, not synthetic ones")
    tune.add_argument("--minutes", type=positive, metavar="N", help="how long it may take (default: 20)")
    tune.add_argument("--keep", action="store_true", default=None, help="keep the fastest setting at the end")
    benchmark.add_argument(
        "--cold", action="store_true", default=None, help="unload the model first, to measure its load too"
    )

    keep = actions.add_parser("keep", help="keep the fastest setting that 'tune' has found")
    keep.add_argument("operation", metavar="OP_ID")
    keep.set_defaults(run=_keep)

    listed = actions.add_parser("operations", help="list the operations, the newest first")
    listed.add_argument("name", nargs="?", help="only this model's")
    listed.add_argument("--open", action="store_true", help="only operations that wait or run")
    listed.add_argument("--json", action="store_true", dest="json", help="as JSON, all of them")
    listed.set_defaults(run=_operations)

    cancel = actions.add_parser("cancel", help="cancel an operation that waits or runs")
    cancel.add_argument("operation", metavar="OP_ID")
    cancel.set_defaults(run=_cancel)

    measurements = actions.add_parser("measurements", help="list how fast a model was, and how much memory it took")
    measurements.add_argument("name")
    measurements.add_argument("--json", action="store_true", dest="json", help="as JSON, all of them")
    measurements.set_defaults(run=_measurements)


def _operate(
    console: Console, registry: Registry, *, kind: str, name: str, now: bool, detach: bool, json: bool, **given: Any
) -> None:
    options = {option: given[option] for option in OPTIONS if given.get(option) is not None}
    operation = registry.operate(kind, registry.own_name(name), options, now)
    if not registry.has_worker("gpu"):
        console.progress(NO_WORKER)
    if not detach:
        console.progress(f"{operation['id']}: {kind} {name}")
        operation = _follow(console, registry, operation["id"])
    if json:
        console.say(as_json(_described(operation)))
    elif detach:
        console.say(operation["id"])
    elif operation["state"] == "succeeded":
        _tell(console, operation)
    if operation["state"] in ("failed", "cancelled"):
        words = f"{operation['id']} {operation['state']}: {operation['error'] or ''}"
        raise CommandError(one_line(words.removesuffix(": ")))


def _follow(console: Console, registry: Registry, operation_id: str) -> OperationObject:
    """The operation at its end. Its log goes to standard error."""
    last = ""
    try:
        while True:
            operation = patiently(lambda: registry.operation(operation_id))
            for line in new_lines(operation["log"] or "", last):
                console.progress(one_line(line))
                last = line
            if operation["state"] not in ("queued", "running"):
                return operation
            time.sleep(POLL_SECONDS)
    except RemoteError as error:
        if error.code == "operation_not_found":
            raise CommandError(f"{operation_id} is gone: its model was removed") from None
        raise
    except KeyboardInterrupt:
        message = f"The operation continues. To cancel it: {console.command('cancel', operation_id)}"
        raise CommandError(message, returncode=130) from None


def new_lines(log: str, last: str) -> list[str]:
    """The whole lines after the last one that was shown; all lines when that one was cut off the log."""
    whole = log[: log.rfind("\n") + 1]
    start = whole.rfind(f"{last}\n") if last else -1
    return whole[start + len(last) + 1 if start >= 0 else 0 :].splitlines()


def _tell(console: Console, operation: OperationObject) -> None:
    result = dict(operation["result"] or {})
    if operation["kind"] == "test":
        answer = result["answer"]
        console.say(_lines(answer) if answer is not None else as_json(result["response"]))
        return
    if operation["kind"] == "tune":
        _tell_tuning(console, operation)
        return
    for name, value in result.items():
        if value is not None and value not in ({}, []):
            console.say(f"  {name.removesuffix('_bytes').replace('_', ' '):<26}{_value(name, value)}")


def _tell_tuning(console: Console, operation: OperationObject) -> None:
    tuning = cast(Tuning, operation["result"])
    titles = ["", "setting", "req/s", "tokens/s", "p50 s", "load s", "failed", "result"]
    console.say(aligned([titles, *map(_words, candidates.table(tuning))], right=frozenset(range(2, 7))))
    if tuning["best"] and not tuning["kept"]:
        console.say(f"To keep the fastest: {console.command('keep', operation['id'])}")


def _words(row: candidates.Row) -> list[str]:
    return ["*" if row.is_best else "", row.setting, *row.numbers, one_line(row.remark)[:100]]


def _keep(console: Console, registry: Registry, *, operation: str, **_: Any) -> None:
    done = registry.keep(operation)
    console.say(f"{done['model']} now has the setting: {candidates.words(cast(Tuning, done['result'])['best'])}")


def _lines(text: str) -> str:
    return "\n".join(map(one_line, text.splitlines()))


def _value(name: str, value: Any) -> str:
    if name.endswith("_bytes"):
        return size(value)
    return f"{value:,.3f}" if isinstance(value, float) else one_line(str(value))


def _cancel(console: Console, registry: Registry, *, operation: str, **_: Any) -> None:
    console.say(f"{registry.cancel(operation)['id']} is cancelled")


def _measurements(console: Console, registry: Registry, *, name: str, json: bool, **_: Any) -> None:
    own_name = registry.own_name(name)
    if json:
        console.say(as_json([_measured(row) for row in registry.measurements(own_name)]))
        return
    found = list(registry.measurements(own_name, SHOWN))
    if not found:
        console.progress(f"{name} has no measurements yet: {console.command('benchmark', name)} measures it")
        return
    titles = ["at", "kind", "requests", "failed", "req/s", "in/s", "out/s", "p50 s", "p99 s", "load s", "memory"]
    console.say(aligned([titles, *map(_row, found)], right=frozenset(range(2, len(titles)))))


def _operations(console: Console, registry: Registry, *, name: str | None, open: bool, json: bool, **_: Any) -> None:
    chosen = {"state": "open"} if open else {}
    if name is not None:
        chosen["model"] = registry.own_name(name)
    if json:
        console.say(as_json([_described(row) for row in registry.operations(chosen | {"log": "true"})]))
        return
    found = list(registry.operations(chosen, SHOWN))
    if not found:
        console.progress("there are no such operations: load, unload, test, benchmark and tune each make one")
        return
    titles = ["id", "kind", "model", "state", "asked by", "at", "result"]
    console.say(aligned([titles, *map(_line, found)]))


def _line(one: OperationObject) -> list[str]:
    words = [one["id"], one["kind"], one["model"], one["state"], one["asked_by"] or ""]
    return [*words, moment(one["created_at"]), one_line((one["error"] or "").partition("\n")[0])[:100]]


def _row(one: MeasurementObject) -> list[str]:
    def rate(count: int) -> str:
        # A server of an earlier version has no shares.
        return f"{count / one['seconds'] / one.get('share', 1):,.1f}" if one["seconds"] else "-"

    def seconds(number: float | None) -> str:
        return f"{number:.2f}" if number is not None else "-"

    return [
        moment(one["at"]),
        one["kind"],
        *(f"{number:,}" if one["seconds"] else "-" for number in (one["requests"], one["failed"])),
        *map(rate, (one["requests"], one["input_tokens"], one["output_tokens"])),
        *map(seconds, (one["latency_p50"], one["latency_p99"], one["load_seconds"])),
        size(one["memory_bytes"]),
    ]


def _measured(one: MeasurementObject) -> dict[str, Any]:
    return {"at": iso(one["at"])} | {key: value for key, value in one.items() if key not in NOT_MEASURED}


def _described(operation: OperationObject) -> dict[str, Any]:
    names = ("id", "model", "kind", "state", "priority", "options", "result")
    told: dict[str, Any] = {**operation}
    made = {name: told[name] for name in names} | {name: told[name] or "" for name in ("error", "log")}
    return made | {name: iso(told[name]) for name in ("created_at", "started_at", "finished_at")}
