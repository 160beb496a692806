"""A model's operations and measurements, as the parts of its page."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, cast

from django.db.models import QuerySet

from models_registry.api.wire import shown_reason
from models_registry.fit import formula
from models_registry.gpu.tuning import candidates
from models_registry.gpu.tuning.candidates import Tuning
from models_registry.models import (
    OPEN_OPERATIONS,
    READING,
    Measurement,
    MeasurementKind,
    Model,
    Operation,
    OperationKind,
    OperationState,
)
from models_registry.pages.models.rows import CHANGES
from vbs.pages.charts import series
from vbs.pages.parts import Part
from vbs.pages.viewer import Viewer
from vbs.pages.words import number

RECENT = 10  # operations on the page
DRAWN = 200  # runs, and loads, in the charts
LISTED = 10  # of them in the tables below
LOG = 20_000  # characters of an operation's log, its end
TRIED = ("requests/s", "tokens/s", "p50 s", "load s", "failed")

# The values of an operation's result, in the order of the page and with their units; the database keeps no order.
FACTS = {
    "seconds": ("took", " s"),
    "requests": ("requests", ""),
    "failed": ("failed", ""),
    "requests_per_second": ("requests/s", ""),
    "input_tokens": ("input tokens", ""),
    "input_tokens_per_second": ("input tokens/s", ""),
    "output_tokens": ("output tokens", ""),
    "output_tokens_per_second": ("output tokens/s", ""),
    "latency_p50": ("latency, p50", " s"),
    "latency_p99": ("latency, p99", " s"),
    "load_seconds": ("loading took", " s"),
    "first_token_seconds": ("to the first token", " s"),
    "memory_bytes": ("memory", ""),
    "less": ("less than asked for", ""),
}


def operations(model: Model, viewer: Viewer) -> Part:
    """The last operations, the newest first. Only operators see who asked, the log and the error, as on /v1."""
    rows: QuerySet[Operation] = model.operations.order_by("-id")[:RECENT]
    ran = [_ran(row, place == 0, viewer.may(CHANGES)) for place, row in enumerate(rows)]
    return Part("history", "models/_history.html", {}, ran)


def _ran(row: Operation, newest: bool, for_operator: bool) -> Part:
    """An operation with its log and its result. unfold: whether it is shown open."""
    is_open = row.state in OPEN_OPERATIONS
    result = dict(row.result or {})
    answer = _answer(result) if row.kind == OperationKind.TEST else ""
    context = {
        "operation": row,
        "is_open": is_open,
        "is_running": row.state == OperationState.RUNNING,
        "unfold": is_open or newest,
        "seconds": (row.finished_at - row.started_at).total_seconds() if row.finished_at and row.started_at else None,
        "error": shown_reason(row.error, for_operator),
        "facts": list(_facts(result)) if row.kind != OperationKind.TUNE else [],
    }
    if row.kind == OperationKind.TUNE and result:
        context |= _tuned(row, for_operator, is_open)
    if for_operator:
        question = row.options.get("prompt", "") if row.kind == OperationKind.TEST else ""
        context |= {"asked_by": row.asked_by, "log": row.log[-LOG:], "question": question, "answer": answer}
    return Part(row.pk, "models/_operation.html", context)


def _tuned(row: Operation, for_operator: bool, is_open: bool) -> dict[str, Any]:
    """The settings that were tried. can_keep: a button gives the model the fastest one."""
    tuning = cast(Tuning, row.result)
    tried = candidates.table(tuning)
    can_keep = bool(for_operator and tuning["best"] and not tuning["kept"] and not is_open)
    return {
        "tried": tried if for_operator else [replace(one, remark="") for one in tried],
        "columns": TRIED,
        "can_keep": can_keep,
        "kept": tuning["kept"],
    }


def _answer(result: dict[str, Any]) -> str:
    """The model's answer in a test's result: a text, a score, or the first values of an embedding."""
    for name in ("request", "question"):  # the prompt is shown by itself, to operators
        result.pop(name, None)
    response, answer = result.pop("response", None) or {}, result.pop("answer", None)
    if answer is not None:
        return str(answer)
    for one in response.get("data") or []:
        if "score" in one:
            return f"A score of {one['score']:.6g}"
        values = ", ".join(f"{value:.4f}" for value in one.get("embedding") or [])
        return f"{one.get('dimensions')} dimensions: {values} …"
    return ""


def _facts(result: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    """The values of a result. Values that FACTS does not know come last, under their own names."""
    for key in (*FACTS, *sorted(result.keys() - FACTS.keys())):
        name, unit = FACTS.get(key, (key.replace("_", " "), ""))
        if text := _value(key, result.get(key)):
            yield name, text + unit


def _value(key: str, value: Any) -> str:
    match value:
        case bool():
            return "yes" if value else "no"
        case int() if key.endswith("_bytes"):
            return formula.size(value)
        case int() | float():
            return number(value)
        case dict():
            return "; ".join(f"{name} {each}" for name, each in value.items())
        case list():
            return "; ".join(map(str, value))
    return "" if value is None else str(value)


RUNS = ("requests", "failed", "input tokens/s", "output tokens/s", "requests/s", "p50", "p99")
LOADS = ("took", "memory", "predicted memory")


def measurements(model: Model) -> Part:
    """A model's measurements as charts and tables: its runs, which are turns of batches and benchmarks, apart from its
    loads."""
    rows = model.measurements.defer("versions", "options")
    runs = list(rows.exclude(kind=MeasurementKind.LOAD)[:DRAWN])
    loads = list(rows.filter(kind=MeasurementKind.LOAD)[:DRAWN])
    groups = [
        _group("Runs", _drawn_runs(runs, model.task), RUNS, [(row, row.kind, _run(row)) for row in runs[:LISTED]]),
        _group("Loads", _drawn_loads(loads), LOADS, [(row, "", _load(row)) for row in loads[:LISTED]]),
    ]
    return Part("measured", "models/_measured.html", {"groups": [group for group in groups if group["rows"]]})


def _group(
    title: str, charts: Iterable[series.Chart | None], columns: tuple[str, ...], rows: list[Any]
) -> dict[str, Any]:
    return {"title": title, "charts": [chart for chart in charts if chart], "columns": columns, "rows": rows}


def _drawn_runs(rows: list[Measurement], task: str) -> Iterable[series.Chart | None]:
    kept, words = ("input_tokens", "Input") if task in READING else ("output_tokens", "Output")
    amounts = [series.Amount(row.at, getattr(row, kept), row.engine_seconds, row.kind) for row in rows]
    yield series.rates(f"{words} tokens per second", "tokens/s", amounts)


def _drawn_loads(rows: list[Measurement]) -> Iterable[series.Chart | None]:
    seconds = [series.Point(row.at, row.load_seconds, "load") for row in rows if row.load_seconds is not None]
    memory = [
        series.Point(row.at, taken / formula.GIB, kind)
        for kind, name in (("measured", "memory_bytes"), ("predicted", "predicted_bytes"))
        for row in rows
        if (taken := getattr(row, name))
    ]
    yield series.points("Seconds to load", "s", seconds)
    yield series.points("Memory taken, and what was predicted", "GiB", memory)


def _run(row: Measurement) -> tuple[str, ...]:
    def rate(count: int) -> str:
        return number(count / row.engine_seconds) if row.engine_seconds and row.requests else ""

    return (
        f"{row.requests:,}",
        f"{row.failed:,}",
        rate(row.input_tokens),
        rate(row.output_tokens),
        rate(row.requests),
        _seconds(row.latency_p50),
        _seconds(row.latency_p99),
    )


def _load(row: Measurement) -> tuple[str, ...]:
    return (
        _seconds(row.load_seconds),
        formula.size(row.memory_bytes) if row.memory_bytes else "",
        formula.size(row.predicted_bytes) if row.predicted_bytes else "",
    )


def _seconds(value: float | None) -> str:
    return f"{value:.2f} s" if value is not None else ""
