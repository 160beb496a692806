"""What the page of a new batch shows: the models to choose from, the result of a check, and samples."""

import csv
import io
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import orjson
from django.conf import settings
from django.core import signing

from batches.intake.records import record
from batches.intake.repair import CLIPPED, Checked, endpoint_of, is_table, remedy
from batches.intake.validate import LineError, Report
from batches.models import File
from models_registry.models import Alias, Model, ModelState, Task
from vbs.pages.plain import visible

SALT = "batches.new"


# Names


def ready_names() -> dict[str, str]:
    """Every name that a batch can use now, with its model's task; aliases first."""
    models = Model.objects.filter(state=ModelState.READY).values_list("name", "task")
    named = Alias.objects.filter(model__state=ModelState.READY).values_list("name", "model__task")
    return dict(named) | dict(models)


def model_choices() -> list[Any]:
    models = list(Model.objects.filter(state=ModelState.READY).values_list("name", "task"))
    named = Alias.objects.filter(model__state=ModelState.READY).values_list("name", "model__name")
    groups: list[Any] = [("", "As each line says")]
    if aliases := [(name, f"{name} → {model}") for name, model in named]:
        groups.append(("Aliases", aliases))
    if models:
        groups.append(("Models", [(name, f"{name} ({task})") for name, task in models]))
    return groups


# What was checked


def checked(found: Checked, typed: Mapping[int, str]) -> dict[str, Any]:
    """What the page shows of it. mends: the bad lines that can be typed anew, each with what has been typed or was
    there."""
    lines = [(one, typed.get(one.line, one.whole or "")) for one in found.mendable if one.line is not None]
    return {"result": found, "unit": "row" if is_table(found.file) else "line", "mends": lines}


class WholeReport(Report):
    """A report with every error."""

    def add(self, code: str, line: int | None, message: str, param: str | None = None) -> None:
        self.count += 1
        self.errors.append({"code": code, "line": line, "message": message, "param": param})


def report_json(errors: list[LineError]) -> Iterator[bytes]:
    for place, one in enumerate(errors):
        yield (b"[\n" if not place else b",\n") + orjson.dumps({**one, "remedy": remedy(one)})
    yield b"\n]\n" if errors else b"[]\n"


def report_csv(errors: list[LineError]) -> Iterator[bytes]:
    yield _csv("line", "code", "message", "remedy")
    for one in errors:
        message = visible(one["message"])[: 4 * CLIPPED]
        yield _csv(str(one["line"] or ""), one["code"], message, remedy(one))


def _csv(*fields: str) -> bytes:
    """A line of CSV whose cells a spreadsheet reads as text, even when they begin with `=`."""
    out = io.StringIO()
    csv.writer(out).writerow([f"'{one}" if one[:1] in ("=", "+", "-", "@", "\t", "\r") else one for one in fields])
    return out.getvalue().encode()


# What goes through the form: that a file was found right by us. Whose it is, its row says


def ready_token(file: File, endpoint: str, model: str) -> str:
    """A signed token that says which file was checked, for what, and when."""
    now = datetime.now(UTC).isoformat()
    return signing.dumps({"file": file.pk, "endpoint": endpoint, "model": model, "since": now}, salt=SALT)


def ready(token: str) -> dict[str, str]:
    """The content of a `ready_token`; empty when it is not valid."""
    try:
        found: dict[str, str] = signing.loads(token, salt=SALT)
    except signing.BadSignature:
        return {}
    return found


# Samples

QUESTIONS = ("Why is the sky blue?", "Name three rivers of Europe.", "What is a prime number?")
ANSWERS = ("Air scatters blue light most.", "The Danube, the Rhine and the Loire.")


def sample_model(chosen: str = "") -> tuple[str, str]:
    """A name and its task for samples: the chosen model, else one for chat, else any ready one."""
    names = ready_names()
    if chosen in names:
        return chosen, names[chosen]
    for name, task in names.items():
        if task == Task.CHAT:
            return name, task
    return next(iter(names.items()), ("the-name-of-a-model", Task.CHAT.value))


def sample_jsonl(model: str, task: str) -> bytes:
    endpoint = endpoint_of(task)

    def body(text: str) -> dict[str, Any]:
        if endpoint == "/v1/embeddings":
            return {"model": model, "input": text}
        if endpoint == "/v1/score":
            return {"model": model, "queries": text, "documents": list(ANSWERS)}
        content: dict[str, Any] = {"messages": [{"role": "user", "content": text}]}
        return {"model": model, **({"prompt": text} if endpoint == "/v1/completions" else content), "max_tokens": 100}

    lines = (
        {"custom_id": f"request-{number}", "method": "POST", "url": endpoint, "body": body(text)}
        for number, text in enumerate(QUESTIONS, 1)
    )
    return b"".join(map(record, lines))


def sample_csv(model: str, task: str) -> bytes:
    out = io.StringIO()
    writer = csv.writer(out)
    answers = orjson.dumps(ANSWERS).decode()
    columns, more = {
        Task.EMBEDDING.value: (("input",), ()),
        Task.SCORE.value: (("queries", "documents"), (answers,)),
    }.get(task, (("prompt", "max_tokens"), ("100",)))
    writer.writerow(["custom_id", "model", *columns])
    for number, text in enumerate(QUESTIONS, 1):
        writer.writerow([f"request-{number}", model, text, *more])
    return out.getvalue().encode()


def most_bytes() -> int:
    return settings.VBS_MAX_BATCH_MB * 2**20
